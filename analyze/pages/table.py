"""A table of a page: a frame, and how each of its columns is shown.

A number, its standard error, the ends of its interval and its prefix are one column of the page:
columns `x`, `x_stderr`, `x_ci_low`, `x_ci_high` and `x_prefix` of the frame.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, Protocol

import polars as pl

from lpp.analyze.pages.words import MISSING, STYLES, Style, ends, error, label, number

DIGITS: Final = 6
"""Significant digits of most numbers in the page's data; the database has them all."""

FIRST_ROWS: Final = 25
"""Rows of a page of a table; the first page is in the HTML, so it is there without scripts."""

FIRST_COLUMNS: Final = 6
"""Columns that a table shows first, unless they are named."""

Kind = Literal["number", "text", "words", "flags", "list", "run"]

_RUNS: Final = ("run", "run_a", "run_b", "of")
"""Columns of run ids: a page shows a run's letter and name."""

PROSE: Final = ("question", "text_so_far")
"""Columns of text that is read: they are wider."""

OF_ANOTHER: Final = "of the number"
"""Unit of a column whose rows are of several numbers: another column has the unit of each."""

PARTS: Final = ("stderr", "ci_low", "ci_high", "prefix")
"""Ends of the names of columns that belong to a number's column."""


class Declared(Protocol):
    """What declares a number: a quantity, or a column of the database."""

    @property
    def unit(self) -> str: ...

    @property
    def meaning(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Source:
    """The one table of the database that a query selects from."""

    table: str
    expressions: Mapping[str, str]
    """The expression before AS, for each column that the query renames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One column of a table."""

    name: str
    """Name of the column in the frame."""
    label: str
    unit: str = ""
    meaning: str = ""
    kind: Kind = "text"
    short: str = ""
    """Heading where there is little room; empty: the label."""
    style: Style = "figures"
    first: bool = True
    """Whether a page shows it at once; the others are there on demand, and in no text."""
    parts: Mapping[str, str]
    """Columns that belong to it: each of `PARTS` that the frame has, and the column's name."""

    @property
    def heading(self) -> str:
        """Text for a screen reader: label, unit, meaning."""
        unit = f" [{self.unit}]" if self.unit else ""
        return f"{self.label}{unit}: {self.meaning}" if self.meaning else f"{self.label}{unit}"


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell as text."""

    text: str
    error: str = ""
    """`± 0.12`."""
    interval: str = ""
    """`[0.1, 0.3]`."""
    prefix: str = ""
    flags: tuple[str, ...] = ()

    @property
    def more(self) -> str:
        """The interval, or the error where there is none, and the prefix: in smaller type."""
        prefix = f"at {self.prefix}" if self.prefix else ""
        return " ".join(filter(None, (self.interval or self.error, prefix)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table, ready to be shown."""

    name: str
    """Identifies it on the page."""
    title: str
    frame: pl.DataFrame
    fields: tuple[Field, ...]
    key: tuple[str, ...] = ()
    """Columns that identify a row."""
    code: str = ""
    """SQL or Python that gives the rows."""
    language: Literal["SQL", "Python"] = "Python"
    source: Source | None = None
    folded: bool = False
    """Whether a page shows it only on demand, however short it is."""
    brief: bool = True
    """Whether text and Markdown show it; otherwise only with --all."""
    short: pl.DataFrame | None = None
    """The rows that text and Markdown show without --all; None: all."""
    part: str = ""
    """Number of rows shown, which text adds to the title where some are left out."""
    compared: bool = False
    """Whether a reader compares its rows: a terminal shows few of them side by side."""
    missing: str | None = None
    """Text in place of the rows; None where there are rows."""

    @property
    def more(self) -> bool:
        """Whether some columns are shown only on demand."""
        return not all(field.first for field in self.fields)

    def heading(self, unit: str) -> str:
        """The title of text, with the unit that all columns share."""
        return ", ".join(filter(None, (f"{self.title}{self.part}", unit)))

    def in_short(self) -> "Table":
        """The table with the rows of `short`."""
        if self.short is None or self.short.height == self.frame.height:
            return self
        part = f": {self.short.height} of {self.frame.height} rows"
        return replace(self, part=part, frame=self.short)

    def without_gaps(self) -> "Table":
        """The table without rows that have no number, text or flag, and without columns that are
        empty; the key and the unit say nothing of a row.
        """
        data_fields = [field for field in self.fields if field.name not in (*self.key, "unit")]
        numbers = [pl.col(field.name) for field in data_fields if field.kind == "number"]
        finite = [number.cast(pl.Float64).is_finite().fill_null(False) for number in numbers]
        flagged = [pl.col(f.name).list.len() > 0 for f in data_fields if f.kind == "flags"]
        texts = [pl.col(f.name).is_not_null() for f in data_fields if f.kind == "text" and f.first]
        conditions = (*finite, *flagged, *texts)
        frame = self.frame.filter(pl.any_horizontal(*conditions)) if finite else self.frame
        if frame.is_empty():
            return self
        empty = {name for name in frame.columns if frame[name].null_count() == frame.height}
        fields = (replace(f, first=f.first and f.name not in empty) for f in self.fields)
        return replace(self, frame=frame, fields=tuple(fields))

    def rows(self, count: int | None = None) -> list[list[Cell]]:
        """Cells of the first `count` rows, or of all."""
        frame = self.frame if count is None else self.frame.head(count)
        return [[cell(field, row) for field in self.fields] for row in frame.iter_rows(named=True)]

    def flags(self) -> set[str]:
        """Every flag of the table."""
        return flags_in(self.frame)

    def data(self) -> dict[str, Any]:
        """Data that page.js sorts, filters and shows.

        By column, each distinct word once: 12,000 rows of spectra take about a megabyte.
        """
        return {
            "key": list(self.key),
            "source": None if self.source is None else asdict(self.source),
            "language": self.language,
            "rows": self.frame.height,
            "columns": [self._column(field) for field in self.fields],
        }

    def _column(self, field: Field) -> dict[str, Any]:
        named = ("name", "label", "kind", "first", "style")
        column: dict[str, Any] = {name: getattr(field, name) for name in named}
        column |= _packed(self.frame[field.name], field.kind)
        if field.style == "decibels":  # page.js and SQL read this word; JSON has no infinity
            column["values"] = _numbers(self.frame[field.name], infinite="Infinity")
        for part, name in field.parts.items():
            if part != "stderr" or "ci_low" not in field.parts:
                column[part] = _numbers(self.frame[name])
        return column


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A table before it has rows: of a page, or of a query of the report."""

    name: str
    title: str
    table: str
    """Table of the database that declares most of its columns."""
    key: tuple[str, ...]
    first: tuple[str, ...]
    """Columns that are shown at once."""
    folded: bool = False

    def of(self, frame: pl.DataFrame, declared: Mapping[str, Declared], **more: Any) -> Table:
        """The table of `frame`. more: other arguments of `table_of`, also in place of its own."""
        arguments = asdict(self)
        del arguments["table"]
        arguments["key"] = tuple(name for name in self.key if name in frame.columns)
        return table_of(frame=frame, declared=declared, **arguments | more)


def table_of(
    name: str,
    title: str,
    frame: pl.DataFrame,
    declared: Mapping[str, Declared],
    *,
    first: Iterable[str] = (),
    styles: Mapping[str, Style] | None = None,
    labels: Mapping[str, str] | None = None,
    **more: Any,
) -> Table:
    """The table of `frame`.

    declared: units and meanings by column. first: columns that are shown at once, in this order;
    none: the first `FIRST_COLUMNS`. styles: of numbers that have another than four digits. labels:
    headings, where they are not the label of the declaration or the column's name.
    """
    frame, short = _without_no_error(frame), more.pop("short", None)
    shown = own_columns(frame)
    chosen = [column for column in first if column in shown] or shown[:FIRST_COLUMNS]
    fields = []
    for column in dict.fromkeys((*chosen, *shown)):
        declaration = declared.get(column)
        heading = (labels or {}).get(column) or getattr(declaration, "words", "") or label(column)
        unit = declaration.unit if declaration is not None else ""
        fields.append(
            Field(
                name=column,
                label=heading,
                unit="" if unit in ("1", heading, OF_ANOTHER) else unit,
                meaning=declaration.meaning if declaration is not None else "",
                kind=_kind(column, frame.schema[column]),
                short=getattr(declaration, "short", ""),
                style=(styles or {}).get(column, "figures"),
                first=column in chosen,
                parts=parts_of(frame, column),
            )
        )
    short = None if short is None else _without_no_error(short)
    return Table(name=name, title=title, frame=frame, fields=tuple(fields), short=short, **more)


def _without_no_error(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows without the flag `no_error`: a number without an error is seen to have none."""
    if not isinstance(frame.schema.get("flags"), pl.List):
        return frame
    flags = pl.col("flags").cast(pl.List(pl.String))
    return frame.with_columns(flags.list.set_difference(["no_error"]))


def flags_in(frame: pl.DataFrame) -> set[str]:
    """Every flag of the rows, which have them in a column `flags` or `flag`."""
    return {
        flag
        for column in ("flag", "flags")
        if column in frame.columns
        for row in frame[column].drop_nulls()
        for flag in ([row] if column == "flag" else row)
    }


def shared_unit(fields: Iterable[Field]) -> str:
    """The unit that two or more columns share, for the title; empty if there is none."""
    units = [field.unit for field in fields if field.unit]
    return units[0] if len(units) > 1 and len({*units}) == 1 else ""


def parts_of(frame: pl.DataFrame, column: str) -> Mapping[str, str]:
    """The columns of `frame` with the error, interval or prefix of `column`, by their suffix."""
    return {part: f"{column}_{part}" for part in PARTS if f"{column}_{part}" in frame.columns}


def own_columns(frame: pl.DataFrame) -> list[str]:
    """Columns that belong to no other."""
    parts = {name for column in frame.columns for name in parts_of(frame, column).values()}
    return [column for column in frame.columns if column not in parts]


def cell(field: Field, row: Mapping[str, Any]) -> Cell:
    """The cell of `field` in one row of the frame."""
    value = row[field.name]
    if field.kind == "flags":
        return Cell("", flags=(value,) if isinstance(value, str) else tuple(value or ()))
    if field.kind == "list":
        return Cell(MISSING if value is None else ", ".join(map(str, value)))
    if field.kind != "number":
        return Cell(MISSING if value is None else str(value))
    write: Callable[[Any], str] = number if isinstance(value, bool) else STYLES[field.style]
    part = {name: row[column] for name, column in field.parts.items()}
    stderr, low, high, prefix = (part.get(name) for name in PARTS)
    if stderr == 0 and low != high:  # Wilson's interval: other prompts may differ
        stderr = None
    return Cell(
        write(value),
        error=error(stderr),
        interval=ends(low, high, write),
        prefix="" if prefix is None else str(prefix),
    )


def _kind(name: str, dtype: pl.DataType) -> Kind:
    if name in ("flags", "flag"):
        return "flags"
    if name in _RUNS:
        return "run"
    if isinstance(dtype, pl.List):
        return "list"
    if dtype.is_numeric() or dtype == pl.Boolean:
        return "number"
    return "words" if name in PROSE else "text"


def _packed(column: pl.Series, kind: Kind) -> dict[str, Any]:
    """Numbers as they are; for other columns the distinct words, and each row's index into them."""
    if kind == "number":
        return {"values": _numbers(column)}
    rows = [tuple(v) if isinstance(v, list) else v for v in column.to_list()]
    indices = {word: k for k, word in enumerate(dict.fromkeys(rows))}
    return {"words": list(indices), "codes": [indices[row] for row in rows]}


def _numbers(column: pl.Series, infinite: str | None = None) -> list[float | bool | str | None]:
    """Numbers for JSON: NaN becomes null, like missing values, and infinity `infinite`."""
    if not column.dtype.is_float():
        return column.to_list()
    return [
        (infinite if v == math.inf else None) if v is None or not math.isfinite(v) else _short(v)
        for v in column
    ]


def _short(value: float) -> float:
    """`value` with `DIGITS` digits if page.js then writes it as `words.number` writes `value`.

    Rounded again, to the digits that are shown, a last 0 or 5 could go another way than `value`;
    and of a large number every digit before the point is shown.

    >>> _short(1.23456789), _short(2.747499), _short(2.7474999)
    (1.23457, 2.747499, 2.7474999)
    """
    mantissa, exponent = f"{value:.{DIGITS - 1}e}".split("e")
    shown_in_full = mantissa[-1] in "05" or int(exponent) >= DIGITS - 1
    return value if shown_in_full else float(f"{mantissa}e{exponent}")
