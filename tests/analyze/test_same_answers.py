"""The comparison of two releases asks everything of a store, and finds what differs."""

import math
import sys
from pathlib import Path

import pytest
from evaluated_items import evaluated_run
from made_runs import MakeRun

from benchmarks.same_answers import answers, commands, differences


def test_differences_are_named_by_place_and_size() -> None:
    old = {"a": [{"x": 1.0, "y": None}, {"x": math.nan, "y": "s"}], "gone": 1, "seconds": 1}
    new = {"a": [{"x": 1.0 + 1e-12, "y": 2}, {"x": math.nan, "y": "s"}], "seconds": 2}
    assert dict(differences(old, new)) == {
        ".a.x": "numbers, by less than 1e-11 of their size",
        ".a.y": "'None' in the old, '2' in the new",
        ".gone": "only in the old",
    }
    assert dict(differences([1, 2], [1])) == {"": "2 rows in the old, 1 in the new"}


@pytest.mark.slow
def test_items_of_an_evaluation_are_asked_for(make_run: MakeRun) -> None:
    made = evaluated_run(make_run)
    words = [" ".join(command) for command in commands(made.root)]
    asked = f"lpp-analyze items STORE {made.made.run_id} --task tiny_task"
    assert asked in words
    found = answers(Path(sys.executable).parent, made.root)
    assert found.codes[asked] == 0
    assert found.documents[asked]["tables"]["item_features"]
    assert found.tables["item_features"]
