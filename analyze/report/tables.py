"""A table of the report: its columns as shown, and its data as the page holds them.

A number, the ends of its interval and its prefix are one column of the page; an error is left to
the charts if its interval is shown. Data are stored by column, each distinct word once: 12,000 rows
of spectra take about a megabyte.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final, Literal

import polars as pl

from lpp.analyze.report.answers import Answer
from lpp.analyze.report.queries import FIRST_COLUMNS, SETTING
from lpp.analyze.report.words import DIGITS, MISSING, label, number
from lpp.sql.schema import Column

FIRST_ROWS: Final = 25
"""Rows of a page of a table; the first page is in the HTML, so it is there without scripts."""

Kind = Literal["number", "text", "words", "flags", "list", "run"]

RUNS: Final = ("run", "run_a", "run_b", "of")
"""Columns of run ids: the page shows a run's letter and name."""

PROSE: Final = ("question", "text_so_far")
"""Columns of text that is read: they are wider."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One column of the page: columns `name`, its interval's ends and its prefix."""

    name: str
    label: str
    unit: str
    meaning: str
    kind: Kind
    first: bool
    """Whether it is shown at once; the others are there on demand."""
    low: str | None = None
    high: str | None = None
    prefix: str | None = None

    @property
    def heading(self) -> str:
        """Text for a screen reader: label, unit, meaning."""
        unit = f" [{self.unit}]" if self.unit else ""
        return f"{self.label}{unit}: {self.meaning}" if self.meaning else f"{self.label}{unit}"


@dataclass(frozen=True)
class TableView:
    """An answer with rows, ready to be shown."""

    answer: Answer

    @property
    def name(self) -> str:
        """Name of the query."""
        return self.answer.query.name

    @cached_property
    def columns(self) -> tuple[Shown, ...]:
        """Columns that are shown first, then the others in the order of the query."""
        frame, declared = self.answer.frame, self.answer.columns
        names = set(frame.columns)
        parts = {
            f"{name}_{end}"
            for name in frame.columns
            if f"{name}_ci_low" in names or f"{name}_prefix" in names
            for end in ("ci_low", "ci_high", "stderr", "prefix")
        }
        every = [name for name in frame.columns if name not in parts]
        first = self._first(every)
        return tuple(
            Shown(
                name=name,
                first=name in first,
                label=label(name),
                unit=_unit(name, declared),
                meaning=declared[name].meaning if name in declared else "",
                kind=_kind(name, frame.schema[name]),
                low=_there(f"{name}_ci_low", names),
                high=_there(f"{name}_ci_high", names),
                prefix=_there(f"{name}_prefix", names),
            )
            for name in dict.fromkeys((*first, *every))
        )

    @property
    def more(self) -> bool:
        """Whether some columns are shown only on demand."""
        return not all(column.first for column in self.columns)

    def _first(self, every: list[str]) -> list[str]:
        """Columns shown first; a setting, next to the key, only if the rows differ in it."""
        wanted = self.answer.query.first or tuple(every[:FIRST_COLUMNS])
        chosen = [name for name in wanted if name in every]
        if len(chosen) < 2:
            return every[:FIRST_COLUMNS]
        rows = self.answer.frame
        settings = [
            name
            for name in SETTING
            if name in every and name not in chosen and rows[name].n_unique() > 1
        ]
        return [*chosen[:1], *settings, *chosen[1:]]

    def first_rows(self, count: int = FIRST_ROWS) -> list[list["Cell"]]:
        """Cells of the first rows, as text."""
        rows = self.answer.frame.head(count).iter_rows(named=True)
        return [[Cell.of(column, row) for column in self.columns] for row in rows]

    def data(self) -> dict[str, Any]:
        """Data that report.js sorts, filters and shows."""
        source = self.answer.query.source
        return {
            "key": list(self.answer.query.key),
            "source": None if source is None else asdict(source),
            "language": self.answer.query.language,
            "rows": self.answer.frame.height,
            "columns": [self._column(column) for column in self.columns],
        }

    def _column(self, column: Shown) -> dict[str, Any]:
        named = ("name", "label", "kind", "first")
        found: dict[str, Any] = {name: getattr(column, name) for name in named}
        found |= _packed(self.answer.frame[column.name], column.kind)
        for part, name in (("low", column.low), ("high", column.high), ("prefix", column.prefix)):
            if name is not None:
                found[part] = _numbers(self.answer.frame[name])
        return found


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell as text."""

    text: str
    more: str = ""
    """The interval and the prefix, in smaller type."""
    flags: tuple[str, ...] = ()

    @classmethod
    def of(cls, column: Shown, row: Mapping[str, Any]) -> "Cell":
        """The cell of `column` in one row of the answer."""
        value = row[column.name]
        if column.kind == "flags":
            return cls("", flags=(value,) if isinstance(value, str) else tuple(value or ()))
        if column.kind == "list":
            return cls(", ".join(map(str, value or ())))
        if column.kind in ("text", "words", "run"):
            return cls(MISSING if value is None else str(value))
        more = []
        if column.low and column.high and row[column.low] is not None:
            more.append(f"[{number(row[column.low])}, {number(row[column.high])}]")
        if column.prefix and row[column.prefix] is not None:
            more.append(f"at {row[column.prefix]}")
        return cls(number(value), " ".join(more))


def _unit(name: str, declared: Mapping[str, Column]) -> str:
    """The unit of a column; empty if its heading says it."""
    unit = declared[name].unit if name in declared else ""
    return "" if unit == label(name) else unit


def _there(name: str, names: set[str]) -> str | None:
    return name if name in names else None


def _kind(name: str, dtype: pl.DataType) -> Kind:
    if name in ("flags", "flag"):
        return "flags"
    if name in RUNS:
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
    places = {word: place for place, word in enumerate(dict.fromkeys(rows))}
    return {"words": list(places), "codes": [places[row] for row in rows]}


def _numbers(column: pl.Series) -> list[float | bool | None]:
    """Numbers for JSON: NaN and infinity become null, like missing values."""
    if not column.dtype.is_float():
        return column.to_list()
    return [
        None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")
        for value in column
    ]
