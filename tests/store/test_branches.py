"""Prompts that branch off others: what the format allows, and what a reader refuses."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_capture import Capture

from lpp.store import RunWriter, create_store, open_store
from lpp.store.format.rows import branches_sha256, prompts_problems


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
