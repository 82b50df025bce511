"""From frames to the rows of a chart: checked columns, one setting per run, names as plain text.

Names are untrusted. A chart holds them only as values of fields, never in an expression, a field's
name or markup. Characters that cannot be printed become U+FFFD: SVG forbids control characters, and
a direction mark could turn the text around it.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.axes import PREFIX, RANK, STEP
from lpp.analyze.charts.library import alt
from lpp.analyze.charts.run_styles import RunStyle, RunStyles, styles_of
from lpp.analyze.charts.theme import Curve, Series, shortened
from lpp.analyze.metrics.registry import METRICS, PROFILE
from lpp.analyze.quantities.drift import PREDICTIONS
from lpp.analyze.quantities.quantity import Quantity
from lpp.store.errors import InputError

Row = dict[str, Any]
Curves = tuple[Series, list[str]]
"""Series of a chart, and the label of the curve of each row of a frame."""

SETTING: Final = ("context", "n_prompts")

_KL: Final = PREDICTIONS["kl"].unit

NONE: Final = "none"
"""Shown for a missing value."""

TITLES: Final = {
    "label": "run",
    "minus": "minus",
    "model": "model",
    "profile_metric": "number of the profile",
    "positions": "positions",
    "site": "site",
    "told": "value",
    "interval": "95 % interval",
    "flags": "flags",
    **{along.field: along.title for along in (PREFIX, RANK)},
    "eigenvalue": "eigenvalue",
    STEP.field: STEP.title,
    "first": "positions from",
    "end": "positions below",
    "kl_from": f"KL from ({_KL})",
    "kl_below": f"KL below ({_KL})",
    "deviation": "from the fullest setting",
    "corpus": "corpus",
    "context": "context (tokens)",
    "n_prompts": "prompts",
    "n_tokens": "tokens",
    "n": "items",
    "n_models": "models",
    "q_value": "q",
    "p_value": "p",
    "benchmark": "benchmark",
    "benchmark_metric": "metric",
    "source": "source",
    "confidence": "mean share",
    "coverage": "answered (share)",
    "n_answered": "answered (items)",
    "risk": "wrong (share)",
    "shuffled": "shuffled labels",
    "citation": "citation",
}
"""Titles of fields, in the order in which a tooltip shows them."""


# frames


def checked(frame: pl.DataFrame, table: str, columns: Iterable[str]) -> pl.DataFrame:
    """`frame`, which has `columns`. Raises InputError that names those that are missing."""
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise InputError(
            f"no table {table}: the column {', '.join(missing)} is missing. "
            f"`lpp-sql STORE 'FROM {table}'` shows its columns.",
        )
    return frame


def quantity_of(metric: str) -> Quantity:
    """The declared number of that name, or one with no more than the name."""
    unknown = Quantity(name=plain(metric), of="site", unit="1", definition="", source="")
    return PROFILE.get(metric) or METRICS.get(metric) or unknown


def measured(frame: pl.DataFrame, name: str, *, log: bool = False) -> pl.DataFrame:
    """`frame` with its number `name` as `value`, the standard error of that as `stderr`, the ends
    of its 95 % interval as `low` and `high`, and the prefix of an extreme as `prefix`.

    What the frame lacks is null; so is an interval without a value, or on a log axis one that
    reaches 0.
    """
    columns = {"stderr": f"{name}_stderr", "low": f"{name}_ci_low", "high": f"{name}_ci_high"}
    absent = [
        pl.lit(None).alias(column) for column in columns.values() if column not in frame.columns
    ]
    numbers = {"value": name, **columns}
    frame = frame.with_columns(absent).with_columns(
        pl.col(column).cast(pl.Float64).alias(part) for part, column in numbers.items()
    )
    low, high = pl.col("low"), pl.col("high")
    there = pl.col("value").is_finite() & low.is_finite() & high.is_finite()
    there = there & (low > 0) if log else there
    if f"{name}_prefix" in frame.columns:
        frame = frame.with_columns(prefix=f"{name}_prefix")
    return frame.with_columns(low=pl.when(there).then(low), high=pl.when(there).then(high))


def first_positions(frame: pl.DataFrame) -> pl.Series:
    """First position that each row's number is of; 0 in a table without that column."""
    if "first_position" in frame.columns:
        return frame["first_position"].fill_null(0)
    return pl.Series("first_position", [0] * len(frame), dtype=pl.Int32)


