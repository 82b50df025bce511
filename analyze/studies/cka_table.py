"""The table `cka`: which pairs of which runs, computed, put into the database, shown."""

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.keys import RunView, Url
from lpp.analyze.runs.texts import text_sets, texts_of
from lpp.analyze.studies.cka import MEMORY, cka_rows, pairs_of
from lpp.analyze.tables import flags
from lpp.analyze.tables.database import frame_schema, put
from lpp.analyze.text.text import explained, marks, number, numbered, plain_table, rendered
from lpp.store.commands.progress import SILENT, Progress
from lpp.store.errors import ErrorKind, InputError
from lpp.store.objects.place import Place

SCHEMA: Final = frame_schema("cka")
"""One row for each pair of sites, the shallower one first."""


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
    first_position: int = 0,
    every: bool = False,
) -> tuple[list[Part], list[str]]:
    """What is to be computed, and a line for each run that is left out.

    prefix, prompts: tokens of each prompt and number of prompts; all that a run has by default.
    first_position: tokens of each prompt that take no part.
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
        elif first_position >= (prefix or run.plan.context):
            left_out.append(f"{run.id}: left out, no token is left with --skip-first")
        else:
            cell = Cell(
                prompts or run.n_prompts,
                prefix or run.plan.context,
                first_position=first_position,
            )
            work.append(Part(view, pairs, cell))
    if not work:
        raise InputError(
            "no run has two of the sites at that prefix and number of prompts: "
            f"{'; '.join(left_out)}. Ask for less of --site, --prefix, --prompts or --skip-first.",
            kind=ErrorKind.NOT_FOUND,
        )
    return work, left_out


def compute(
    work: Sequence[Part],
    *,
    jobs: int | None = None,
    memory: int = MEMORY,
    progress: Progress = SILENT,
) -> pl.DataFrame:
    """The rows of every part: columns `SCHEMA`. jobs, memory: as for `cka_rows`."""
    frames = [pl.DataFrame(schema=SCHEMA)]
    for part in work:
        rows = cka_rows(
            part.view, part.pairs, part.cell, jobs=jobs, memory=memory, progress=progress
        )
        aside = pl.lit(part.view.quarantined(part.cell[0]), pl.Int32)
        of_run = pl.lit(_flags(part, work), pl.List(pl.String))
        found = of_run.list.concat(site_flags()).list.sort()
        rows = rows.with_columns(n_quarantined=aside, flags=found)
        frames.append(rows.select(SCHEMA.names()))
    return pl.concat(frames)


def _flags(part: Part, work: Sequence[Part]) -> list[str]:
    """Flags of every pair of one run, sorted: they are of the tokens that it is about."""
    n_prompts, prefix = part.cell[:2]
    beside = texts_of(other.view for other in work if other.cell == part.cell)
    found = {
        "different_prompts": len(set(text_sets(beside, n_prompts).values())) > 1,
        "quarantined": part.view.quarantined(n_prompts) > 0,
        "short_text": part.view.short(n_prompts, prefix) > flags.SHORT_SHARE * n_prompts,
        "small_sample": n_prompts < 2,
    }
    return sorted(name for name, holds in found.items() if holds)


def site_flags() -> pl.Expr:
    """Flags of each pair that its sites give: either is collapsed, or has sinks among its rows."""
    found = {
        "collapsed": pl.col("ratio") <= flags.COLLAPSED_RATIO,
        "sink": pl.col("n_sinks") > 0,
    }
    names = (pl.when(holds).then(pl.lit(name)) for name, holds in found.items())
    return pl.concat_list(names).list.drop_nulls()


def write(url: Url, found: pl.DataFrame) -> Place:
    """Replace the table `cka` of the database, keep the others; return the database's path."""
    return put(url, {"cka": found})


def as_text(found: pl.DataFrame) -> str:
    """The pairs of each run, at 80 columns."""
    out = io.StringIO()
    numbers = numbered([flag for flags in found["flags"] for flag in flags])
    for of_run in found.partition_by("run", maintain_order=True):
        first = of_run.row(0, named=True)
        common = sorted(set.intersection(*map(set, of_run["flags"])))
        print(
            f"\n{first['run']}\nLinear CKA of {first['n_tokens']:,} tokens: "
            f"{first['n_prompts']} prompts, prefix {first['prefix']}"
            + (f", positions from {first['first_position']}." if first["first_position"] else ".")
            + (f" Flags: {', '.join(common)}." if common else ""),
            file=out,
        )
        shown = plain_table()
        for head in ("site", "other site"):
            shown.add_column(head, no_wrap=True)
        shown.add_column("CKA", justify="right", no_wrap=True)
        shown.add_column("", no_wrap=True)
        for row in of_run.iter_rows(named=True):
            own = [flag for flag in row["flags"] if flag not in common]
            shown.add_row(row["site"], row["other_site"], number(row["cka"]), marks(own, numbers))
        out.write(rendered(shown))
    out.writelines(f"{line}\n" for line in explained(numbers))
    return out.getvalue()
