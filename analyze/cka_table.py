"""The table `cka`: which pairs of which runs, computed, put into the database, shown."""

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from lpp.analyze.cells import Cell
from lpp.analyze.cka import SCHEMA, cka_rows, pairs_of
from lpp.analyze.keys import RunView, Url
from lpp.analyze.render_text import number, plain_table, rendered
from lpp.analyze.run_rows import run_row
from lpp.sql import build
from lpp.sql.schema import TABLES, arrow_schema
from lpp.store import open_store
from lpp.store.console import SILENT, Progress
from lpp.store.errors import ErrorKind, InputError
from lpp.store.keys import DATABASE_KEY


@dataclass(frozen=True, slots=True)
class Part:
    """The pairs of one run, over some of its tokens."""

    view: RunView
    pairs: Sequence[tuple[str, str]]
    cell: Cell


def plan(
    views: Sequence[RunView],
    sites: Collection[str],
    *,
    prefix: int | None = None,
    prompts: int | None = None,
    every: bool = False,
) -> tuple[list[Part], list[str]]:
    """What is to be computed, and a line for each run that is left out.

    prefix, prompts: tokens of each prompt and number of prompts; all that a run has by default.
    Raises InputError when no run is left.
    """
    work, left_out = [], []
    for view in views:
        run = view.run
        pairs = pairs_of([site for site in run.sites if site in sites], every=every)
        if not pairs:
            left_out.append(f"{run.id}: left out, fewer than two of the sites were captured")
        elif prefix is not None and prefix > run.plan.context:
            left_out.append(
                f"{run.id}: left out, captured at context {run.plan.context}, below {prefix}"
            )
        elif prompts is not None and prompts > run.n_prompts:
            left_out.append(f"{run.id}: left out, {run.n_prompts} prompts, fewer than {prompts}")
        else:
            cell = Cell(prompts or run.n_prompts, prefix or run.plan.context)
            work.append(Part(view, pairs, cell))
    if not work:
        raise InputError(
            "no run has two of the sites at that prefix and number of prompts: "
            f"{'; '.join(left_out)}. Ask for less of --site, --prefix or --prompts.",
            kind=ErrorKind.NOT_FOUND,
        )
    return work, left_out


def compute(work: Sequence[Part], *, progress: Progress = SILENT) -> pl.DataFrame:
    """The rows of every part: columns `SCHEMA`."""
    frames = [cka_rows(part.view, part.pairs, part.cell, progress=progress) for part in work]
    return pl.concat([pl.DataFrame(schema=SCHEMA), *frames])


def write(url: Url, found: pl.DataFrame, views: Sequence[RunView]) -> Path:
    """Replace the table `cka` of the database, keep the others; return the database's path.

    A store without a database gets the runs that the rows speak of as well.
    """
    root = open_store(url).path
    frames = {"cka": found}
    if not (root / DATABASE_KEY).exists():
        rows = [run_row(view) for view in views]
        frames["runs"] = pl.DataFrame(rows, infer_schema_length=None)
    tables = {
        name: frame.select([column.name for column in TABLES[name].columns])
        .to_arrow()
        .cast(arrow_schema(name))
        for name, frame in frames.items()
    }
    return build(root, tables, keep=TABLES)


def as_text(found: pl.DataFrame) -> str:
    """The pairs of each run, at 80 columns."""
    out = io.StringIO()
    for of_run in found.partition_by("run", maintain_order=True):
        first = of_run.row(0, named=True)
        print(
            f"\n{first['run']}\nLinear CKA of {first['n_tokens']:,} tokens: "
            f"{first['n_prompts']} prompts, prefix {first['prefix']}.",
            file=out,
        )
        shown = plain_table()
        for head in ("site", "other site"):
            shown.add_column(head, no_wrap=True)
        shown.add_column("CKA", justify="right", no_wrap=True)
        for row in of_run.iter_rows(named=True):
            shown.add_row(row["site"], row["other_site"], number(row["cka"]))
        out.write(rendered(shown))
    return out.getvalue()
