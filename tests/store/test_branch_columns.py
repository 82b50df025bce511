"""Columns of branches and continuations made by hand: read as the plan has them, or refused."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from on_disk import on_disk
from sealed import reseal
from stored import object_path
from written_run import write_run

from lpp.store import Run, open_store
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.tables import encode_table

GOLDEN = Path(__file__).parent / "golden"


def with_column(run: Run, path: Path, name: str, values: list[int | None]) -> Run:
    """The run with other values of a column, sealed again."""
    table = run.prompts(*run.extra_columns.names)
    place = table.schema.get_field_index(name)
    field = table.schema.field(place)
    table = table.set_column(place, field, pa.array(values, field.type))
    object_path(path, "prompts.arrow").write_bytes(encode_table(table))
    reseal(path)
    return Run(path)


@pytest.mark.parametrize(
    "given", [[0, 2, 2], [3, 2, 2], [2, -1, 2], [2, 2, 9], [1, 2, 2], [None, 2, 2]]
)
def test_given_tokens_that_do_not_fit_are_refused(tmp_path: Path, given: list[int | None]) -> None:
    made = write_run(tmp_path / "store", shards=[[3, 4], [4]], given=[2, 2, 2])
    assert made.run.prompts("n_given")["n_given"].to_pylist() == [2, 2, 2]
    changed = with_column(made.run, made.path, "n_given", given)
    with pytest.raises(FormatError, match=r"n_given|tokens|written_logprob") as caught:
        changed.prompts("n_given")
    assert caught.value.kind is ErrorKind.CORRUPT
    assert changed.prompts().num_rows == 3  # nothing that reads them asks


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("branch_of", [None, 1]),
        ("branch_of", [1, 0]),
        ("branch_of", [None, 1_000_000]),
        ("branch_of", [None, -5]),
        ("branch_of", [None, None]),
        ("branch_at", [None, 2]),
        ("branch_at", [None, 1_000_000]),
        ("branch_at", [None, 0]),
        ("branch_at", [None, None]),
    ],
)
def test_branches_that_are_not_the_plans_are_refused(
    tmp_path: Path, name: str, values: list[int | None]
) -> None:
    shutil.copytree(GOLDEN / "v4", tmp_path / "store")
    (run,) = open_store(tmp_path / "store").runs.values()
    changed = with_column(run, on_disk(run.path), name, values)
    for read in (lambda: changed.branches, lambda: changed.prompts(name)):
        with pytest.raises(FormatError, match="branch") as caught:
            read()
        assert caught.value.kind is ErrorKind.CORRUPT


def test_columns_come_in_the_order_that_was_asked_for(tmp_path: Path) -> None:
    run = write_run(tmp_path / "store", shards=[[3, 4], [4]], given=[2, 2, 2]).run
    for asked in (["written_logprob", "n_given"], ["n_given"], ["written_logprob"]):
        assert run.prompts(*asked).schema.names[6:] == asked
