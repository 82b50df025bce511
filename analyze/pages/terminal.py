"""A page on a terminal: 80 columns, no word broken.

A table takes the first of these forms that fits: errors beside their numbers; short headings;
errors below their numbers; fewer columns, which a line counts.
"""

import io
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len

from lpp.analyze.pages.page import Page, Section
from lpp.analyze.pages.table import Cell, Field, Table, shared_unit
from lpp.analyze.pages.words import Flag, Part, Run, Sentence
from lpp.store.commands.escaping import escape
from lpp.store.format.run_names import name_and_id

if TYPE_CHECKING:
    from rich.table import Table as RichTable

WIDTH: Final = 80
RUN_WIDTH: Final = 20
"""Columns of a run's name in a table; a longer one is broken after a hyphen or at a space."""

LEAST_PROSE: Final = 20
"""Columns that a text is shortened to before columns are left out."""


def as_text(page: Page, *, everything: bool = False) -> str:
    """`page` for a terminal; everything: also what is not brief."""
    return "".join(_parts(page, everything))


def _parts(page: Page, everything: bool) -> Iterator[str]:
    write = _Writer(page)
    yield from write.legend()
    if page.opening.sentence:
        yield write.paragraph(page.opening.sentence)
    yield write.opening()
    for sentence in page.findings:
        yield write.paragraph(sentence)
    shown = [section for section in page.sections if everything or section.brief]
    for section in shown:
        yield from write.section(section, everything)
    yield "\n"
    yield from write.explained()
    hidden = any(
        not (section.brief and table.brief) for section in page.sections for table in section.tables
    )
    if hidden and not everything:
        yield wrapped("More tables: --all.")
    for command in page.next:
        yield f"Next: {command}\n"


