"""Scores as they come from a file, and the checks that every kind of file shares.

A score is a number with a name. What is wrong with a file is told at once, all of it, each with
its place: half a benchmark table would be another benchmark.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, Literal, TypeAlias, get_args

from lpp.store.commands.escaping import escape
from lpp.store.errors import ErrorKind, InputError

Unit: TypeAlias = Literal["auto", "percent", "fraction", "other"]
"""What scores are counted in: `auto` refuses a benchmark that holds both, `other` checks none."""

UNITS: Final[tuple[Unit, ...]] = get_args(Unit)

_MOST: Final = {"percent": 100.0, "fraction": 1.0}
_SHOWN: Final = 5

_MOST_ITEMS: Final = 1 << 31
_LONE_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
"""What JSON may hold and no UTF-8 does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One score as the file has it."""

    model: str
    benchmark: str
    metric: str
    value: float
    stderr: float | None = None
    n: int | None = None
    """Items that were scored."""
    where: str
    """Place in the file, for messages."""
    setup: Mapping[str, str] = field(default_factory=dict)
    """How it was run, as far as the file says: such as `shots` and `5`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A score that is not there."""

    model: str
    benchmark: str
    where: str

    def __str__(self) -> str:
        return f"{self.benchmark} of {self.model} ({self.where})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreFile:
    """What one file holds."""

    kind: str
    """lm-eval, inspect, leaderboard, csv"""
    scores: Sequence[Score]
    missing: Sequence[Missing] = ()
    sizes: dict[str, float] = field(default_factory=dict)
    """Parameters in billions by model, where the file tells them."""


def number(text: object) -> float | None:
    """`text` as a finite number, or None: neither `nan` nor `1_0` is one.

    >>> [number(text) for text in ("34.5", 2, "n/a", "nan", "1_0", "45 %", True, "0,5")]
    [34.5, 2.0, None, None, None, None, None, None]
    """
    if isinstance(text, bool) or (isinstance(text, str) and "_" in text):
        return None
    try:
        value = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return value if abs(value) < float("inf") else None  # NaN compares false


def refuse(problems: Sequence[str], advice: str) -> None:
    """InputError with `problems`, five of them at most, and what to do; nothing where none."""
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        listed = escape("; ".join([*problems[:_SHOWN], *more]), keep="")
        raise InputError(f"{listed}. {advice}", kind=ErrorKind.INVALID_VALUE)


def check_storable(scores: Iterable[Score]) -> None:
    """InputError naming each score that a table cannot hold: half a surrogate pair in a name, and
    a number of items beyond 2^31.
    """
    problems = []
    for score in scores:
        names = (score.model, score.benchmark, score.metric)
        if any(_LONE_SURROGATE.search(name) for name in names):
            problems.append(f"{score.where}: half a surrogate pair in {', '.join(names)}")
        if score.n is not None and not 0 <= score.n < _MOST_ITEMS:
            problems.append(f"{score.where}: {score.n} items")
    refuse(problems, "Correct the file.")


def check_once(scores: Iterable[Score]) -> None:
    """InputError naming both places of each score that is there twice."""
    seen: dict[tuple[str, str, str], Score] = {}
    problems = []
    for score in scores:
        other = seen.setdefault((score.model, score.benchmark, score.metric), score)
        if other is not score:
            problems.append(
                f"{score.benchmark} ({score.metric}) of {score.model} is there twice: "
                f"{other.value:g} at {other.where}, {score.value:g} at {score.where}"
            )
    refuse(problems, "Leave one out: a source has one score of a model on a benchmark.")


def check_alike(scores: Iterable[Score]) -> None:
    """InputError where two scores of one benchmark were made in two ways, as far as files say.

    With other shots, another version of the task, or some of its items, it is another benchmark
    under the same name.
    """
    first: dict[tuple[str, str], tuple[str, Score]] = {}
    problems: dict[str, None] = {}  # several metrics of a task differ alike
    for score in scores:
        for what, how in score.setup.items():
            before, other = first.setdefault((score.benchmark, what), (how, score))
            if before != how:
                problems[
                    f"{score.benchmark}: {what} {before} for {other.model}, {how} for {score.model}"
                ] = None
    refuse(
        list(problems),
        "One source is scored in one way. Add them as sources of their own (--source NAME), or "
        "take some only: --model, --benchmark.",
    )


def check_units(scores: Iterable[Score], unit: Unit) -> None:
    """InputError where one benchmark holds fractions and percentages, or what `unit` excludes.

    A benchmark is told by its scores: one between 0 and 1 beside one above 1 is a mixture, unless
    `unit` says that it is meant. 0 and 1 are both.
    """

    def key(score: Score) -> tuple[str, str]:
        return score.benchmark, score.metric

    problems: list[str] = []
    for _, group in groupby(sorted(scores, key=key), key=key):
        problems += _unit_problems(list(group), unit)
    refuse(
        problems,
        "Give every score in one unit, or say what is meant: --unit percent, fraction or other.",
    )


def _unit_problems(group: Sequence[Score], unit: Unit) -> Iterator[str]:
    name = f"{group[0].benchmark} ({group[0].metric})"
    if unit == "auto":
        small = [s for s in group if 0 < s.value < 1]
        large = [s for s in group if s.value > 1]
        if small and large:
            yield (
                f"{name} mixes percent and fraction: {small[0].value:g} at {small[0].where}, "
                f"{large[0].value:g} at {large[0].where}"
            )
    elif unit != "other":
        for score in group:
            if not 0 <= score.value <= _MOST[unit]:
                yield f"{name} of {score.model} is {score.value:g}, no {unit}, at {score.where}"
