"""Prompts that branch off others: what the format allows, and what a reader refuses."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from on_disk import on_disk
from sealed import reseal
from small_capture import Capture
from stored import object_path
from written_run import write_run

from lpp.store import Run, RunWriter, create_store, open_store
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.rows import branches_sha256, prompts_problems
from lpp.store.format.tables import encode_table


def branching(prompts: pa.Table, of: list[int | None], at: list[int | None]) -> pa.Table:
    for name, values in (("branch_of", of), ("branch_at", at)):
        prompts = prompts.append_column(name, pa.array(values, pa.int32()))
    return prompts


def test_the_plan_names_every_branch(capture: Capture) -> None:
    of, at = [None, 0, None, 2], [None, 1, None, 2]
    prompts = branching(capture.prompts, of, at)
    pairs = np.array([[-1, 0], [0, 1], [-1, 0], [2, 2]], "<i4")
    assert branches_sha256(prompts) == hashlib.sha256(pairs.tobytes()).hexdigest()
    assert branches_sha256(capture.prompts) is None
    assert branches_sha256(branching(capture.prompts, [None] * 4, [None] * 4)) is None


@pytest.mark.parametrize(
    ("of", "at", "problem"),
    [
        ([None, 0, None, 2], [None, 1, None, 2], ""),
        ([None, 1, None, None], [None, 1, None, None], "an earlier prompt"),
        ([None, 2, None, None], [None, 1, None, None], "an earlier prompt"),
        ([None, 0, 1, None], [None, 1, 1, None], "no branch itself"),
        ([None, 0, None, None], [None, 0, None, None], "branch_at should be 1 to"),
        ([None, 0, None, None], [None, 99, None, None], "branch_at should be 1 to"),
        ([None, 0, None, None], [None, None, None, None], "both be null, or neither"),
    ],
)
def test_what_branches_must_be(
    capture: Capture, of: list[int | None], at: list[int | None], problem: str
) -> None:
    prompts = branching(capture.prompts, of, at)
    counts = replace(capture.plan.prompts, branches=branches_sha256(prompts))
    longest = 2 * capture.plan.context
    plan = replace(capture.plan, prompts=counts, context=longest, prefixes=(longest,))
    found = prompts_problems(prompts, plan)
    assert (problem in "".join(found)) if problem else found == []


def test_columns_and_plan_go_together(capture: Capture) -> None:
    prompts = branching(capture.prompts, [None, 0, None, None], [None, 1, None, None])
    counts = replace(capture.plan.prompts, branches=branches_sha256(prompts))
    plan = replace(capture.plan, prompts=counts)
    assert "no branches" in "".join(prompts_problems(prompts, capture.plan))
    assert "should be" in "".join(prompts_problems(capture.prompts, plan))
    other = branching(capture.prompts, [None, None, 0, None], [None, None, 1, None])
    assert "those of the plan" in "".join(prompts_problems(other, plan))
    longest = capture.prompts["n_tokens"].to_pylist()[1]
    assert "before it should have" in "".join(
        prompts_problems(prompts, replace(plan, context=longest))
    )


def test_a_run_with_branches_is_of_format_4(capture: Capture, tmp_path: Path) -> None:
    prompts = branching(capture.prompts, [None, 0, None, None], [None, 1, None, None])
    counts = replace(capture.plan.prompts, branches=branches_sha256(prompts))
    context = capture.plan.context + 1
    plan = replace(capture.plan, prompts=counts, context=context, prefixes=(context,))
    root = create_store(tmp_path / "store").path
    assert RunWriter(root, plan, prompts).run.commit.format == 4
    assert RunWriter(root, capture.plan, capture.prompts).run.commit.format == 3
    found = {run.commit.format: run.branch_of.tolist() for run in open_store(root).runs.values()}
    assert found == {4: [-1, 0, -1, -1], 3: [-1, -1, -1, -1]}


def test_a_plan_without_branches_is_believed_without_the_prompts(
    capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = capture.write(tmp_path / "store")
    monkeypatch.setattr(type(run), "prompts", None)
    of, at = run.branches
    assert (of.tolist(), at.tolist()) == ([-1] * 4, [0] * 4)


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
