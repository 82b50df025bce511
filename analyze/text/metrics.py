"""Declared metrics as text, at the longest prefix of each context."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import polars as pl

from lpp.analyze.text.names import Names
from lpp.analyze.text.text import SIDE_BY_SIDE, Row, broken, error, number, plain_table, rendered

if TYPE_CHECKING:
    from rich.table import Table


def metric_tables(metrics: pl.DataFrame, numbers: Mapping[str, int], names: Names) -> Iterator[str]:
    """Tables of `metrics`, rows of the metrics table of one context and number of prompts.

    numbers: what stands for each flag; names: for each run.
    """
    shown = metrics.filter(pl.col("prefix") == pl.col("prefix").max())
    if shown.is_empty():
        return
    yield f"\nDeclared metrics at prefix {shown.item(0, 'prefix')}.\n"
    if shown["run"].n_unique() > SIDE_BY_SIDE or shown["site"].n_unique() > SIDE_BY_SIDE:
        yield rendered(_one_per_row(shown, numbers, names))
        return
    for of_site in shown.partition_by("site", maintain_order=True):
        yield rendered(_side_by_side(of_site, numbers, names))


def _side_by_side(shown: pl.DataFrame, numbers: Mapping[str, int], names: Names) -> "Table":
    """Metrics down, runs across, for one site."""
    made = plain_table()
    made.add_column(f"at {shown.item(0, 'site')}", overflow="fold")
    runs = shown["run"].unique(maintain_order=True)
    for run in runs:
        made.add_column(broken(names.get(run, run)), justify="right", overflow="fold")
    for of_unit in shown.partition_by("unit", maintain_order=True):
        unit = of_unit.item(0, "unit")
        made.add_row("without a unit" if unit == "1" else f"in {unit}")
        for of_metric in of_unit.partition_by("metric", maintain_order=True):
            rows = of_metric.rows_by_key("run", named=True, unique=True)
            values = (_value(rows[run], numbers) if run in rows else "-" for run in runs)
            made.add_row(f"  {of_metric.item(0, 'metric')}", *values)
    return made


def _one_per_row(shown: pl.DataFrame, numbers: Mapping[str, int], names: Names) -> "Table":
    """Runs, sites and metrics down."""
    made = plain_table()
    made.add_column("run", no_wrap=True)
    made.add_column("site", no_wrap=True)
    made.add_column("metric", overflow="fold")
    made.add_column("unit", no_wrap=True)
    made.add_column("value", justify="right", no_wrap=True)
    before = None
    for row in shown.iter_rows(named=True):
        run = "" if row["run"] == before else broken(names.get(row["run"], row["run"]))
        before = row["run"]
        made.add_row(run, row["site"], row["metric"], row["unit"], _value(row, numbers))
    return made


def _value(row: Row, numbers: Mapping[str, int]) -> str:
    marks = ",".join(str(numbers[flag]) for flag in row["flags"])
    parts = (number(row["value"]), error(row["stderr"]), f"[{marks}]" if marks else "")
    return " ".join(part for part in parts if part)
