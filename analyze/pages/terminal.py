"""A page on a terminal: 80 columns, no word broken.

A table takes the first of these forms that fits: errors beside their numbers; short headings;
errors below their numbers; fewer columns, which a line counts. Few rows that are compared stand
side by side.
"""

import io
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from rich.cells import cell_len

from lpp.analyze.pages.page import Figure, Page, Section
from lpp.analyze.pages.table import Cell, Field, Table, shared_unit
from lpp.analyze.pages.words import Flag, Part, Run, Sentence, clause
from lpp.analyze.quantities.quantity import capital
from lpp.store.format.run_names import name_and_id
from lpp.store.terminal.escaping import escape

_WIDTH: Final = 80
RUN_WIDTH: Final = 20
"""Columns of a run's name in a table; a longer one is broken after a hyphen or at a space."""

NARROW: Final = 17
"""The same where three runs stand side by side."""

SIDE_BY_SIDE: Final = 3
"""Most rows that stand side by side."""

_RAISED: Final = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_PLAIN: Final = {"± ": "+-", " ±": "+-", "±": "+-", "─": "-", "–": "-"} | dict(
    zip(_RAISED, "0123456789", strict=True)
)
"""In order: what stands for a character in ASCII."""

LEAST_PROSE: Final = 20
"""Columns that a text is shortened to before columns are left out."""


def as_text(page: Page, *, everything: bool = False) -> str:
    """`page` for a terminal; everything: also what is not brief."""
    return "".join(_parts(page, everything, _Writer(page)))


def in_brief(page: Page) -> str:
    """The beginning of `page` for a terminal: its first sentence and numbers, runs by name."""
    write = _Writer(page, letters=False)
    return write.paragraph(page.opening.sentence) + write.opening()


def _parts(page: Page, everything: bool, write: "_Writer") -> Iterator[str]:
    yield from write.legend()
    if page.opening.sentence:
        yield write.paragraph(page.opening.sentence)
    shown = [section for section in page.sections if everything or section.brief]
    write.number(shown, everything)
    yield write.opening(numbers=not (page.opening.repeated and shown))
    for sentence in (*page.findings, *page.further) if everything else page.findings:
        yield write.paragraph(sentence)
    for section in shown:
        yield from write.section(section, everything)
    yield "\n" if write.numbers else ""
    yield from write.explained(everything)
    if not everything and (hidden := list(dict.fromkeys(page.hidden))):
        yield added(hidden)
    for command in page.next:
        yield f"Next: {command}\n"


