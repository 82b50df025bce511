"""A result as a table whose long texts take several lines, so that no column is cut or left out.

Where a table is too wide, what is equal in every row stands above it, and then leading texts stand
above the rows that share them.
"""

import itertools
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

GAP: Final = 2
"""Columns between two columns of a table."""

LEAST: Final = (16, 10)
"""A text is broken into lines no narrower than the first, or else than the second."""

_LINES: Final = 4
"""A text in a column has no more lines."""

MOST: Final = 160
"""A longer text is no cell of a table."""

SHORT: Final = 40
"""A longer text does not stand above a table."""

Cells = Sequence[str]

_PART: Final = re.compile(r"[^-_/ ]*[-_/ ]|[^-_/ ]+")


class ResultTexts(NamedTuple):
    """Texts of a result."""

    heads: Sequence[str]
    """Names of the columns."""
    rows: Sequence[Cells]
    numeric: Sequence[bool]
    """Whether a column stands to the right, and is not broken."""


class _Layout(NamedTuple):
    """Where columns are shown, by their index in a `ResultTexts`."""

    constant: Sequence[int]
    """Above the table: equal in every row."""
    shared: Sequence[int]
    """Above the rows that share them."""
    inside: Sequence[int]
    widths: Sequence[int]
    """Widths of the columns `inside`."""


def wrapped_table(result: ResultTexts, width: int) -> Iterator[str] | None:
    """Lines of a table within `width` columns; None where none is so narrow."""
    rows = result.rows
    if any(len(cell) > MOST for row in rows for cell in row):
        return None
    all_columns = range(len(result.heads))
    varying = [*all_columns]
    if len(rows) > 1:
        varying = [
            k for k in all_columns if len({row[k] for row in rows}) > 1 or len(rows[0][k]) > SHORT
        ]
    for least, above, columns in itertools.product(LEAST, (0, 1, 2), ([*all_columns], varying)):
        constant = [k for k in all_columns if k not in columns]
        shared, inside = columns[:above], columns[above:]
        if any(result.numeric[k] for k in shared):
            continue
        n_groups = len([*_groups(rows, shared)])
        if above and (not inside or n_groups == len(rows)):
            continue
        follows = inside and not result.numeric[inside[0]]
        if above == 1 and follows and len([*_groups(rows, columns[:2])]) == n_groups:
            continue  # the second text would only be repeated: it stands above as well
        widths = _widths(result, inside, width, least)
        if widths is not None:
            return _lines(result, _Layout(constant, shared, inside, widths))
    return None


def _groups(
    rows: Sequence[Cells], columns: Sequence[int]
) -> Iterator[tuple[list[str], list[Cells]]]:
    """Rows that follow each other and are equal in `columns`, behind what they share."""
    for shared, group in itertools.groupby(rows, lambda row: [row[k] for k in columns]):
        yield shared, [*group]


def _widths(
    result: ResultTexts, columns: Sequence[int], width: int, narrowest: int
) -> list[int] | None:
    """How wide each of `columns` is, so that all fit; None where they cannot. narrowest: of a text
    in several lines.
    """
    least, widths = [], []
    for k in columns:
        head = max(map(len, _parts(result.heads[k])), default=1)
        cells = [len(row[k]) for row in result.rows]
        parts = [len(part) for row in result.rows for part in _parts(row[k])]
        lined = -(-max(cells, default=1) // _LINES)
        broken = [min(max(parts, default=1), 20), narrowest, lined]
        narrow = cells if result.numeric[k] else broken
        widths.append(max([*cells, len(result.heads[k]), 1]))
        least.append(min(max(head, *narrow, 1), widths[-1]))
    while sum(widths) + GAP * (len(widths) - 1) > width:
        room = [size - low for size, low in zip(widths, least, strict=True)]
        if max(room, default=0) <= 0:
            return None
        widths[room.index(max(room))] -= 1
    return widths


def _lines(result: ResultTexts, layout: _Layout) -> Iterator[str]:
    heads, rows, numeric = result
    widths, inside = layout.widths, layout.inside
    across = sum(widths) + GAP * (len(widths) - 1)
    if layout.constant:
        line = ", ".join(f"{heads[k]} {rows[0][k]}" for k in layout.constant)
        yield from textwrap.wrap(line, max(across, 60), break_on_hyphens=False)
        yield ""
    sides = [numeric[k] for k in inside]
    yield from _row([heads[k] for k in inside], widths, sides)
    yield "─" * across
    for shared, group in _groups(rows, layout.shared):
        if shared:
            yield from textwrap.wrap(", ".join(shared), max(across, 60), break_on_hyphens=False)
        before = ""
        for row in group:
            cells = [row[k] for k in inside]
            repeats = cells[0] == before and not sides[0] and not shared
            before = cells[0]
            yield from _row(["" if repeats else cells[0], *cells[1:]], widths, sides)


def _row(cells: Sequence[str], widths: Sequence[int], sides: Sequence[bool]) -> Iterator[str]:
    """The lines of one row."""
    broken = [_broken(cell, size) for cell, size in zip(cells, widths, strict=True)]
    for line in itertools.zip_longest(*broken, fillvalue=""):
        shown = (
            f"{text:>{size}}" if right else f"{text:<{size}}"
            for text, size, right in zip(line, widths, sides, strict=True)
        )
        yield (" " * GAP).join(shown).rstrip()


def _parts(text: str) -> list[str]:
    """Where a text may be broken: after hyphens, slashes and underlines, at spaces."""
    return [part.rstrip(" ") for part in _PART.findall(text)]


def _broken(text: str, width: int) -> list[str]:
    """A text in lines of `width` columns.

    >>> _broken("participation_ratio_norm", 20), _broken("rounded to 4 bits", 10)
    (['participation_ratio_', 'norm'], ['rounded to', '4 bits'])
    """
    lines = [""]
    for part in _PART.findall(text):
        if lines[-1] and len(lines[-1]) + len(part.rstrip(" ")) > width:
            lines.append("")
        lines[-1] += part
        while len(lines[-1].rstrip(" ")) > width:  # one long word
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return [line.rstrip(" ") for line in lines if line.strip(" ")] or [""]
