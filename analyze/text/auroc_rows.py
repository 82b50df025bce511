"""A row of AUROCs as text: what tables of features of items have in common."""

from collections.abc import Sequence
from typing import Final

from lpp.analyze.text.text import Row, wrapped
from lpp.store.commands.escaping import escape

BAR: Final = 3
"""Columns of a bar for an AUROC of 0 or 1: what a line has left."""

HEADS: Final = ("AUROC", "95 %", "shuffled", "within", "partial", "q")
_WIDTHS: Final = (5, 9, 9, 6, 7, 6)
_NAME: Final = 22


def auroc_cells(row: Row) -> tuple[str, ...]:
    """What stands under `HEADS`."""
    return (
        digits(row["auroc"]),
        interval_text(row["ci_low"], row["ci_high"]),
        interval_text(row["shuffled_low"], row["shuffled_high"]),
        digits(row["within_auroc"]),
        digits(row["partial_auroc"]),
        probability(row["q_value"]),
    )


def paragraph(text: str) -> str:
    """Text that may hold anything as lines within 80 columns; an empty line for an empty text."""
    return wrapped(escape(text, keep="")) if text else "\n"


def auroc_line(name: str, cells: Sequence[str], drawn: str = "") -> str:
    """A line of a table: a name, what stands under `HEADS`, and a bar."""
    shown = (f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))
    return f"{escape(name, keep=''):<{_NAME}} {'  '.join(shown)}  {drawn}".rstrip() + "\n"


def digits(value: float | None) -> str:
    """Two digits behind the point, without a zero before it.

    >>> [digits(value) for value in (0.514, 0.0, 1.0, None)]
    ['.51', '.00', '1.00', '-']
    """
    return "-" if value is None else f"{value:.2f}".removeprefix("0")


def interval_text(low: float | None, high: float | None) -> str:
    """Both ends of an interval."""
    return "-" if low is None else f"{digits(low)} {digits(high)}"


def probability(value: float | None) -> str:
    """A p or q: two digits behind the point, or the first one that is not 0.

    >>> [probability(value) for value in (0.514, 0.0123, 0.00001, None)]
    ['.51', '.01', '<.0001', '-']
    """
    if value is None:
        return "-"
    if value < 1e-4:
        return "<.0001"
    return digits(value) if value >= 0.1 else f"{value:.1g}".removeprefix("0")