class _Writer:
    """Writes the parts of one page; knows its runs and flags.

    letters: whether sentences may call runs by letter, which the legend explains.
    """

    def __init__(self, page: Page, *, letters: bool = True) -> None:
        self.page, self.letters = page, letters
        self.numbers: dict[str, int] = {}
        """Numbers of the flags that the written tables mark, by flag."""

    def legend(self) -> Iterator[str]:
        """A line on each run: its letter, its name, and the id, which commands take."""
        for run in self.page.runs.order:
            yield name_and_id(f"{self.page.runs.letter(run)}  {self._name(run)}", run)
            yield "\n"

    def paragraph(self, sentence: Sentence, indent: str = "") -> str:
        """A sentence as lines."""
        return wrapped(said(sentence, self.page, letters=self.letters), indent)

    def number(self, sections: Sequence[Section], everything: bool) -> None:
        """Number the flags that shown tables of `sections` mark."""
        tables = (table for section in sections for table in section.shown(everything))
        marked = {flag for table in tables for flag in table.flags()}
        flags = (flag for flag in self.page.flags if flag in marked)
        self.numbers = {flag: k for k, flag in enumerate(flags, start=1)}

    def opening(self, *, numbers: bool = True) -> str:
        """The numbers of the opening or only their setting, and its warnings but those of flags
        that tables mark.
        """
        opening = self.page.opening
        out = "" if numbers or not opening.setting else wrapped(f"{capital(opening.setting)}.")
        if opening.rows and numbers:
            heads = [f"{name}\n{unit}" if unit else name for name, unit in opening.head]
            rows = [[self._figure(figure) for figure in figures] for figures in opening.rows]
            if _free(_widths([heads, *rows])) < 0:
                heads = ["\n".join((*name.split(), unit)).rstrip() for name, unit in opening.head]
            right = [k > 0 for k, _ in enumerate(heads)]
            out = "\n" + _rendered(heads, right, rows)
            out += wrapped(f"{opening.caption}.")
        others = [
            warning
            for warning in opening.warnings
            if not (isinstance(warning[0], Flag) and warning[0].flag in self.numbers)
        ]
        return out + "".join(map(self.paragraph, others))

    def _figure(self, figure: Figure) -> str:
        """A value, its interval and its run, one below the other."""
        run = "" if figure.run is None else broken(self._name(figure.run))
        return "\n".join(filter(None, (figure.text, figure.interval, run)))

    def section(self, section: Section, everything: bool) -> Iterator[str]:
        """A section with its tables."""
        tables = section.shown(everything)
        if not tables and not section.notes:
            return
        alone = len(tables) == 1 and bool(section.title)
        part = tables[0].part if alone else ""
        yield "\n" + wrapped(f"{section.title}{part}") if section.title else ""
        for note in section.notes:
            yield self.paragraph(note)
        for k, table in enumerate(tables):
            unit = shared_unit([field for field in table.fields if field.first])
            yield "\n" if section.notes or k else ""
            yield "" if alone else wrapped(table.heading(unit))
            yield self.table(table)
        for reading in (section.lead, section.more if everything else ""):
            yield wrapped(reading) if tables and reading else ""

    def table(self, table: Table) -> str:
        """The rows of a table, in the first form that fits."""
        fields = [field for field in table.fields if field.first]
        rows = [
            [cell for cell, field in zip(cells, table.fields, strict=True) if field.first]
            for cells in table.rows()
        ]
        if table.compared and len(rows) <= SIDE_BY_SIDE:
            return self._side_by_side(fields, rows)
        for short, stacked in ((False, False), (True, False), (True, True)):
            text = self._fitting(fields, rows, short=short, stacked=stacked)
            if text is not None:
                return text
        for count in range(1, len(fields) - 1):  # the last go first, flags never
            dropped = [k for k, f in enumerate(fields) if f.kind != "flags"][-count:]
            indices = [k for k in range(len(fields)) if k not in dropped]
            shown, cells = [fields[p] for p in indices], [[row[p] for p in indices] for row in rows]
            text = self._fitting(shown, cells, short=True, stacked=True)
            if text is not None:
                names = ", ".join(fields[k].label for k in dropped)
                return text + wrapped(f"Also in --format html: {names}.")
        return wrapped("The table is wider than a terminal: --format html, or csv.")

    def _side_by_side(self, fields: Sequence[Field], rows: Sequence[Sequence[Cell]]) -> str:
        """Rows across, headed by their first cell; numbers down."""
        texts: list[list[str]] = []
        for short, stacked, width in (
            *((False, False, RUN_WIDTH), (False, True, RUN_WIDTH)),
            *((False, True, NARROW), (True, True, NARROW)),
        ):
            texts = [
                [
                    _line(field, short=short, stacked=stacked),
                    *(self._cell(field, row[k], stacked, width) for row in rows),
                ]
                for k, field in enumerate(fields)
            ]
            if _free(_widths(texts)) >= 0:
                break
        heads, *lines = texts
        right = [k > 0 for k, _ in enumerate(heads)]
        return _rendered(heads, right, [line for line in lines if any(line[1:])])  # flags may lack

    def _fitting(
        self, fields: Sequence[Field], rows: Sequence[Sequence[Cell]], *, short: bool, stacked: bool
    ) -> str | None:
        """The table, or None where it is wider than a terminal."""
        unit = shared_unit(fields)
        heads = [_head(field, unit, short=short) for field in fields]
        texts = [
            [self._cell(*pair, stacked) for pair in zip(fields, cells, strict=True)]
            for cells in rows
        ]
        widths = _widths([heads, *texts])
        prose = [k for k, field in enumerate(fields) if field.kind == "words"]
        free = _free(widths)
        for k in prose:
            least = max(LEAST_PROSE, _width(heads[k]))
            width = max(least, widths[k] + free) if free < 0 else widths[k]
            free += widths[k] - width
            for row in texts:
                row[k] = tail(row[k], width)
        if free < 0:
            return None
        if fields[0].kind == "run":  # a run's name once, above its rows
            names = [row[0] for row in texts]
            for row, before in zip(texts[1:], names, strict=False):
                row[0] = "" if row[0] == before else row[0]
        return _rendered(heads, [field.kind == "number" for field in fields], texts)

    def _cell(self, field: Field, cell: Cell, stacked: bool, width: int = RUN_WIDTH) -> str:
        if field.kind == "flags":
            return marks(cell.flags, self.numbers)
        if field.kind == "run":
            return broken(self._name(cell.text), width)
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

    def explained(self, everything: bool) -> Iterator[str]:
        """A line on each flag in sight; everything: its whole meaning."""
        for flag, number in self.numbers.items():
            meaning = self.page.flags[flag]
            meaning = meaning.removesuffix(".") if everything else clause(meaning)
            text = f"[{number}] {flag}: {meaning}."
            yield from (f"{x}\n" for x in textwrap.wrap(text, _WIDTH, subsequent_indent="    "))