def from_start(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows whose numbers are of every position, from the first token on."""
    return frame.filter(first_positions(frame) == 0)


def at_largest(frame: pl.DataFrame, columns: Sequence[str], *keys: str) -> pl.DataFrame:
    """The rows of each of `keys` with its largest value in each of `columns`, in turn."""
    for name in columns:
        frame = frame.filter(pl.col(name) == pl.col(name).max().over(keys))
    return frame


def fullest(frame: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """The rows of each run at its longest context and most prompts; and a note of what they are."""
    keep = at_largest(frame, SETTING, "run")
    if keep.is_empty():
        return keep, []
    left = frame.select("run", *SETTING).n_unique() - keep.select("run", *SETTING).n_unique()
    return keep, [
        settings(keep),
        *([f"{left} smaller settings are left out."] if left else []),
    ]


def settings(frame: pl.DataFrame, *keys: str) -> str:
    """Which settings the rows of `frame` have. keys: columns that are named before them."""
    unique = frame.select(*keys, *SETTING).unique().sort(*keys, *SETTING).rows()
    named = [
        ", ".join([*map(plain, key), f"context {context} tokens", f"{n} prompts"])
        for *key, context, n in unique[:3]
    ]
    return "; ".join([*named, *([f"and {len(unique) - 3} settings more"] if unique[3:] else [])])


# curves


def curves_of(frame: pl.DataFrame, styles: RunStyles | None = None) -> Curves:
    """A curve for each run and first position of `frame`."""
    of_page = styles_of({*frame["run"]}, styles)
    run_styles = (of_page[run] for run in frame["run"])
    return owned_curves([((style.place,), chart_label(style)) for style in run_styles], frame)


def owned_curves(owners: Sequence[tuple[tuple[int, ...], str]], frame: pl.DataFrame) -> Curves:
    """A curve for each owner and first position of `frame`.

    owners: of each row, places that order curves, first that of its style, and a label that begins
    with a letter. `B tiny` from position 2 on is `B-2 tiny, without the first 2`.
    """
    keys = list(zip(owners, first_positions(frame), strict=True))
    cut = any(first for _, first in keys)
    curves = {}
    for (places, owner), first in sorted({*keys}):
        letter, _, name = owner.partition(" ")
        without = f"without the first {first}"
        label = f"{letter}-{first} {name}, {without}" if first else owner
        positions = (without if first else "all positions") if cut else ""
        curves[(places, owner), first] = Curve(label, owner, places[0], positions)
    return Series(tuple(curves.values())), [curves[key].label for key in keys]


def named_curves(names: Sequence[str]) -> Curves:
    """A curve for each of `names`, shortened; the names are not those of runs."""
    ordered = sorted({*names})
    short = [shortened(plain(name)) for name in ordered]
    labels = {
        name: label if short.count(label) == 1 else f"{label} ({k})"
        for k, (name, label) in enumerate(zip(ordered, short, strict=True), 1)
    }
    curves = tuple(Curve(label, label, k) for k, label in enumerate(labels.values()))
    return Series(curves, of_runs=False), [labels[name] for name in names]


def chart_label(style: RunStyle) -> str:
    """The letter of a run and its name, of which a chart has room for 28 characters."""
    return f"{style.letter} {shortened(plain(style.name))}"


# rows


def plain(value: Any) -> Any:
    """A value as JSON and SVG can hold it: 6 digits of a number, no -0, null for NaN, printable
    text.
    """
    if isinstance(value, str):
        return "".join(c if c.isprintable() else "\ufffd" for c in value)
    if isinstance(value, float):
        return float(f"{value:.6g}") + 0.0 if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return ", ".join(str(plain(part)) for part in value)
    return value


def rows(frame: pl.DataFrame) -> list[Row]:
    """The rows of `frame`, every value `plain`."""
    return [{name: plain(value) for name, value in row.items()} for row in frame.to_dicts()]


def points(frame: pl.DataFrame, labels: Sequence[str]) -> list[Row]:
    """The rows of a `measured` frame, with the label of their curve and texts for a tooltip."""
    result = rows(frame)
    for label, row in zip(labels, result, strict=True):
        row |= {"series": label, "label": label}
        row["told"] = told(row["value"], row["stderr"])
        row["interval"] = interval(row["low"], row["high"])
    return result


def with_tips(
    values: Sequence[Row], titles: Mapping[str, str], drawn: Collection[str]
) -> tuple[list[Row], list[Any]]:
    """Rows with the fields `drawn` and a text for every field of `TITLES`, and the tooltips that
    show these texts.

    titles: replace those of `TITLES`. A field that no row has is not shown; a missing value is
    `none`.
    """
    shown = {
        field: title
        for field, title in {**TITLES, **titles}.items()
        if any(row.get(field) not in (None, "") for row in values)
    }
    tipped = [{name: row[name] for name in row if name in shown or name in drawn} for row in values]
    return tipped, [_shown(tipped, field, title) for field, title in shown.items()]


def _shown(tip_rows: Sequence[Row], field: str, title: str) -> Any:
    values = [row.get(field) for row in tip_rows]
    if all(isinstance(v, int | float) for v in values):
        form = ",d" if all(isinstance(v, int) for v in values) else ".4~g"
        return alt.Tooltip(f"{field}:Q", title=title, format=form)
    for row, v in zip(tip_rows, values, strict=True):
        row[field] = NONE if v in (None, "") else number(v) if isinstance(v, float) else v
    return alt.Tooltip(f"{field}:N", title=title)


def data(values: Sequence[Row]) -> Any:
    """Rows inside the chart: it needs no other file."""
    return alt.InlineData(values=list(values))


def joined(chart: Any, key: str, values: Sequence[Row]) -> Any:
    """`chart`, each row with the other fields of the row of `values` that has the same `key`."""
    fields = [name for name in values[0] if name != key]
    lookup = alt.LookupData(data=data(values), key=key, fields=fields)
    return chart.transform_lookup(lookup=key, from_=lookup)


# words


def told(value: float | None, stderr: float | None = None) -> str:
    """A value with its standard error.

    >>> told(20.125, 0.25), told(3.0), told(None)
    ('20.12 ± 0.25', '3', 'no value')
    """
    error = f" ± {stderr:.2g}" if stderr is not None else ""
    return f"{number(value)}{error}"


def interval(low: float | None, high: float | None) -> str | None:
    """The ends of an interval; None where there is none.

    >>> interval(19.625, 20.875), interval(None, 2.0)
    ('19.62 to 20.88', None)
    """
    low, high = plain(low), plain(high)
    return None if low is None or high is None else f"{number(low)} to {number(high)}"


def number(value: float | None) -> str:
    """Four significant digits for a reader.

    >>> number(46.0812), number(None)
    ('46.08', 'no value')
    """
    return "no value" if value is None else f"{value:.4g}"


def bars(values: Sequence[Row], over: str = "prompts") -> list[str]:
    """A note of what the bars of rows from `low` to `high` mean, where any row has one."""
    there = any(row["low"] is not None for row in values)
    return [f"Bars: 95 % intervals over {over}."] if there else []


def listing(parts: Sequence[str], most: int = 12) -> str:
    """Parts of a description as sentences; beyond `most`, their number."""
    more = [f"And {len(parts) - most} more."] if len(parts) > most else []
    return " ".join([f"{part}." for part in parts[:most]] + more)


def nothing(table: str, frame: pl.DataFrame, command: str) -> str:
    """Why there is nothing to draw of `frame`, and what changes that."""
    if frame.is_empty():
        return f"No {table}: the table has no rows. {command} makes them."
    rows = f"{len(frame)} row{'s' * (len(frame) != 1)}"
    return f"No {table}: the table has {rows}, none of them with a value."
