"""Profiles as text: side by side at 80 columns, as CSV, as JSON."""

import io
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from lpp.analyze.flags import MEANING
from lpp.analyze.profile import Aggregation

if TYPE_CHECKING:
    from rich.table import Table

WIDTH: Final = 80
SIDE_BY_SIDE: Final = 3
"""Up to so many runs each have a column; more have a row."""

Row = Mapping[str, Any]

_METRICS: Final = (
    ("entropy_norm", "entropy", "of ln V"),
    ("entropy", "", "nats"),
    ("participation_ratio", "participation ratio", "dimensions"),
    ("participation_ratio_norm", "", "of min(N, d)"),
    ("effective_rank", "effective rank", "dimensions"),
    ("effective_rank_norm", "", "of min(N, d)"),
)
_HEADS: Final = {
    "entropy_norm": "H / ln V",
    "participation_ratio": "PR",
    "participation_ratio_norm": "PR / r",
    "effective_rank": "ER",
    "effective_rank_norm": "ER / r",
}


def as_json(profiles: pl.DataFrame) -> str:
    """A list of objects, one per profile."""
    return json.dumps(profiles.to_dicts(), indent=2, allow_nan=False) + "\n"


def as_csv(profiles: pl.DataFrame) -> str:
    """One line per profile; the members of a list are parted by spaces."""
    flat = profiles.with_columns(
        pl.col("prefixes").cast(pl.List(pl.String)).list.join(" "), pl.col("flags").list.join(" ")
    )
    return flat.write_csv()


def as_table(profiles: pl.DataFrame, *, entropy: Aggregation, ranks: Aggregation) -> str:
    """The profiles of each context and number of prompts, at `WIDTH` columns."""
    out = io.StringIO()
    for group in profiles.partition_by("context", "n_prompts", maintain_order=True):
        rows = list(group.iter_rows(named=True))
        print(_title(rows[0], entropy, ranks), file=out)
        runs, sites = group["run"].unique(maintain_order=True), group["site"].n_unique()
        if len(runs) <= SIDE_BY_SIDE and sites <= SIDE_BY_SIDE:
            for site in group["site"].unique(maintain_order=True):
                some = [row for row in rows if row["site"] == site]
                out.write(rendered(_side_by_side(some)))
        else:
            out.write(rendered(_one_per_row(rows)))
    out.write("".join(f"{line}\n" for line in _explained(profiles)))
    return out.getvalue()


def _title(row: Row, entropy: Aggregation, ranks: Aggregation) -> str:
    prefixes = ", ".join(str(prefix) for prefix in row["prefixes"])
    return (
        f"\nContext {row['context']}, {row['n_prompts']} prompts. Entropy: {entropy} over "
        f"prefixes; ranks: {ranks}.\nPrefixes {prefixes};\nin brackets the one a number came from."
    )


def _side_by_side(rows: Sequence[Row]) -> "Table":
    """Metrics down, runs across, for one site."""
    table = plain_table()
    table.add_column(f"at {rows[0]['site']}", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        # Long names break after a hyphen, so that the hash stays whole.
        name = "\n".join(textwrap.wrap(row["run"], 20))
        table.add_column(name, justify="right", overflow="fold")
    for metric, label, unit in _METRICS:
        table.add_row(label, unit, *(_value(row, metric) for row in rows))
    if any(row["flags"] for row in rows):
        table.add_row("flags", "", *("\n".join(row["flags"]) or "none" for row in rows))
    return table


def _one_per_row(rows: Sequence[Row]) -> "Table":
    """Runs and sites down, metrics across."""
    table = plain_table()
    table.add_column("run", overflow="fold")
    table.add_column("site", no_wrap=True)
    for head in _HEADS.values():
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        values = (_number(row[metric]) for metric in _HEADS)
        table.add_row(row["run"], row["site"], *values)
    return table


def _explained(profiles: pl.DataFrame) -> Iterator[str]:
    """What each flag in sight means."""
    present = profiles["flags"].explode(empty_as_null=False).unique().sort().drop_nulls()
    for flag in present:
        yield f"{flag}: {MEANING[flag]}."


def _value(row: Row, metric: str) -> str:
    prefix = row[f"{metric}_prefix"]
    return _number(row[metric]) + ("" if prefix is None else f" ({prefix})")


def _number(value: float | None) -> str:
    """Four significant digits; a dash for a number that is not there.

    >>> [_number(value) for value in (0.012345, 23.456, 1234.5, 0.0000373, None)]
    ['0.01235', '23.46', '1234', '3.73e-05', '-']
    """
    return "-" if value is None else f"{value:.4g}"


def plain_table() -> "Table":
    """An empty table in the style of every command."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", padding=(0, 1))


def rendered(table: "Table") -> str:
    """A table as text at `WIDTH` columns, in colour on a terminal."""
    from rich.console import Console

    terminal = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    console = Console(
        file=io.StringIO(), width=WIDTH, force_terminal=terminal, markup=False, highlight=False
    )
    with console.capture() as capture:
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


FORMATS: Final[Mapping[str, Callable[[pl.DataFrame], str]]] = {"csv": as_csv, "json": as_json}
"""Formats that hold every column."""