def said(sentence: Sentence, page: Page, *, letters: bool = True) -> str:
    """A sentence as text: runs by name, or in short by their letter, unless not `letters`."""
    return "".join(_part(part, page, letters) for part in sentence)


def _part(part: Part, page: Page, letters: bool) -> str:
    if isinstance(part, Run) and part.text in page.runs.names:
        style = page.runs[part.text]
        return style.letter if part.short and letters else escape(style.name, keep="")
    if isinstance(part, Flag):
        return part.flag
    return escape(part if isinstance(part, str) else part.text, keep="")


def wrapped(text: str, indent: str = "") -> str:
    """`text` as lines within `_WIDTH` columns, after `indent`; those after the first have two more
    spaces.
    """
    filled = textwrap.fill(
        text,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_on_hyphens=False,
        break_long_words=False,
    )
    return f"{filled}\n"


def added(titles: Sequence[str]) -> str:
    """A line on what --all adds: as many titles as fit, and how many more.

    >>> added(["KL by position, in nats", "Every site"])
    '--all adds: KL by position, every site.\\n'
    """
    short = [re.split("[:,(]", title)[0].rstrip() for title in titles]
    words = [word if word[1:2].isupper() else word[:1].lower() + word[1:] for word in short]
    for count in range(len(words), 0, -1):
        more = f" and {len(words) - count} more" if count < len(words) else ""
        line = f"--all adds: {', '.join(words[:count])}{more}."
        if len(line) <= _WIDTH:
            break
    return f"{line}\n"


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


def printable(text: str, encoding: str | None) -> str:
    """`text`, or ASCII of the same width where `encoding` lacks a character of it.

    >>> print(printable("PR  10 ± 0.5  ²", "ascii"))
    PR  10 +-0.5  2
    """
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        for unicode, ascii_ in _PLAIN.items():
            text = text.replace(unicode, ascii_)
        text = "\n".join(line.rstrip() for line in text.split("\n"))
        return text.encode("ascii", "replace").decode("ascii")
    return text


def marks(flags: Sequence[str], numbers: Mapping[str, int]) -> str:
    """The numbers of `flags` as superscripts, to stand behind a value.

    >>> marks(["template"], {"collapsed": 1, "template": 2})
    '²'
    """
    return "".join(_RAISED[int(digit)] for flag in flags for digit in str(numbers[flag]))


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
    context = context.lstrip(" ")
    shown = [token(context[start:]).replace("␣", " ") for start in range(len(context))]
    whole = [f"…{end}" for end in shown[1:]]
    return next((end for end in (*shown[:1], *whole) if cell_len(end) <= width), "")


def _head(field: Field, unit: str, *, short: bool) -> str:
    """unit: of the whole table, which its title has."""
    if field.kind == "flags":
        return ""
    name = (field.short or field.label) if short else field.label
    return f"{name}\n{field.unit}" if field.unit and not unit else name


def _line(field: Field, *, short: bool = False, stacked: bool = False) -> str:
    """A field's name and unit: on one line, or the unit below."""
    head = _head(field, "", short=short) or field.label
    return ("\n  " if stacked else ", ").join(head.split("\n"))


def _width(text: str) -> int:
    return max(map(cell_len, text.split("\n")))


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """Columns of a terminal that each column of a table takes."""
    return [max(map(_width, column)) for column in zip(*rows, strict=True)]


def _free(widths: Sequence[int]) -> int:
    """Columns of a terminal that a table leaves; below 0: that it lacks. Two part its columns."""
    return _WIDTH - sum(widths) - 2 * (len(widths) - 1)


def _rendered(heads: Sequence[str], right: Sequence[bool], rows: Iterable[Sequence[str]]) -> str:
    """A table as text without control sequences. right: which columns are flush right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    made = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True
    )
    for head, is_right in zip(heads, right, strict=True):
        made.add_column(head, justify="right" if is_right else "left", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    console = Console(
        file=io.StringIO(), width=_WIDTH, force_terminal=False, markup=False, highlight=False
    )
    with console.capture() as capture:
        console.print(made)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())
