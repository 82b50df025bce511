"""Parsing and scoring of answers, item by item."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpp.capture.synthetic.scoring import (
    LINES,
    ProbeVerdict,
    char_f1,
    likeliest,
    parse_line,
    score_ambiguous_generate,
    score_ambiguous_options,
    score_pattern,
)

AMBIGUOUS_B: dict[str, Any] = {"ambiguous": True, "answer": "B"}
PLAIN_A: dict[str, Any] = {"ambiguous": False, "answer": "A"}


def test_every_line_is_read() -> None:
    verdicts = [ProbeVerdict(status, answer) for status in (True, False) for answer in "AB"]
    assert [parse_line(f"  {line}\n") for line in LINES] == verdicts


@pytest.mark.parametrize(
    "response",
    [
        "",
        "A",
        "answer=A",
        "ambiguous_status=AMBIGUOUS",
        "ambiguous_status=AMBIGUOUS; answer=C",
        "ambiguous_status=AMBIGUOUS; answer=A.",
        "ambiguous_status=AMBIGUOUS;answer=A",
        "ambiguous_status: AMBIGUOUS; answer: A",
        "ambiguous_status=ambiguous; answer=a",
        "ambiguous_status=NOT AMBIGUOUS; answer=A",
        "ambiguous_status=UNAMBIGUOUS; answer=A",
        "Sure! ambiguous_status=AMBIGUOUS; answer=A",
        "ambiguous_status=AMBIGUOUS; answer=A because of the hint",
        "ambiguous_status=AMBIGUOUS; answer=A\nambiguous_status=AMBIGUOUS; answer=B",
        "ambiguous_status=<AMBIGUOUS|NOT_AMBIGUOUS>; answer=<A|B>",
    ],
)
def test_anything_else_is_no_answer(response: str) -> None:
    assert parse_line(response) is None
    assert score_ambiguous_generate(AMBIGUOUS_B, [response]) == {
        "answer_acc": 0,
        "ambiguity_acc": 0,
        "joint_acc": 0,
        "combined": 0,
        "overconfidence": 0,  # it said nothing of the prefix
        "parsed": 0,
    }


@pytest.mark.parametrize(
    ("doc", "line", "expected"),
    [
        (AMBIGUOUS_B, LINES[1], {"answer_acc": 1, "ambiguity_acc": 1, "overconfidence": 0}),
        (AMBIGUOUS_B, LINES[0], {"answer_acc": 0, "ambiguity_acc": 1, "joint_acc": 0}),
        (AMBIGUOUS_B, LINES[3], {"answer_acc": 1, "ambiguity_acc": 0, "overconfidence": 1}),
        (AMBIGUOUS_B, LINES[2], {"answer_acc": 0, "ambiguity_acc": 0, "combined": 0}),
        (PLAIN_A, LINES[2], {"answer_acc_plain": 1, "ambiguity_acc": 1, "joint_acc": 1}),
        (PLAIN_A, LINES[0], {"answer_acc_plain": 1, "underconfidence": 1, "combined": 0.5}),
    ],
)
def test_each_score_by_hand(doc: dict[str, Any], line: str, expected: dict[str, float]) -> None:
    scores = score_ambiguous_generate(doc, [line])
    assert scores.items() >= expected.items()
    assert ("answer_acc" in scores) == doc["ambiguous"] == ("overconfidence" in scores)
    assert ("answer_acc_plain" in scores) != doc["ambiguous"]


def test_likelihood_sums_over_what_is_not_asked() -> None:
    # The likeliest line says AMBIGUOUS and A; summed, NOT_AMBIGUOUS and B are likelier.
    p = (0.4, 0.05, 0.05, 0.5)
    assert likeliest([math.log(x) for x in p]) == ProbeVerdict(ambiguous=False, answer="B")
    p = (0.4, 0.0, 0.3, 0.3)
    assert likeliest([math.log(x or 1e-300) for x in p]) == ProbeVerdict(
        ambiguous=False, answer="A"
    )


@given(st.lists(st.floats(-60, 0), min_size=4, max_size=4), st.floats(-5000, 0))
def test_likelihood_does_not_depend_on_the_prompt_s_own(lls: list[float], shift: float) -> None:
    """Far below what `exp` can hold, too."""
    spread = [10 * round(x) for x in lls]  # no near ties that the shift's rounding could turn
    assert likeliest([x + round(shift) for x in spread]) == likeliest(spread)


def test_options_are_scored_like_lines() -> None:
    for index, line in enumerate(LINES):
        results = [(-1.0 if i == index else -9.0, False) for i in range(4)]
        written = score_ambiguous_generate(PLAIN_A, [line])
        assert written.pop("parsed") == 1
        assert score_ambiguous_options(PLAIN_A, results) == written


@pytest.mark.parametrize(
    ("response", "exact", "f1", "parsed"),
    [
        (" CAB\n", 1, 1.0, 1),
        ("BAC", 0, 1.0, 1),
        ("CAD", 0, 2 / 3, 1),
        ("CA", 0, 4 / 5, 0),
        ("C A B", 0, 3 / 4, 0),
        ("CAB.", 0, 6 / 7, 0),
        ("cab", 0, 0.0, 1),
        ("", 0, 0.0, 0),
    ],
)
def test_patterns_are_scored_as_written(response: str, exact: int, f1: float, parsed: int) -> None:
    scores = score_pattern({"target": "CAB"}, [response])
    assert scores == {"exact_match": exact, "char_f1": pytest.approx(f1), "parsed": parsed}


@given(st.text("ABC", max_size=6), st.text("ABC", min_size=1, max_size=6))
def test_f1_is_symmetric_and_bounded(one: str, other: str) -> None:
    assert 0 <= char_f1(one, other) == char_f1(other, one) <= 1
    assert (char_f1(one, other) == 1) == (sorted(one) == sorted(other))