class _Writer:
    """Writes the parts of one page; knows its runs and flags."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.numbers = {flag: place for place, flag in enumerate(page.flags, start=1)}
        self.used: set[str] = set()
        """Flags that a table which was written has."""

    def legend(self) -> Iterator[str]:
        """A line on each run: its letter, its name, and the id, which commands take."""
        for run in self.page.runs.order:
            yield name_and_id(f"{self.page.runs.letter(run)}  {self._name(run)}", run)
            yield "\n"

    def paragraph(self, sentence: Sentence, indent: str = "") -> str:
        """A sentence as lines."""
        return wrapped(said(sentence, self.page), indent)

    def opening(self) -> str:
        """The numbers of the opening."""
        opening = self.page.opening
        out = ""
        if opening.rows:
            made = _plain_table()
            for place, (name, unit) in enumerate(opening.head):
                head = f"{name}\n{unit}" if unit else name
                made.add_column(head, justify="right" if place else "left", no_wrap=True)
            for cells in opening.rows:
                texts = (
                    "\n".join(
                        filter(
                            None,
                            (
                                figure.text,
                                figure.interval,
                                "" if figure.run is None else self._name(figure.run),
                            ),
                        )
                    )
                    for figure in cells
                )
                made.add_row(*texts)
            out = "\n" + _rendered(made) + (wrapped(f"{opening.setting}; 95 % intervals."))
        return out + "".join(map(self.paragraph, opening.warnings))

    def section(self, section: Section, everything: bool) -> Iterator[str]:
        """A section with its tables."""
        tables = [t for t in section.tables if t.missing is None and (everything or t.brief)]
        if not tables and not section.notes:
            return
        yield f"\n{section.title}\n" if section.title else ""
        for note in section.notes:
            yield self.paragraph(note)
        for table in tables:
            if len(section.tables) > 1 or not section.title:
                unit = shared_unit([field for field in table.fields if field.first])
                yield "\n" + wrapped(f"{table.title}, {unit}" if unit else table.title)
            yield "\n" + self.table(table)
        if tables and section.lead:
            yield wrapped(section.lead)

    def table(self, table: Table) -> str:
        """The rows of a table, in the first form that fits."""
        fields = [field for field in table.fields if field.first]
        rows = [
            [cell for cell, field in zip(cells, table.fields, strict=True) if field.first]
            for cells in table.rows()
        ]
        self.used |= table.flags()
        for short, stacked in ((False, False), (True, False), (True, True)):
            text = self._fitting(fields, rows, short=short, stacked=stacked)
            if text is not None:
                return text
        for count in range(1, len(fields) - 1):  # the last go first, flags never
            left_out = [place for place, f in enumerate(fields) if f.kind != "flags"][-count:]
            places = [place for place in range(len(fields)) if place not in left_out]
            kept, cells = [fields[p] for p in places], [[row[p] for p in places] for row in rows]
            text = self._fitting(kept, cells, short=True, stacked=True)
            if text is not None:
                names = ", ".join(fields[place].label for place in left_out)
                return text + wrapped(f"Also in --format csv: {names}.")
        return ""

    def _fitting(
        self, fields: Sequence[Field], rows: Sequence[Sequence[Cell]], *, short: bool, stacked: bool
    ) -> str | None:
        """The table, or None where it is wider than a terminal."""
        unit = shared_unit(fields)
        heads = [_head(field, unit, short=short) for field in fields]
        texts = [
            [self._cell(*pair, stacked=stacked) for pair in zip(fields, cells, strict=True)]
            for cells in rows
        ]
        widths = [
            max(map(_width, (head, *(row[place] for row in texts))))
            for place, head in enumerate(heads)
        ]
        prose = [place for place, field in enumerate(fields) if field.kind == "words"]
        free = WIDTH - sum(widths) - 2 * (len(widths) - 1)
        for place in prose:
            least = max(LEAST_PROSE, _width(heads[place]))
            width = max(least, widths[place] + free) if free < 0 else widths[place]
            free += widths[place] - width
            for row in texts:
                row[place] = tail(row[place], width)
        if free < 0:
            return None
        made = _plain_table()
        for field, head in zip(fields, heads, strict=True):
            justify = "right" if field.kind == "number" else "left"
            made.add_column(head, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        before: str | None = None
        for row in texts:
            shown = list(row)
            if fields[0].kind == "run":  # a run's name once, above its rows
                shown[0] = "" if row[0] == before else row[0]
                before = row[0]
            made.add_row(*shown)
        return _rendered(made)

    def _cell(self, field: Field, cell: Cell, *, stacked: bool) -> str:
        if field.kind == "flags":
            return marks(cell.flags, self.numbers)
        if field.kind == "run":
            return broken(self._name(cell.text), RUN_WIDTH)
        if field.kind == "words":
            return cell.text
        text = escape(cell.text, keep="")
        prefix = f"({cell.prefix})" if cell.prefix else ""
        beside = " ".join(filter(None, (cell.error or cell.interval, prefix)))
        if not beside:
            return text
        return f"{text}\n{beside.replace('± ', '±')}" if stacked else f"{text} {beside}"

    def _name(self, run: str) -> str:
        return escape(self.page.runs.names.get(run, run), keep="")

    def explained(self) -> Iterator[str]:
        """A line or two on each flag in sight."""
        for flag, place in self.numbers.items():
            if flag in self.used:
                text = f"[{place}] {flag}: {self.page.flags[flag].removesuffix('.')}."
                yield from (f"{x}\n" for x in textwrap.wrap(text, WIDTH, subsequent_indent="    "))


def said(sentence: Sentence, page: Page) -> str:
    """A sentence as text: runs by name, or in short by their letter."""
    return "".join(_part(part, page) for part in sentence)


def _part(part: Part, page: Page) -> str:
    if isinstance(part, Run) and part.text in page.runs.names:
        style = page.runs[part.text]
        return style.letter if part.short else escape(style.name, keep="")
    if isinstance(part, Flag):
        return part.flag
    return escape(part if isinstance(part, str) else part.text, keep="")


def wrapped(text: str, indent: str = "") -> str:
    """`text` as lines within `WIDTH` columns, after `indent`; those after the first have two more
    spaces.
    """
    filled = textwrap.fill(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_on_hyphens=False,
        break_long_words=False,
    )
    return f"{filled}\n"


def broken(name: str, width: int = RUN_WIDTH) -> str:
    """The name or id of a run in lines, broken after a hyphen or at a space.

    A hash stays whole. A longer word is broken anywhere.

    >>> print(broken("smollm2-135m-4-bits-96cb1169"))
    smollm2-135m-4-bits-
    96cb1169
    >>> print(broken("SmolLM2-135M-Instruct Q4_1"))
    SmolLM2-135M-
    Instruct Q4_1
    """
    lines = [""]
    for part in re.findall(rf"[^- ]{{1,{width - 1}}}[- ]?|[- ]", name):
        if lines[-1] and len(lines[-1]) + len(part.rstrip(" ")) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip(" ") for line in lines)


def marks(flags: Sequence[str], numbers: Mapping[str, int]) -> str:
    """The numbers of `flags` as superscripts, to stand behind a value.

    >>> marks(["template"], {"collapsed": 1, "template": 2})
    '²'
    """
    return "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(digit)] for flag in flags for digit in str(numbers[flag]))


def token(text: str) -> str:
    r"""A token so that all of it can be seen.

    >>> token(" the"), token("\n\t"), token("\x1b[31m")
    ('␣the', '\\n\\t', '\\x1b[31m')
    """
    for character, shown in ((" ", "␣"), ("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r")):
        text = text.replace(character, shown)
    return escape(text, keep="")


def tail(context: str, width: int) -> str:
    r"""The end of a text that fits into `width` columns, without line breaks.

    >>> tail("The quick brown\nfox", 12), tail("fox", 12)
    ('… brown\\nfox', 'fox')
    """
    return _shortened(context, width, lambda text: token(text).replace("␣", " "))


def _shortened(context: str, width: int, show: Callable[[str], str]) -> str:
    context = context.lstrip(" ")
    shown = [show(context[start:]) for start in range(len(context))]
    whole = [f"…{end}" for end in shown[1:]]
    return next((end for end in (*shown[:1], *whole) if cell_len(end) <= width), "")


def _head(field: Field, unit: str, *, short: bool) -> str:
    """unit: of the whole table, which its title has."""
    if field.kind == "flags":
        return ""
    name = (field.short or field.label) if short else field.label
    return f"{name}\n{field.unit}" if field.unit and not unit else name


def _width(text: str) -> int:
    return max(map(cell_len, text.split("\n")))


def _plain_table() -> "RichTable":
    """An empty table in the style of every command."""
    from rich import box
    from rich.table import Table

    return Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True
    )


def _rendered(table: "RichTable") -> str:
    """`table` as text without control sequences."""
    from rich.console import Console

    console = Console(
        file=io.StringIO(), width=WIDTH, force_terminal=False, markup=False, highlight=False
    )
    with console.capture() as capture:
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())
