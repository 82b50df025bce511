"""The ambiguous reasoning items: balance, and nothing that gives the answer away."""

from collections import Counter
from typing import Any

import pytest

from lpp.capture.synthetic.items import read_items

ITEMS = read_items("ar")
TEST, SHOTS = ITEMS["test"], ITEMS["shots"]


def answer(item: dict[str, Any]) -> str:
    """The option that the hint supports."""
    return str(item["option_a" if item["answer"] == "A" else "option_b"])


def test_there_are_enough_scenes_of_enough_kinds() -> None:
    kinds = Counter(kind for _, kind in {(item["scene"], item["kind"]) for item in TEST})
    assert len(kinds) == 10
    assert set(kinds.values()) == {4}


def test_no_sentence_stands_for_two_readings() -> None:
    told: dict[tuple[str, bool], set[tuple[int, str]]] = {}
    for item in (*TEST, *SHOTS):
        told.setdefault((item["hint"], True), set()).add((item["scene"], answer(item)))
        if not item["ambiguous"]:
            told.setdefault((item["prefix"], False), set()).add((item["scene"], answer(item)))
        assert item["option_a"] != item["option_b"]
        for text in (item["prefix"], item["hint"]):
            assert text.endswith(".")
            assert "  " not in text
    assert {len(readings) for readings in told.values()} == {1}


def test_a_scene_has_each_reading_with_each_prefix_once() -> None:
    cells = Counter((item["scene"], item["ambiguous"], answer(item)) for item in TEST)
    assert len(TEST) == len(cells) == 160
    assert set(cells.values()) == {1}
    hints = {(item["scene"], answer(item), item["hint"]) for item in TEST}
    prefixes = {(item["scene"], item["prefix"]) for item in TEST}
    assert (len(hints), len(prefixes)) == (80, 120)  # one for both; one for each reading


def test_gold_is_balanced_and_follows_from_nothing_but_the_hint() -> None:
    golds = Counter((item["ambiguous"], item["answer"]) for item in TEST)
    assert set(golds.values()) == {40}
    of_prefix = Counter(
        (item["prefix"], item["option_a"], item["answer"]) for item in TEST if item["ambiguous"]
    )
    assert set(of_prefix.values()) == {1}  # with one order of options, either answer is right once
    assert len(of_prefix) == 80


@pytest.mark.parametrize("n", range(4, 161, 4))
def test_the_first_items_are_balanced_too(n: int) -> None:
    first = TEST[:n]
    assert sum(item["ambiguous"] for item in first) == n // 2
    assert len({item["scene"] for item in first}) == min(n, 40)
    assert sum(item["answer"] == "A" for item in first) == n / 2
    assert sum(item["answer"] == "A" for item in first if item["ambiguous"]) == n / 4


def test_shots_are_of_other_scenes_and_show_every_answer() -> None:
    assert len(SHOTS) == 10
    assert not {item["scene"] for item in SHOTS} & {item["scene"] for item in TEST}
    seen = Counter((item["ambiguous"], item["answer"]) for item in SHOTS)
    assert sorted(seen.values()) == [2, 2, 3, 3]
    assert {item["ambiguous"] for item in SHOTS[:2]} == {True, False}
