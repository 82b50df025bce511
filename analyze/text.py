"""Pieces of what commands print: numbers, tables and lines within 80 columns."""

import io
import os
import sys
import textwrap
from typing import TYPE_CHECKING, Final

import polars as pl

if TYPE_CHECKING:
    from rich.table import Table

WIDTH: Final = 80


def number(value: float | None, digits: int = 4) -> str:
    """So many significant digits; a dash for a number that is not there.

    >>> [number(value) for value in (0.012345, 23.456, 1234.5, 0.0000373, None)]
    ['0.01235', '23.46', '1234', '3.73e-05', '-']
    """
    return "-" if value is None else f"{value:.{digits}g}"


def plain_table() -> "Table":
    """A table without rules but the one under its head."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", padding=(0, 1))


def rendered(table: "Table") -> str:
    """`table` at `WIDTH` columns; its head is bold only where a terminal shows it."""
    from rich.console import Console

    terminal = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    console = Console(
        file=io.StringIO(), width=WIDTH, force_terminal=terminal, markup=False, highlight=False
    )
    with console.capture() as capture:
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def wrapped(text: str) -> str:
    """`text` as lines within `WIDTH` columns; those after the first are indented."""
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False) + "\n"


def as_csv(table: pl.DataFrame) -> str:
    """One line per row; the members of a list are parted by spaces."""
    lists = [name for name, dtype in table.schema.items() if dtype == pl.List(pl.String())]
    return table.with_columns(pl.col(lists).list.join(" ")).write_csv()
