"""Charts of several analyses: a panel for each."""

from collections.abc import Sequence
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.pages.page import Chart, drawing
from lpp.analyze.pages.table import Table

DRAWN: Final = 8
"""Analyses in a chart, at most."""


def analyses(frame: pl.DataFrame, key: Sequence[str], needed: str = "") -> list[pl.DataFrame]:
    """The rows of each analysis, in the order of `key`. needed: a column; analyses without a value
    in it are left out.
    """
    if needed and needed not in frame.columns:
        return []
    there = [column for column in key if column in frame.columns]
    parts = frame.sort(there, maintain_order=True).partition_by(there, maintain_order=True)
    return [part for part in parts if not needed or part[needed].count()]


def chart_of_analyses(
    draw: str,
    parts: Sequence[pl.DataFrame],
    runs: RunStyles,
    *,
    name: str,
    section: str,
    table: Table,
    title: str,
    text: str,
) -> Chart:
    """The chart of `parts`, of `analyses`: a panel each, at most `DRAWN`.

    draw: name of the function of `lpp.analyze` that draws one; other arguments are of `Chart`.
    """

    def all_drawn() -> Any:
        from lpp.analyze.charts.theme import beside

        return beside([drawing(draw, rows, runs=runs)() for rows in parts[:DRAWN]], title)

    more = f" The first {DRAWN} of {len(parts)} analyses." if parts[DRAWN:] else ""
    return Chart(name, section, table, title, text + more, all_drawn)
