"""A page: the answer to a question, in order, for every writer.

It opens with a sentence that is a conclusion, its numbers with intervals, and a picture. Sections
of sentences, charts and tables follow; then flags, and the next command.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.pages.table import Table, flags_in
from lpp.analyze.pages.words import Sentence
from lpp.sql.queries.saved import Query as SavedQuery

Frames = Mapping[str, pl.DataFrame]
"""Rows by the name of their table."""

Panels = Mapping[str, Any]
"""Specifications by index; that of a chart's only panel is empty."""


def drawing(name: str, *args: Any, **kwargs: Any) -> Callable[[], Any]:
    """What draws a chart by the function `name` of `lpp.analyze`, which imports it when it is
    called: text needs no chart library.
    """
    return lambda: getattr(import_module("lpp.analyze"), name)(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart, ready to be shown. A page divides it into its panels, each as wide as its
    container; a picture has all of it.
    """

    name: str
    section: str
    """Name of the section that shows it."""
    table: Table
    """The table behind the chart; without rows there is no chart."""
    title: str
    text: str
    """How to read the chart."""
    draw: Callable[[], Any]
    folded: bool = False
    """Whether the page shows the chart only on demand."""
    opens: bool = False
    """Whether it is the picture beside the opening sentence."""

    def specifications(self) -> Panels:
        """The panels as Vega-Lite with their data; empty if there is nothing to draw."""
        from lpp.analyze.charts.export import panels_of

        return {} if self.table.missing else panels_of(self.draw())

    def write(self, path: Path) -> None:
        """Write the chart as a picture, in the format of the suffix of `path`: png or svg."""
        from lpp.analyze.charts.export import save_chart

        save_chart(self.draw(), path)


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, the sentences below it, charts, and the tables with the numbers."""

    name: str
    title: str
    lead: str = ""
    """How to read the cells of the tables, on a line."""
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[Sentence, ...] = ()
    short: str = ""
    """The title in the list of sections; empty: the title."""
    more: str = ""
    """How to read the tables, in full: text and Markdown show it only with --all."""
    brief: bool = True
    """Whether text and Markdown show it; otherwise only with --all."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show but the heading."""
        charts = any(not chart.table.missing for chart in self.charts)
        return not (self.notes or charts or any(not table.missing for table in self.tables))

    def shown(self, everything: bool) -> list[Table]:
        """Tables for text and Markdown, each with the rows that are shown."""
        tables = (t for t in self.tables if t.missing is None and (everything or t.brief))
        return [(table if everything else table.in_short()).without_gaps() for table in tables]


@dataclass(frozen=True, slots=True)
class Figure:
    """A cell of the opening's numbers: a run, or a value with its interval and its run."""

    text: str = ""
    interval: str = ""
    run: str | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """The first screen of a page."""

    sentence: Sentence
    """A conclusion."""
    setting: str = ""
    """The setting of the numbers; empty if there are none."""
    head: tuple[tuple[str, str], ...] = ()
    """Headings of the numbers, each with its unit."""
    rows: tuple[tuple[Figure, ...], ...] = ()
    """The numbers: a row of few, since they are large."""
    warnings: tuple[Sentence, ...] = ()
    """What to keep in mind, such as flags of these numbers; one per line."""
    repeated: bool = False
    """Whether the first table of the page has these numbers too: a terminal shows that alone."""

    @property
    def caption(self) -> str:
        """Setting of the numbers, and what their intervals are where there are any."""
        certain = any(figure.interval for row in self.rows for figure in row)
        return f"{self.setting}; 95 % intervals" if certain else self.setting


@dataclass(frozen=True, slots=True)
class RunOrigin:
    """Origin of the numbers of one run: if it is equal, so are they."""

    run: str
    facts: tuple[tuple[str, str], ...]
    """Name and value, such as the fingerprint of the weights."""
    command: str
    plan: str
    """The plan as JSON."""
    checksums: tuple[tuple[str, str], ...]
    """Each committed object's path in the store and its xxh3 checksum."""
    sites: tuple[str, ...]
    """Sites that the plan names."""
    problem: str | None
    """Why the numbers cannot be traced to a complete, intact run; None if they can."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Origin of all numbers of a page."""

    database: str | None = None
    """SHA-256 of `profiles.duckdb`; None where there is none."""
    versions: tuple[tuple[str, str], ...] = ()
    """Names and versions of libraries; a page without them shows no origin."""
    runs: tuple[RunOrigin, ...] = ()
    unprofiled: tuple[str, ...] = ()
    """Runs of the store that are not in the database."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """An answer."""

    title: str
    about: Sentence = ()
    """The subject, below the title."""
    opening: Opening
    findings: tuple[Sentence, ...] = ()
    """Further findings; then what to keep in mind."""
    further: tuple[Sentence, ...] = ()
    """More of both: text and Markdown show it only with --all."""
    sections: tuple[Section, ...]
    meanings: Mapping[str, str] = field(default_factory=dict)
    """Meaning of each flag."""
    runs: RunStyles
    """Letter, name and colour of every run."""
    next: tuple[str, ...] = ()
    """Commands that go on from here."""
    settings: Any = None
    """The settings that were asked for, as their dataclass."""
    data: Frames = field(default_factory=dict)
    """Tables for programs, by name, with every column. JSON has all of them, CSV the first."""
    parted_by: str = " "
    """Parts the members of a list in CSV."""
    store: str = ""
    """Path of the store as it was given."""
    origin: Origin = Origin()
    saved: tuple[SavedQuery, ...] = ()
    plans: Table | None = None
    """The plans of the database; None for a page that needs no database."""
    lacking: Sentence = ()
    """What was not computed, and the next command."""

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """Every table of the page."""
        return tuple(table for section in self.sections for table in section.tables)

    @cached_property
    def flags(self) -> Mapping[str, str]:
        """Each flag that any table shows, sorted, with its meaning."""
        return explained(self.tables, self.meanings)

    @property
    def flags_of_data(self) -> Mapping[str, str]:
        """Each flag of a row of `data`, sorted, with its meaning."""
        return _explained(map(flags_in, self.data.values()), self.meanings)

    @property
    def hidden(self) -> Iterator[str]:
        """What text and Markdown show only with --all, by title."""
        if any(t.in_short() is not t for s in self.sections if s.brief for t in s.shown(True)):
            yield "all rows"
        for section in self.sections:
            if section.brief:
                yield from (t.title for t in section.tables if not (t.brief or t.missing))
            elif not section.is_empty:
                yield section.short or section.title
        if self.further or any(section.more for section in self.sections if section.brief):
            yield "how to read them"

    @property
    def charts(self) -> Iterator[Chart]:
        """Every chart that has data."""
        for section in self.sections:
            yield from (chart for chart in section.charts if not chart.table.missing)


UNKNOWN_FLAG: Final = "explained by a newer release"


def explained(tables: Iterable[Table], meanings: Mapping[str, str]) -> Mapping[str, str]:
    """Flags that any of `tables` shows, sorted, with their meanings."""
    return _explained((table.flags() for table in tables), meanings)


def _explained(parts: Iterable[set[str]], meanings: Mapping[str, str]) -> Mapping[str, str]:
    return {flag: meanings.get(flag, UNKNOWN_FLAG) for flag in sorted(set().union(*parts))}
