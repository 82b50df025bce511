"""Declared metrics as text, at the longest prefix of each context."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import polars as pl

from lpp.analyze.render_text import SIDE_BY_SIDE, Row, error, number, rendered, table

if TYPE_CHECKING:
    from rich.table import Table


def metric_tables(metrics: pl.DataFrame, numbers: Mapping[str, int]) -> Iterator[str]:
    """Tables of `metrics`, rows of the metrics table of one context and number of prompts.

    numbers: what stands for each flag.
    """
    shown = metrics.filter(pl.col("prefix") == pl.col("prefix").max())
    if shown.is_empty():
        return
    yield f"\nDeclared metrics at prefix {shown.item(0, 'prefix')}.\n"
    if shown["run"].n_unique() > SIDE_BY_SIDE or shown["site"].n_unique() > SIDE_BY_SIDE:
        yield rendered(_one_per_row(shown, numbers))
        return
    for of_site in shown.partition_by("site", maintain_order=True):
        yield rendered(_side_by_side(of_site, numbers))


def _side_by_side(shown: pl.DataFrame, numbers: Mapping[str, int]) -> "Table":
    """Metrics down, runs across, for one site."""
    made = table()
    made.add_column(f"at {shown.item(0, 'site')}", overflow="fold")
    made.add_column("", no_wrap=True)
    runs = shown["run"].unique(maintain_order=True)
    for run in runs:
        # Long names break after a hyphen, so that the hash stays whole.
        made.add_column("\n".join(textwrap.wrap(run, 20)), justify="right", overflow="fold")
    for of_metric in shown.partition_by("metric", maintain_order=True):
        rows = of_metric.rows_by_key("run", named=True, unique=True)
        values = (_value(rows[run], numbers) for run in runs)
        made.add_row(of_metric.item(0, "metric"), of_metric.item(0, "unit"), *values)
    return made


def _one_per_row(shown: pl.DataFrame, numbers: Mapping[str, int]) -> "Table":
    """Runs, sites and metrics down."""
    made = table()
    made.add_column("run", overflow="fold")
    made.add_column("site", no_wrap=True)
    made.add_column("metric", overflow="fold")
    made.add_column("", no_wrap=True)
    made.add_column("value", justify="right", no_wrap=True)
    for row in shown.iter_rows(named=True):
        cells = (row["run"], row["site"], row["metric"], row["unit"], _value(row, numbers))
        made.add_row(*cells)
    return made


def _value(row: Row, numbers: Mapping[str, int]) -> str:
    marks = ",".join(str(numbers[flag]) for flag in row["flags"])
    parts = (number(row["value"]), error(row["stderr"]), f"[{marks}]" if marks else "")
    return " ".join(part for part in parts if part)
