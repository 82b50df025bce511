"""The report as Markdown, for a pull request: what differs, profiles, flags, where from."""

import shlex
from collections.abc import Iterator
from typing import Final

from lpp.analyze.report.answers import Answer
from lpp.analyze.report.content import Report, Section
from lpp.analyze.report.html import command
from lpp.analyze.report.tables import Cell, Shown, TableView
from lpp.analyze.report.words import Code, Sentence
from lpp.analyze.text.markdown import code, escaped, row

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
"""Rows of each table: a comment has its limits."""

LEFT_OUT: Final = frozenset(
    {"revision", "architecture", "logit_positions", "backend", "stored_dtype", "compute_dtype"}
)
"""Columns of the table of runs that the page has and the summary has not."""


def as_markdown(report: Report) -> str:
    """The summary, as GitHub and GitLab render it."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield "## Latent performance profiles"
    yield ""
    for sentence in report.findings:
        yield f"- {said(sentence)}"
    for section in report.sections:
        yield from _section(section, report)
    yield ""
    yield "### Provenance"
    yield ""
    if report.origin.database:
        yield f"- database: SHA-256 `{report.origin.database}`"
    for run in report.origin.runs:
        facts = dict(run.facts)
        told = [f"{k} {code(facts[k])}" for k in ("weights", "texts (prompt set)") if k in facts]
        trouble = f" ({escaped(run.problem)})" if run.problem else ""
        yield f"- {code(run.run)}: {', '.join(told)}{trouble}"
    yield f"- {', '.join(f'{name} {value}' for name, value in report.origin.versions)}"
    yield ""
    yield f"All tables: {code(f'lpp-analyze report {shlex.quote(report.store)} -o report.html')}"


def _section(section: Section, report: Report) -> Iterator[str]:
    shown = [answer for answer in section.answers if answer.query.name in TABLES]
    flags = report.flags if section.name == "distrust" else {}
    if not (shown or section.notes or flags):
        return
    yield ""
    yield f"### {section.title}"
    for sentence in section.notes:
        yield ""
        yield said(sentence)
    for answer in shown:
        yield ""
        if answer.missing:
            how = f" {code(command(answer.query, report.store))} fills it."
            told = "" if answer.fault else how
            yield f"{answer.query.title}: {escaped(answer.missing)}.{told}"
        else:
            yield from _table(TableView(answer), answer)
    if flags:
        yield ""
        yield from (f"- {code(flag)}: {escaped(meaning)}" for flag, meaning in flags.items())


def _table(view: TableView, answer: Answer) -> Iterator[str]:
    yield f"**{answer.query.title}**"
    yield ""
    kept = [place for place, column in enumerate(view.columns) if column.name not in LEFT_OUT]
    columns = [view.columns[place] for place in kept]
    yield row(_heading(column) for column in columns)
    yield row("---:" if column.kind == "number" else "---" for column in columns)
    for cells in view.first_rows(ROWS):
        yield row(_cell(cells[place], view.columns[place]) for place in kept)
    if answer.frame.height > ROWS:
        yield ""
        yield f"{answer.frame.height - ROWS} more rows are in the database."


def _heading(column: Shown) -> str:
    return f"{column.label} ({column.unit})" if column.unit else column.label


def _cell(cell: Cell, column: Shown) -> str:
    if column.kind == "flags":
        return ", ".join(code(flag) for flag in cell.flags)
    text = escaped(cell.text)
    return f"{text} {escaped(cell.more)}".strip()


def said(sentence: Sentence) -> str:
    """A sentence; run ids and commands as code."""
    return "".join(
        escaped(part)
        if isinstance(part, str)
        else code(part.text)
        if isinstance(part, Code)
        else escaped(part.text)
        for part in sentence
    )
