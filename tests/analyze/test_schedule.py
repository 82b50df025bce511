import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpp.analyze.schedule import edges, prefixes


def test_the_published_schedules() -> None:
    assert prefixes(150) == (15, 30, 45, 60, 75, 90, 105, 120, 135, 150)
    assert prefixes(50) == (5, 10, 15, 20, 25, 30, 35, 40, 45, 50)


def test_halves_round_up() -> None:
    assert prefixes(25) == (3, 5, 8, 10, 13, 15, 18, 20, 23, 25)


def test_short_contexts_repeat_nothing_and_start_at_one() -> None:
    assert prefixes(1) == (1,)
    assert prefixes(3) == (1, 2, 3)


def test_no_context_without_tokens() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        prefixes(0)


@given(st.integers(1, 5000))
def test_ascending_and_ending_at_the_context(context: int) -> None:
    schedule = prefixes(context)
    assert list(schedule) == sorted(set(schedule))
    assert schedule[0] >= 1
    assert schedule[-1] == context
    assert len(schedule) == min(10, len(schedule))


def test_edges_are_the_union() -> None:
    assert edges([*prefixes(20), *prefixes(30)]) == (
        *(2, 3, 4, 6, 8, 9, 10, 12, 14, 15, 16, 18, 20, 21, 24, 27, 30),
    )
