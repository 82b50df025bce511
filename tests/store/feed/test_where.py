"""Names in `where`: fields and values by token have prefixes, so that none hides a column."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from small_capture import make_capture

from lpp.store import Run
from lpp.store.errors import InputError
from lpp.store.feed import prompts, rows
from lpp.store.format.rows import branches_sha256
from lpp.store.format.tables import STATISTICS

LENGTHS = (3, 5, 4, 6)
NAMES = ("length", "sink", "position", "n_tokens", "entropy", "prompt_id", "token_id", "only")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Four prompts, whose fields have the names of columns; a value by token is called so too."""
    made = make_capture(LENGTHS, (0, 2, 4))
    table = made.prompts
    for name in (*NAMES, "own name"):
        table = table.append_column(f"field.{name}", pa.array([10, 20, 30, 40]))
    marks = pa.array([[t == 1 for t in range(n)] for n in LENGTHS], pa.list_(pa.bool_()))
    token_columns = ("token.mark", "token.sink")
    for name in token_columns:
        table = table.append_column(name, marks)
    names = replace(made.plan.prompts, token_columns=token_columns)
    plan = replace(made.plan, prompts=names)
    return replace(made, plan=plan, prompts=table).write(tmp_path_factory.mktemp("where") / "store")


def kept(run: Run, where: str | None) -> list[int]:
    feed: Any = rows(run, "final", where=where, like="numpy")
    return sorted(k for _ in feed for k in feed.ids.tolist())


PROMPT = np.repeat(np.arange(4), LENGTHS)
POSITION = np.concatenate([np.arange(n) for n in LENGTHS])


@pytest.mark.parametrize("name", [*NAMES, '"own name"'])
def test_a_field_of_any_name(run: Run, name: str) -> None:
    expected = np.flatnonzero(PROMPT >= 2).tolist()
    for where in (f"field.{name} >= 30", f"30 <= field.{name} and 'field.x' <> 'row.y'"):
        assert kept(run, where) == expected
        batches = prompts(run, "final", where=where, like="numpy")
        assert sorted(k for b in batches for k in b.prompt_ids) == [2, 3]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("row.position >= 2", POSITION >= 2),
        ("row.position >= 2 and field.position > 20", (POSITION >= 2) & (PROMPT > 1)),
        ("row.n_tokens = 5", PROMPT == 1),
        ("row.prompt_id = 3 and only = 40", PROMPT == 3),
        ("row.length >= 0", POSITION >= 0),
        ("token.mark", POSITION == 1),
        ("mark and not token.sink or row.position = 0", POSITION == 0),
        ('"field.only" = 10', PROMPT == 0),
        ("row.token_id >= 0 and row.entropy is not null", POSITION >= 0),
    ],
)
def test_each_column_has_a_spelling(run: Run, where: str, expected: Any) -> None:
    assert kept(run, where) == np.flatnonzero(expected).tolist()


@pytest.mark.parametrize("name", ["length", "sink", "position", "n_tokens", "entropy", "prompt_id"])
def test_a_name_of_two_columns_is_refused_with_both(run: Run, name: str) -> None:
    with pytest.raises(InputError) as refused:
        kept(run, f"{name} >= 2")
    spellings = {f"row.{name}", f"field.{name}"} | ({"token.sink"} if name == "sink" else set())
    assert all(spelling in str(refused.value) for spelling in spellings)


@pytest.mark.parametrize("where", ["field.none = 1", "row.none = 1", "nothing", "fields.x = 1"])
def test_an_unknown_name_is_answered_with_all_names(run: Run, where: str) -> None:
    with pytest.raises(InputError) as refused:
        kept(run, where)
    every = ("position", "entropy", "median_length", "token.mark", "field.only", *STATISTICS)
    assert all(name in str(refused.value) for name in every)
    with pytest.raises(InputError) as refused:
        prompts(run, "final", where="row.entropy < 1")
    assert "field.only" in str(refused.value)


@pytest.mark.parametrize("where", [None, "position >= 1", "row.n_tokens >= 0"])
def test_branches_of_an_evaluation_are_left_out(tmp_path: Path, where: str | None) -> None:
    """They continue another prompt: their rows are of answers."""
    made = make_capture(LENGTHS, (0, 4), context=12, prefixes=(12,))
    table = made.prompts
    for name, values in (("branch_of", [None, 0, None, 2]), ("branch_at", [None, 2, None, 1])):
        table = table.append_column(name, pa.array(values, pa.int32()))
    digest = branches_sha256(table)
    plan = replace(made.plan, prompts=replace(made.plan.prompts, branches=digest))
    run = replace(made, plan=plan, prompts=table).write(tmp_path / "store")
    no_branch = (PROMPT % 2 == 0) & ((POSITION >= 1) | (where != "position >= 1"))
    assert kept(run, where) == np.flatnonzero(no_branch).tolist()
    if where != "position >= 1":
        condition = where and "n_tokens >= 0"
        batches = prompts(run, "final", like="numpy", where=condition)
        assert sorted(k for b in batches for k in b.prompt_ids) == [0, 2]
