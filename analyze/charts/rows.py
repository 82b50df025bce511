"""From frames to the rows of a chart: checked columns, one setting per run, names as plain text.

Names are untrusted. A chart holds them only as values of fields, never in an expression, a field's
name or markup. Characters that cannot be printed become U+FFFD: SVG forbids control characters, and
a direction mark could turn the text around it.
"""

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.library import alt
from lpp.analyze.charts.run_styles import RunStyle, RunStyles, styles_of
from lpp.analyze.charts.theme import INK, TITLE_WIDTH, Curve, Series, finished, heading, shortened
from lpp.store.errors import ErrorKind, InputError

Row = dict[str, Any]
_SETTING: Final = ("context", "n_prompts")


def checked(frame: pl.DataFrame, table: str, columns: Iterable[str]) -> pl.DataFrame:
    """`frame`, which has `columns`. Raises InputError that names those that are missing."""
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise InputError(
            f"no table {table}: the column {', '.join(missing)} is missing. "
            f"`lpp-sql STORE 'FROM {table}'` shows its columns.",
            kind=ErrorKind.INVALID_VALUE,
        )
    return frame


def optional(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """`frame` with those of `columns` that it lacks, as null: errors that were not computed."""
    absent = [name for name in columns if name not in frame.columns]
    return frame.with_columns(pl.lit(None, dtype=pl.Float64).alias(name) for name in absent)


def first_positions(frame: pl.DataFrame) -> pl.Series:
    """First position that each row's number is of; 0 in a table without that column."""
    if "first_position" in frame.columns:
        return frame["first_position"].fill_null(0)
    return pl.Series("first_position", [0] * len(frame), dtype=pl.Int32)


def from_start(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows whose numbers are of every position, from the first token on."""
    return frame.filter(first_positions(frame) == 0)


def fullest(frame: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """The rows of each run at its longest context and most prompts; and a note of what they are."""
    keep = frame.filter(pl.col("context") == pl.col("context").max().over("run"))
    keep = keep.filter(pl.col("n_prompts") == pl.col("n_prompts").max().over("run"))
    if keep.is_empty():
        return keep, []
    found = keep.select(_SETTING).unique().sort(_SETTING).rows()
    note = "; ".join(f"context {context} tokens, {n} prompts" for context, n in found[:3])
    if len(found) > 3:
        note += f"; and {len(found) - 3} settings more"
    left = frame.select("run", *_SETTING).n_unique() - keep.select("run", *_SETTING).n_unique()
    return keep, [note, *([f"{left} smaller settings are left out."] if left else [])]


def plain(value: Any) -> Any:
    """A value as JSON and SVG can hold it: 6 digits of a number, null for NaN, printable text."""
    if isinstance(value, str):
        return "".join(c if c.isprintable() else "\ufffd" for c in value)
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return ", ".join(str(plain(part)) for part in value)
    return value


def rows(frame: pl.DataFrame) -> list[Row]:
    """The rows of `frame`, every value `plain`."""
    return [{name: plain(value) for name, value in row.items()} for row in frame.to_dicts()]


def series_of(
    runs: Iterable[str], styles: RunStyles | None = None
) -> tuple[Series, dict[str, str]]:
    """The series of `runs`, in the order of `styles`, and the label of each (`chart_label`)."""
    every = {*runs}
    of_page = styles_of(every, styles)
    labels = {run: chart_label(of_page[run]) for run in of_page.order if run in every}
    return Series.of([*labels.values()], [of_page[run].place for run in labels]), labels


def series_of_names(names: Iterable[str]) -> tuple[Series, dict[str, str]]:
    """A series of what is not a run, by name, and the label of each: the name, shortened."""
    every = sorted({*names})
    short = [shortened(plain(name)) for name in every]
    labels = {
        name: label if short.count(label) == 1 else f"{label} ({place})"
        for place, (name, label) in enumerate(zip(every, short, strict=True), 1)
    }
    return Series.of([*labels.values()], of_runs=False), labels


def chart_label(style: RunStyle) -> str:
    """The letter of a run and its name, of which a chart has room for 28 characters."""
    return f"{style.letter} {shortened(plain(style.name))}"


def curves_of(frame: pl.DataFrame, styles: RunStyles | None = None) -> tuple[Series, list[str]]:
    """A series for each run and first position of `frame`, and the label of each row."""
    pairs = list(zip(frame["run"], first_positions(frame), strict=True))
    of_page = styles_of({*frame["run"]}, styles)
    cut = any(first for _, first in pairs)
    curves = {
        (run, first): curve(chart_label(of_page[run]), of_page[run].place, first, cut=cut)
        for run, first in sorted(set(pairs), key=lambda key: (of_page[key[0]].place, key[1]))
    }
    return Series(tuple(curves.values())), [curves[pair].label for pair in pairs]


def curve(owner: str, place: int, first: int, *, cut: bool) -> Curve:
    """The curve of a run, from its `first` position on. cut: whether some curve of the chart leaves
    first positions out.

    >>> curve("B tiny", 1, 2, cut=True).label
    'B-2 tiny, without the first 2'
    """
    letter, _, name = owner.partition(" ")
    without = f"without the first {first}"
    label = f"{letter}-{first} {name}, {without}" if first else owner
    positions = (without if first else "all positions") if cut else ""
    return Curve(label, owner, place, positions)


def points(frame: pl.DataFrame, labels: Iterable[str], *drawn: str) -> list[Row]:
    """Rows of `frame` with a value in each column `drawn`, and the label of their curve."""
    return [
        {"series": label, **row}
        for label, row in zip(labels, rows(frame), strict=True)
        if all(row[name] is not None for name in drawn)
    ]


def absent(frame: pl.DataFrame, found: Sequence[Row], what: str = "points") -> list[str]:
    """A note of the rows that are no points."""
    left = len(frame) - len(found)
    return [f"{left} of {len(frame)} {what} have no value."] if left else []


def data(values: Sequence[Row]) -> Any:
    """Rows inside the chart: it needs no other file."""
    return alt.InlineData(values=list(values))


def number(value: float | None) -> str:
    """Four significant digits for a reader.

    >>> number(46.0812), number(None)
    ('46.08', 'no value')
    """
    return "no value" if value is None else f"{value:.4g}"


def without_first(frame: pl.DataFrame) -> list[str]:
    """A note for each first position after 0: what the number in a letter says."""
    return [
        f"-{k}: without the first {k} position{'s' * (k > 1)} of each prompt."
        for k in sorted({*first_positions(frame)} - {0})
    ]


def bars(values: Sequence[Row], low: str, meaning: str) -> list[str]:
    """A note of what the bars mean, where any row has one."""
    return [f"Bars: {meaning}."] if any(row.get(low) is not None for row in values) else []


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


def says(title: str, why: str) -> Any:
    """A chart without data that says what is missing."""
    lines = textwrap.wrap(why, TITLE_WIDTH, break_on_hyphens=False)
    height = 16 * len(lines) + 24
    words = alt.Chart(data([{"text": "\n".join(lines)}]), height=height, width="container")
    text = words.mark_text(align="left", baseline="top", color=INK, fontSize=12, lineBreak="\n")
    return finished(
        text.encode(x=alt.value(0), y=alt.value(8), text="text:N").properties(
            title=heading(title, []), description=f"{title}. {why}"
        )
    )
