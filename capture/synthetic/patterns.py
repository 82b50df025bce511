"""Items of the symbolic pattern completion probe: which three symbols come next?

After the probe of the same name in arXiv 2605.30018: five families of rules, three symbols to give.
Every item has exactly one answer. A family *shows* in a prefix when the prefix holds the evidence
named in the docstring of its function below; there is one answer when all rules of all families
that show continue the prefix in the same way. The answer is neither the first nor the last three
symbols: after whole periods, copying the beginning would be right without any insight.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

ANSWER_LENGTH: Final = 3
"""Symbols of an answer, as in the paper."""

LETTERS: Final = "ABCDEFGHIJKL"
DIGITS: Final = "0123456789"
BRACKETS: Final = {"(": ")", "[": "]", "{": "}"}

MIRRORED: Final = 3
"""Symbols past the centre that show a mirror; fewer occur by chance."""

PER_FAMILY: Final = 20
SHOTS_PER_FAMILY: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternItem:
    """One question of the probe."""

    family: str
    shown: str
    target: str
    """The symbols that follow `shown`."""


def periodic(shown: str) -> Iterator[str]:
    """A block of symbols repeats. Shows when two whole blocks do.

    Two periods that both show agree on what follows: Fine and Wilf (1965).

    >>> list(periodic("ABCDABCDA"))
    ['BCD']
    """
    for period in range(1, len(shown) // 2 + 1):
        if all(x == y for x, y in zip(shown, shown[period:], strict=False)):
            yield _extended(shown, period)


def alternating(shown: str) -> Iterator[str]:
    """Two symbols take turns, each as often as the other. Shows when each has had two turns.

    >>> list(alternating("AABBAABBAA"))
    ['BBA']
    """
    for run in range(1, len(shown) // 4 + 1):
        first, second = shown[0], shown[run]
        if first != second and shown == _turns(first, second, run, len(shown)):
            yield _extended(shown, 2 * run)


def mirror(shown: str) -> Iterator[str]:
    """The sequence reads the same backwards. Shows when `MIRRORED` symbols past its centre do.

    >>> list(mirror("ABCDEFGHIIHG"))
    ['FED']
    """
    n = len(shown)
    for length in range(n + ANSWER_LENGTH, 2 * (n - MIRRORED) + 1):
        if all(shown[i] == shown[length - 1 - i] for i in range(length - n, n)):
            yield "".join(shown[length - 1 - n - j] for j in range(ANSWER_LENGTH))


def brackets(shown: str) -> Iterator[str]:
    """Every bracket is closed, the last one by the last symbol of the answer.

    Shows when `ANSWER_LENGTH` brackets are open.

    >>> list(brackets("[](([{}"))
    [']))']
    """
    owed: list[str] = []
    for symbol in shown:
        if symbol in BRACKETS:
            owed.append(BRACKETS[symbol])
        elif not owed or owed.pop() != symbol:
            return
    if len(owed) == ANSWER_LENGTH:
        yield "".join(reversed(owed))


def increment(shown: str) -> Iterator[str]:
    """Digits grow by a fixed step, and count on from 0 after 9. Shows in four of them.

    >>> list(increment("1470369"))
    ['258']
    """
    if len(shown) < 4 or not set(shown) <= set(DIGITS):
        return
    digits = [int(symbol) for symbol in shown]
    step = (digits[1] - digits[0]) % 10
    if step and all((y - x) % 10 == step for x, y in pairwise(digits)):
        yield "".join(str((digits[-1] + step * j) % 10) for j in range(1, ANSWER_LENGTH + 1))


FAMILIES: Final[dict[str, Callable[[str], Iterator[str]]]] = {
    "periodic": periodic,
    "alternating": alternating,
    "mirror": mirror,
    "brackets": brackets,
    "increment": increment,
}


def continuations(shown: str) -> set[str]:
    """Every continuation of `shown` by a rule that shows in it; one where the answer is unique."""
    return {answer for family in FAMILIES.values() for answer in family(shown)}


def pattern_items(seed: int) -> tuple[list[PatternItem], list[PatternItem]]:
    """(shots, test items) of the seed, without repeated sequences.

    Any five items in a row have each family once, so the first n items are balanced too.
    """
    rng = random.Random(seed)
    drawn: dict[str, list[PatternItem]] = {family: [] for family in FAMILIES}
    seen: set[str] = set()
    for family, items in drawn.items():
        while len(items) < PER_FAMILY + SHOTS_PER_FAMILY:
            shown = _DRAWS[family](rng)
            rule = _rule(family, shown)
            if rule not in seen and (target := _only_answer(shown)):
                seen.add(rule)
                items.append(PatternItem(family=family, shown=shown, target=target))
    shots = _in_turn([items[:SHOTS_PER_FAMILY] for items in drawn.values()], rng)
    return shots, _in_turn([items[SHOTS_PER_FAMILY:] for items in drawn.values()], rng)


def _only_answer(shown: str) -> str | None:
    """The only continuation; None where there are several, or where copying gives it."""
    answers = continuations(shown)
    copies = {shown[:ANSWER_LENGTH], shown[-ANSWER_LENGTH:], shown[-1] * ANSWER_LENGTH}
    return answers.pop() if len(answers) == 1 and not answers & copies else None


def _rule(family: str, shown: str) -> str:
    """Identifies the question of an item: the symbols of its rule, however many are shown."""
    lengths = {"alternating": 6, "increment": 6, "periodic": 9, "mirror": 9}
    return f"{family} {shown[: lengths.get(family, len(shown))]}"


def _in_turn(columns: Sequence[list[PatternItem]], rng: random.Random) -> list[PatternItem]:
    rows = [list(row) for row in zip(*columns, strict=True)]
    for row in rows:
        rng.shuffle(row)
    return [item for row in rows for item in row]


def _draw_periodic(rng: random.Random) -> str:
    period, n = rng.choice([(4, 9), (4, 10), (4, 11), (5, 12), (5, 13), (6, 14), (6, 15), (6, 16)])
    block = "".join(rng.sample(LETTERS, period))
    return (block * n)[:n]


def _draw_alternating(rng: random.Random) -> str:
    run, n = rng.choice([(1, 7), (1, 9), (1, 11), (2, 10), (2, 14), (3, 13), (3, 14)])
    first, second = rng.sample(LETTERS, 2)
    return _turns(first, second, run, n)


def _draw_mirror(rng: random.Random) -> str:
    half = "".join(rng.sample(LETTERS, 10))
    back = half[::-1] if rng.random() < 0.5 else half[-2::-1]  # the centre doubled, or once
    return half + back[:MIRRORED]


def _draw_brackets(rng: random.Random) -> str:
    """A walk of 7 to 11 steps that ends with three open, of two kinds or more."""
    while True:
        shown, owed = "", list[str]()
        for _ in range(rng.choice([7, 9, 11])):
            if owed and rng.random() < 0.4:
                shown += owed.pop()
            else:
                opened = rng.choice(list(BRACKETS))
                shown += opened
                owed.append(BRACKETS[opened])
        if len(owed) == ANSWER_LENGTH and len(set(owed)) > 1:
            return shown


def _draw_increment(rng: random.Random) -> str:
    start, step = rng.randrange(10), rng.choice([1, 2, 3, 4, 6, 7, 8, 9])  # 5 only alternates
    return "".join(str((start + step * i) % 10) for i in range(7))


_DRAWS: Final[dict[str, Callable[[random.Random], str]]] = {
    "periodic": _draw_periodic,
    "alternating": _draw_alternating,
    "mirror": _draw_mirror,
    "brackets": _draw_brackets,
    "increment": _draw_increment,
}


def _turns(first: str, second: str, run: int, length: int) -> str:
    return ((first * run + second * run) * length)[:length]


def _extended(shown: str, period: int) -> str:
    """The next symbols of a sequence with this period."""
    block = shown[:period]
    return "".join(block[(len(shown) + j) % period] for j in range(ANSWER_LENGTH))
