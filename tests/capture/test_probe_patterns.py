"""The pattern items: their answer is the only one, by a search that knows no shortcut."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import pytest

from lpp.capture.synthetic.items import read_items

K = 3
ITEMS = read_items("spc")
SHOTS, TEST = ITEMS["shots"], ITEMS["test"]
ALPHABETS = ("ABCDEFGHIJKL", "0123456789", "()[]{}")


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


@pytest.mark.slow
def test_the_answer_is_the_only_one() -> None:
    for item in (*SHOTS, *TEST):
        alphabet = next(a for a in ALPHABETS if set(item["shown"]) <= set(a))
        assert searched(item["shown"], alphabet) == {item["target"]}, item


@pytest.mark.parametrize("item", [*SHOTS, *TEST], ids=lambda item: item["shown"])
def test_an_item_is_of_its_family_and_no_copy_is_right(item: dict[str, Any]) -> None:
    shown, target = item["shown"], item["target"]
    assert RULES[item["family"]](shown + target, len(shown))
    assert target not in {shown[:K], shown[-K:], shown[-1] * K}


def test_families_are_balanced_from_the_first_items_on() -> None:
    for n in range(5, 101, 5):
        assert Counter(item["family"] for item in TEST[:n]) == dict.fromkeys(RULES, n // 5)
    assert Counter(item["family"] for item in SHOTS) == dict.fromkeys(RULES, 2)


def test_no_question_is_asked_twice_or_shown_before() -> None:
    sequences = [item["shown"] + item["target"] for item in (*SHOTS, *TEST)]
    for i, one in enumerate(sequences):
        for other in sequences[i + 1 :]:
            assert not one.startswith(other)
            assert not other.startswith(one)
