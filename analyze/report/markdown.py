"""The report as Markdown, for a pull request: differences, profiles, flags, provenance."""

import shlex
from collections.abc import Iterator
from functools import partial
from typing import Final

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.report.content import Report, Section
from lpp.analyze.report.summary import Figure
from lpp.analyze.report.tables import Cell, Shown, TableView
from lpp.analyze.report.words import Code, Flag, Part, Run, Sentence
from lpp.analyze.text.markdown import code, escaped, fenced, row

TABLES: Final = (
    "runs",
    "profiles",
    "training",
    "drift",
    "hourglass",
    "item-analyses",
    "correlations",
)
"""Tables of the summary; the page has all."""

ROWS: Final = 40
"""Most rows of a table: platforms limit the length of a comment."""


def as_markdown(report: Report) -> str:
    """The summary of `report`, in the Markdown of GitHub and GitLab."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield "## Latent performance profiles"
    yield ""
    if len(report.about) > 2:  # more than the store: what the report leaves out
        yield said(report.about, report.styles)
        yield ""
    yield from _summary(report)
    for section in report.sections:
        yield from _section(section, report)
    yield from _lacking(report)
    yield ""
    yield "### Provenance"
    yield ""
    if report.origin.database:
        yield f"- database: SHA-256 `{report.origin.database}`"
    for run in report.origin.runs:
        facts = dict(run.facts)
        told = [f"{k} {code(facts[k])}" for k in ("weights", "texts (prompt set)") if k in facts]
        trouble = f" ({escaped(run.problem)})" if run.problem else ""
        yield f"- {_named(run.run, report.styles)}, {code(run.run)}: {', '.join(told)}{trouble}"
    yield f"- {', '.join(f'{name} {value}' for name, value in report.origin.versions)}"
    yield ""
    yield f"All tables: {code(f'lpp-analyze report {shlex.quote(report.store)} -o report.html')}"


def _summary(report: Report) -> Iterator[str]:
    """What the first screen of the page says."""
    summary = report.summary
    if summary is None:
        yield from (f"- {said(sentence, report.styles)}" for sentence in report.findings)
        return
    yield said(summary.sentence, report.styles)
    if summary.rows:
        yield ""
        yield row(_heading(*head) for head in summary.head)
        yield row("---" for _ in summary.head)
        for cells in summary.rows:
            yield row(_figure(cell, report.styles) for cell in cells)
        yield ""
        yield f"95 % intervals; {escaped(summary.setting)}."
    if summary.warnings:
        yield ""
    for warning in summary.warnings:
        yield f"- {said(warning, report.styles)}"


def _figure(cell: Figure, styles: RunStyles) -> str:
    words = f"{cell.text} {cell.interval}".strip()
    whose = "" if cell.run is None else _named(cell.run, styles)
    return " ".join(part for part in (escaped(words), whose) if part)


def _named(run: str, styles: RunStyles) -> str:
    """Letter and name of a run; its id if it has no plan."""
    return escaped(styles.label(run)) if run in styles.names else code(run)


def _lacking(report: Report) -> Iterator[str]:
    """What was not computed, and the command."""
    if report.lacking is None:
        return
    yield ""
    yield "### What was not computed"
    for what, advice in (
        ("One command computes these and writes the report again:", report.lacking.ready),
        ("These need what only you have:", report.lacking.with_files),
    ):
        if advice is not None:
            yield from ("", what, "", *(f"- {escaped(title)}" for title in advice.titles))
            yield from ("", fenced(advice.command))
    if report.lacking.empty:
        yield from ("", "No command fills these:", "")
        yield from (f"- {escaped(f'{title}: {why}')}" for title, why in report.lacking.empty)


def _section(section: Section, report: Report) -> Iterator[str]:
    shown = [answer for answer in section.answers if answer.query.name in TABLES]
    flags = report.flags if section.name == "distrust" else {}
    if not (shown or section.notes or flags):
        return
    yield ""
    yield f"### {section.title}"
    for sentence in section.notes:
        yield ""
        yield said(sentence, report.styles)
    for answer in shown:
        yield ""
        yield from _table(TableView(answer), report.styles)
    if flags:
        yield ""
        yield from (f"- {code(flag)}: {escaped(meaning)}" for flag, meaning in flags.items())


def _table(view: TableView, styles: RunStyles) -> Iterator[str]:
    """The columns that the page shows first."""
    yield f"**{view.answer.query.title}**"
    yield ""
    shown = [place for place, column in enumerate(view.columns) if column.first]
    columns = [view.columns[place] for place in shown]
    yield row(_heading(column.label, column.unit) for column in columns)
    yield row("---:" if column.kind == "number" else "---" for column in columns)
    for cells in view.first_rows(ROWS):
        yield row(_cell(cells[place], view.columns[place], styles) for place in shown)
    if view.answer.frame.height > ROWS:
        yield ""
        yield f"{view.answer.frame.height - ROWS} more rows are in the database."


def _heading(label: str, unit: str) -> str:
    return f"{label} ({unit})" if unit else label


def _cell(cell: Cell, column: Shown, styles: RunStyles) -> str:
    if column.kind == "flags":
        return ", ".join(code(flag) for flag in cell.flags)
    if column.kind == "run" and cell.text in styles.names:
        return _named(cell.text, styles)
    text = escaped(cell.text)
    return f"{text} {escaped(cell.more)}".strip()


def said(sentence: Sentence, styles: RunStyles) -> str:
    """A sentence as Markdown: runs by letter and name, commands and flags as code."""
    return "".join(map(partial(_part, styles), sentence))


def _part(styles: RunStyles, part: Part) -> str:
    if isinstance(part, str):
        return escaped(part)
    if isinstance(part, Run):
        known = part.text in styles.names
        return styles.letter(part.text) if part.short and known else _named(part.text, styles)
    return code(part.text) if isinstance(part, Code | Flag) else escaped(part.text)
