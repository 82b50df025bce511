"""The table of scores that every reader of a file returns, and the checks that they share.

A score is a number with a name. What is wrong with a file is told at once, all of it, each with
its place: half a benchmark table would be another benchmark.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import polars as pl

from lpp.analyze.questions import Unit
from lpp.store.errors import InputError
from lpp.store.scores.scores import SCORE_KEY
from lpp.store.terminal.escaping import escape

SCORES: Final = pl.Schema(
    dict[str, Any](
        kind=pl.String,
        model=pl.String,
        benchmark=pl.String,
        metric=pl.String,
        value=pl.Float64,
        stderr=pl.Float64,
        n=pl.Int64,
        where=pl.String,
        setup=pl.List(pl.Struct({"what": pl.String, "how": pl.String})),
        size_b=pl.Float64,
    )
)
"""One row per score of a file. kind: lm-eval, inspect, leaderboard or csv. value: null for a score
that is missing. n: items that were scored. where: place in the file, for messages. setup: how the
task was run, as far as the file says, such as `shots` and `5`. size_b: parameters of the model in
billions, where the file tells them."""

MAX_ITEMS: Final = 1 << 31

_MOST: Final = {"percent": 100.0, "fraction": 1.0}
_SHOWN: Final = 5
_HALF_PAIR: Final = re.compile(r"[\ud800-\udfff]")


def score_table(kind: str, rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """`SCORES` of what a JSON document says. rows: its columns without `kind`, and `setup` as a
    mapping; what a row lacks is null.

    Raises InputError naming each score that no table can hold: half a surrogate pair in a name, and
    a number of items beyond 2^31.
    """
    made, problems = [], []
    for row in rows:
        names, where, setup = [row[name] for name in SCORE_KEY], row["where"], row["setup"]
        if not all(map(is_text, (*names, *setup.values()))):
            problems.append(f"{where}: half a surrogate pair in {', '.join(names)}")
        if row.get("n") is not None and not 0 <= row["n"] < MAX_ITEMS:
            problems.append(f"{where}: {row['n']} items")
        ways = [{"what": what, "how": how} for what, how in setup.items()]
        made.append({**row, "kind": kind, "setup": ways, "where": escape(where, keep="")})
    refuse(problems, "Correct the file.")
    return pl.DataFrame(made, schema=SCORES)


def is_text(value: str) -> bool:
    """Whether `value` is Unicode: JSON may hold half a surrogate pair, and no UTF-8 does."""
    return _HALF_PAIR.search(value) is None


def as_number(value: object) -> float | None:
    """`value` as a finite number, or None: neither `nan` nor `1_0` is one.

    >>> [as_number(value) for value in ("34.5", 2, "n/a", "nan", "1_0", "45 %", True, "0,5")]
    [34.5, 2.0, None, None, None, None, None, None]
    """
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        return None
    try:
        result = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return result if abs(result) < float("inf") else None  # NaN compares false


def refuse(problems: Sequence[str], advice: str) -> None:
    """InputError with `problems`, five of them at most, and what to do; nothing where none."""
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        listed = escape("; ".join([*problems[:_SHOWN], *more]), keep="")
        raise InputError(f"{listed}. {advice}")


def check_scores(scores: pl.DataFrame, unit: Unit) -> None:
    """InputError where `scores`, of one source, hold a score twice, or scores of one benchmark that
    were made in two ways or counted in two units.
    """
    later = pl.int_range(pl.len()).over(SCORE_KEY) > 0
    twice = scores.with_columns(
        first=pl.col("value").first().over(SCORE_KEY), at=pl.col("where").first().over(SCORE_KEY)
    ).filter(later)
    refuse(
        [
            f"{row['benchmark']} ({row['metric']}) of {row['model']} is there twice: "
            f"{row['first']:g} at {row['at']}, {row['value']:g} at {row['where']}"
            for row in twice.iter_rows(named=True)
        ],
        "Leave one out: a source has one score of a model on a benchmark.",
    )
    ways = scores.explode("setup").unnest("setup").drop_nulls("what")
    key = ["benchmark", "what"]
    other = ways.with_columns(
        first=pl.col("how").first().over(key), by=pl.col("model").first().over(key)
    ).filter(pl.col("how") != pl.col("first"))
    refuse(
        other.select(
            pl.format("{}: {} {} for {}, {} for {}", *key, "first", "by", "how", "model")
        )  # several metrics of a task differ alike
        .to_series()
        .unique(maintain_order=True)
        .to_list(),
        "One source is scored in one way. Add them as sources of their own (--source NAME), or "
        "take some only: --model, --benchmark.",
    )
    refuse(
        list(_unit_problems(scores.sort(SCORE_KEY[1:], maintain_order=True), unit)),
        "Give every score in one unit, or say what is meant: --unit percent, fraction or other.",
    )


def _unit_problems(scores: pl.DataFrame, unit: Unit) -> Iterator[str]:
    """Where the scores of a metric are in two units, or not in `unit`.

    A score between 0 and 1 beside one above 1 is a mixture; 0 and 1 are in both units.
    """
    value = pl.col("value")
    if unit == "auto":
        small, large = value.is_between(0, 1, closed="none"), value > 1
        first = [
            pl.col(name).filter(chosen).first().alias(f"{size}_{name}")
            for size, chosen in (("small", small), ("large", large))
            for name in ("value", "where")
        ]
        groups = scores.group_by(SCORE_KEY[1:], maintain_order=True).agg(first).drop_nulls()
        for benchmark, metric, a, a_at, b, b_at in groups.rows():
            yield (
                f"{benchmark} ({metric}) mixes percent and fraction: {a:g} at {a_at}, "
                f"{b:g} at {b_at}"
            )
    elif unit != "other":
        outside = scores.filter(~value.is_between(0, _MOST[unit]))
        for row in outside.iter_rows(named=True):
            yield (
                f"{row['benchmark']} ({row['metric']}) of {row['model']} is {row['value']:g}, no "
                f"{unit}, at {row['where']}"
            )
