"""A page in the Markdown of GitHub and GitLab, for a pull request."""

import re
import shlex
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.pages.page import Figure, Page, Section
from lpp.analyze.pages.table import Cell, Field, Table, shared_unit
from lpp.analyze.pages.words import Code, Flag, Part, Run, Sentence
from lpp.store.terminal.escaping import escape

_ROWS: Final = 40
"""Most rows of a table: platforms limit the length of a comment."""


def as_markdown(page: Page, *, everything: bool = False) -> str:
    """`page` for a document; everything: also what is not brief."""
    return "\n".join(_lines(page, everything)) + "\n"


def _lines(page: Page, everything: bool) -> Iterator[str]:
    yield f"## {escaped(page.title)}"
    yield ""
    if len(page.about) > 2 or (page.about and not page.saved):
        yield said(page.about, page.runs)
        yield ""
    yield from _opening(page)
    findings = (*page.findings, *page.further) if everything else page.findings
    if findings:
        yield ""
        yield from (f"- {said(sentence, page.runs)}" for sentence in findings)
    for section in page.sections:
        if everything or section.brief:
            yield from _section(section, page, everything)
    if page.flags:
        yield ""
        yield from (f"- {code(flag)}: {escaped(meaning)}" for flag, meaning in page.flags.items())
    if page.lacking:
        yield from ("", said(page.lacking, page.runs))
    if page.runs.order:
        yield ""
        for run in page.runs.order:
            if page.runs.name(run) != run:
                yield f"- {_named(run, page.runs)}: run {code(run)}"
    yield from _provenance(page)
    for command in page.next:
        yield from ("", f"Next: {code(command)}")


def _opening(page: Page) -> Iterator[str]:
    """What the first screen says."""
    opening = page.opening
    if opening.sentence:
        yield said(opening.sentence, page.runs)
    if opening.rows:
        yield ""
        yield row(_heading(*head) for head in opening.head)
        yield row("---" for _ in opening.head)
        for cells in opening.rows:
            yield row(_figure(cell, page.runs) for cell in cells)
        yield ""
        yield f"{escaped(opening.caption)}."
    if opening.warnings:
        yield ""
    for warning in opening.warnings:
        yield f"- {said(warning, page.runs)}"


def _figure(cell: Figure, runs: RunStyles) -> str:
    words = f"{cell.text} {cell.interval}".strip()
    whose = "" if cell.run is None else _named(cell.run, runs)
    return " ".join(part for part in (escaped(words), whose) if part)


def _named(run: str, runs: RunStyles) -> str:
    """Letter and name of a run; its id if it has no plan."""
    return escaped(runs.label(run)) if run in runs.names else code(run)


def _section(section: Section, page: Page, everything: bool) -> Iterator[str]:
    shown = section.shown(everything)
    if not (shown or section.notes):
        return
    yield ""
    yield f"### {escaped(section.title)}"
    for sentence in section.notes:
        yield ""
        yield said(sentence, page.runs)
    for table in shown:
        yield ""
        yield from _table(table, page.runs)
    for reading in (section.lead, section.more if everything else ""):
        if shown and reading:
            yield from ("", escaped(reading))


def _table(table: Table, runs: RunStyles) -> Iterator[str]:
    """The columns that the page shows first."""
    indices = [k for k, field in enumerate(table.fields) if field.first]
    fields = [table.fields[k] for k in indices]
    unit = shared_unit(fields)
    yield f"**{escaped(table.heading(unit))}**"
    yield ""
    yield row(_heading(field.label, "" if unit else field.unit) for field in fields)
    yield row("---:" if field.kind == "number" else "---" for field in fields)
    for cells in table.rows(_ROWS):
        yield row(_cell(cells[k], table.fields[k], runs) for k in indices)
    if table.frame.height > _ROWS:
        yield ""
        yield f"{table.frame.height - _ROWS} more rows are in the database."


def _heading(label: str, unit: str) -> str:
    return escaped(f"{label} ({unit})" if unit else label)


def _cell(cell: Cell, field: Field, runs: RunStyles) -> str:
    if field.kind == "flags":
        return ", ".join(code(flag) for flag in cell.flags)
    if field.kind == "run" and cell.text in runs.names:
        return _named(cell.text, runs)
    return f"{escaped(cell.text)} {escaped(cell.more)}".strip()


def _provenance(page: Page) -> Iterator[str]:
    if not page.saved:
        return
    yield from ("", "### Provenance", "")
    if page.origin.database:
        yield f"- database: SHA-256 `{page.origin.database}`"
    for run in page.origin.runs:
        facts = dict(run.facts)
        shown = [f"{k} {code(facts[k])}" for k in ("weights", "texts (prompt set)") if k in facts]
        trouble = f" ({escaped(run.problem)})" if run.problem else ""
        yield f"- {_named(run.run, page.runs)}, {code(run.run)}: {', '.join(shown)}{trouble}"
    yield f"- {', '.join(f'{name} {value}' for name, value in page.origin.versions)}"
    yield ""
    yield f"All tables: {code(f'lpp-analyze report {shlex.quote(page.store)} -o report.html')}"


def said(sentence: Sentence, runs: RunStyles) -> str:
    """A sentence as Markdown: runs by letter and name, commands and flags as code."""
    return "".join(map(partial(_part, runs), sentence))


def _part(runs: RunStyles, part: Part) -> str:
    if isinstance(part, str):
        return escaped(part)
    if isinstance(part, Run):
        known = part.text in runs.names
        return runs.letter(part.text) if part.short and known else _named(part.text, runs)
    return code(part.text) if isinstance(part, Code | Flag) else escaped(part.text)


# the language


def row(cells: Iterable[str]) -> str:
    """A line of a table.

    >>> row(["a", "b"])
    '| a | b |'
    """
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    r"""Text that means itself in Markdown, on one line.

    >>> escaped("<img src=x> | *a*")
    '&lt;img src=x&gt; \\| \\*a\\*'
    """
    text = _one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_{}\[\]|#@~])", r"\\\1", text.replace(">", "&gt;"))


def code(text: str) -> str:
    r"""Text in a code span that it cannot leave, in a table or out of it.

    >>> code("a`b|c")
    '`` a`b\\|c ``'
    """
    text = _one_line(text).replace("|", "\\|")
    fence = _fence(text, 1)
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def fenced(command: str) -> str:
    """A command as a block that it cannot leave."""
    fence = _fence(command, 3)
    return f"{fence}bash\n{command}\n{fence}"


def _fence(text: str, least: int) -> str:
    """More backticks than stand together in `text`."""
    return "`" * max(least, max((len(run) for run in re.findall("`+", text)), default=0) + 1)


def _one_line(text: str) -> str:
    """`text` with single spaces; controls and direction marks written out, as on a terminal."""
    return escape(re.sub(r"[ \t\r\n\f\v]+", " ", text), keep="")
