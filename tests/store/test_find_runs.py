"""Which runs of a store a name or a pattern means, and what the message says if none."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lpp.store import Run, open_store
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.run_names import Plans, find_run, matching_runs

ONE, TWO, DAMAGED = "one-11111111", "one-pruned-twice-22222222", "one-33333333"


@pytest.fixture
def plans(capture: Any) -> Plans:
    """A run, one of the same model changed twice, and one whose plan is unreadable."""
    model = capture.plan.model
    one = replace(capture.plan, model=replace(model, id="lab/One"))
    two = replace(capture.plan, model=replace(model, id="lab/One, pruned, twice"))
    return {ONE: one, TWO: two, DAMAGED: None}


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["one*"], [ONE, TWO, DAMAGED]),
        (["all"], [ONE, TWO, DAMAGED]),
        (["ONE"], [ONE]),
        (["*twice"], [TWO]),
        (["pruned, twice"], [TWO]),
        (["One, pruned, twice"], [TWO]),
        (["pruned*", "One"], [ONE, TWO]),
        (["one-1", "prun"], [ONE, TWO]),
        ([DAMAGED], [DAMAGED]),
    ],
)
def test_patterns_match_ids_or_else_names(
    plans: Plans, patterns: list[str], found: list[str]
) -> None:
    assert matching_runs(patterns, plans) == found


def test_a_pattern_that_matches_no_run(plans: Plans) -> None:
    with pytest.raises(InputError, match="'twice' names no run") as caught:
        matching_runs(["twice"], plans)
    assert caught.value.kind is ErrorKind.NOT_FOUND
    assert f"no readable plan: {DAMAGED}" in str(caught.value)
    with pytest.raises(InputError, match="no runs yet"):
        matching_runs(["one"], {})


def test_one_run_is_found_by_id_or_name_or_their_beginning(plans: Plans) -> None:
    found = {"One": ONE, ONE: ONE, "one-1": ONE, "Pruned": TWO, "one-3": DAMAGED}
    assert {name: find_run(name, plans, "here") for name in found} == found
    assert all(matching_runs([name], plans) == [run] for name, run in found.items())
    assert find_run("one", plans, "here") == ONE  # a whole name, though three ids begin with it


def test_the_beginning_of_several_runs_names_none(plans: Plans) -> None:
    with pytest.raises(InputError, match="here: 'on' names 3 runs"):
        find_run("on", plans, "here")
    with pytest.raises(InputError, match="RUN: 'on' names 3 runs") as caught:
        matching_runs(["on"], plans)
    assert caught.value.kind is ErrorKind.NOT_FOUND


def test_a_store_finds_a_run_by_its_name(run: Run, root: Path) -> None:
    store = open_store(root)
    assert store.run(store.names[run.id].upper()).id == run.id
    assert store.run(run.id[:-4]).id == run.id
    with pytest.raises(InputError, match="'nobody' names no run") as caught:
        store.run("nobody")
    assert caught.value.kind is ErrorKind.NOT_FOUND
