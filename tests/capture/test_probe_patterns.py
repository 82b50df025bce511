"""The pattern items: their answer is the only one, by a search that knows no shortcut."""

from collections.abc import Callable
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpp.capture.synthetic.patterns import (
    DIGITS,
    LETTERS,
    PatternItem,
    alternating,
    brackets,
    continuations,
    increment,
    mirror,
    pattern_items,
    periodic,
)

K = 3
SEEDS = (0, 5)
SHOTS, TEST = pattern_items(0)
ALPHABETS = (LETTERS, DIGITS, "()[]{}")


def repeats(s: str, n: int) -> bool:
    return any(all(s[i] == s[i % p] for i in range(len(s))) for p in range(1, n) if 2 * p <= n)


def takes_turns(s: str, n: int) -> bool:
    for run in range(1, n):
        one, other = s[0], s[run]
        turns = (symbol == (other if i // run % 2 else one) for i, symbol in enumerate(s))
        if 4 * run <= n and one != other and all(turns):
            return True
    return False


def mirrors(s: str, n: int) -> bool:
    """Whether `s` is the beginning of a palindrome whose centre lies three or more before n."""
    for twice_centre in range(1, 2 * n):  # the mean of two places that mirror each other, doubled
        past = sum(1 for i in range(n) if 2 * i > twice_centre)
        whole = twice_centre + 1 >= len(s)
        pairs = [(i, twice_centre - i) for i in range(len(s)) if 0 <= twice_centre - i < len(s)]
        if past >= 3 and whole and all(s[i] == s[j] for i, j in pairs):
            return True
    return False


def closes(s: str, n: int) -> bool:
    while True:
        shorter = s.replace("()", "").replace("[]", "").replace("{}", "")
        if shorter == s:
            return s == ""
        s = shorter


def counts(s: str, n: int) -> bool:
    if not s.isdigit() or n < 4:
        return False
    steps = {(int(y) - int(x)) % 10 for x, y in pairwise(s)}
    return len(steps) == 1 and steps != {0}


RULES: dict[str, Callable[[str, int], bool]] = {
    "periodic": repeats,
    "alternating": takes_turns,
    "mirror": mirrors,
    "brackets": closes,
    "increment": counts,
}


def searched(shown: str, alphabet: str) -> set[str]:
    """Every continuation that any rule allows, out of all that can be written."""
    n = len(shown)
    # What has lost a rule does not find it again; only brackets may still close.
    rules = [rule for rule in RULES.values() if rule is closes or rule(shown, n)]
    answers = map("".join, product(alphabet, repeat=K))
    return {answer for answer in answers if any(rule(shown + answer, n) for rule in rules)}


def alphabet_of(item: PatternItem) -> str:
    return next(a for a in ALPHABETS if set(item.shown) <= set(a))


@pytest.mark.slow
def test_the_answer_is_the_only_one() -> None:
    for item in (*SHOTS, *TEST, *pattern_items(5)[1][:10]):
        assert searched(item.shown, alphabet_of(item)) == {item.target}, item


@pytest.mark.parametrize("item", TEST[:20], ids=lambda item: item.shown)
def test_an_item_is_of_its_family(item: PatternItem) -> None:
    assert RULES[item.family](item.shown + item.target, len(item.shown))


@given(st.text("ABC", min_size=4, max_size=12))
def test_continuations_are_what_a_search_finds(shown: str) -> None:
    assert continuations(shown) == searched(shown, "ABC")


@given(st.text("()[", min_size=1, max_size=9))
def test_brackets_are_what_a_search_finds(shown: str) -> None:
    found = {a for a in map("".join, product("()[]", repeat=K)) if closes(shown + a, 0)}
    owed = list(brackets(shown))
    # With three open, closing them is all that can be done; with one, there are other ways.
    assert owed == (sorted(found) if owed else [])


@pytest.mark.parametrize(
    ("family", "shown", "answers"),
    [
        (periodic, "ABCABCA", ["BCA"]),
        (periodic, "ABCAB", []),  # not two whole blocks
        (periodic, "AAAA", ["AAA", "AAA"]),
        (alternating, "ABABA", ["BAB"]),
        (alternating, "AABBA", []),
        (alternating, "AAAA", []),
        (mirror, "ABCDEFFED", ["CBA"]),
        (mirror, "ABCDEFGFED", ["CBA"]),
        (mirror, "ABCDEFFE", []),  # two mirrored
        (mirror, "XABCDDCB", []),  # two symbols are left of it, three asked for
        (brackets, "((", []),
        (brackets, "{([", ["])}"]),
        (brackets, "([)", []),
        (increment, "8901", ["234"]),
        (increment, "901", []),
        (increment, "7777", []),
        (increment, "1A23", []),
    ],
)
def test_families_by_hand(
    family: Callable[[str], list[str]], shown: str, answers: list[str]
) -> None:
    assert list(family(shown)) == answers


@pytest.mark.parametrize("seed", SEEDS)
def test_no_copy_is_right(seed: int) -> None:
    for item in pattern_items(seed)[1]:
        assert item.target not in {item.shown[:K], item.shown[-K:], item.shown[-1] * K}


@pytest.mark.parametrize("seed", SEEDS)
def test_no_question_is_asked_twice_or_shown_before(seed: int) -> None:
    shots, test = pattern_items(seed)
    sequences = [item.shown + item.target for item in (*shots, *test)]
    for i, one in enumerate(sequences):
        for other in sequences[i + 1 :]:
            assert not one.startswith(other)
            assert not other.startswith(one)
