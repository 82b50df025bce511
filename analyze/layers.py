"""Ranks through the depth of a model: one row per run and site, and the hourglass score.

The numbers are those of one prefix, the whole context: a maximum over prefixes would compare
layers at different ones.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from lpp.analyze.database import put
from lpp.analyze.flags import COLLAPSED_RATIO, SHORT_SHARE
from lpp.analyze.hourglass import Layer, hourglass
from lpp.analyze.keys import RunView, Url
from lpp.analyze.select import Selection, select_runs, select_sites, shortfalls
from lpp.analyze.spectra import scan_spectra
from lpp.store.console import SILENT, Progress

RANKS: Final = ("participation_ratio", "effective_rank")
"""What the hourglass score is computed on, in dimensions."""

SCHEMA = pl.Schema(
    {
        "run": pl.String(),
        "site": pl.String(),
        "context": pl.Int32(),
        "n_prompts": pl.Int32(),
        "depth": pl.Int32(),
        "relative_depth": pl.Float64(),
        "n_tokens": pl.Int64(),
        "rank_bound": pl.Int32(),
        "participation_ratio": pl.Float64(),
        "participation_ratio_norm": pl.Float64(),
        "effective_rank": pl.Float64(),
        "effective_rank_norm": pl.Float64(),
        "top_share": pl.Float64(),
        "flags": pl.List(pl.String()),
    }
)
"""Columns of the `layers` table; relative_depth: depth over the model's blocks, 0 to 1."""

SCORES_SCHEMA = pl.Schema(
    {
        "run": pl.String(),
        "context": pl.Int32(),
        "n_prompts": pl.Int32(),
        "metric": pl.String(),
        "score": pl.Float64(),
        "first": pl.Float64(),
        "middle": pl.Float64(),
        "last": pl.Float64(),
        "n_layers": pl.Int32(),
        "n_collapsed": pl.Int32(),
        "n_missing": pl.Int32(),
        "reason": pl.String(),
    }
)
"""Columns of the `hourglass` table."""


@dataclass(frozen=True, slots=True)
class Layers:
    """Layer-wise ranks of some runs."""

    layers: pl.DataFrame
    """One row per run, number of prompts and site, in depth order: columns `SCHEMA`."""
    scores: pl.DataFrame
    """One row per run, number of prompts and rank: columns `SCORES_SCHEMA`."""
    left_out: tuple[str, ...]
    """Runs that hold less than what was asked for, and why: one line each."""


def layers(url: Url, selection: Selection, *, progress: Progress = SILENT) -> Layers:
    """Layer-wise ranks of the store at `url`, at the whole of each context that is asked for.

    Reads each site once and solves one spectrum for each context and number of prompts.
    progress: one for each run and site. Raises InputError for what no run holds, FormatError for
    altered bytes.
    """
    views = select_runs(url, selection)
    sites = select_sites(views, selection)
    frames = [pl.DataFrame(schema=SCHEMA)]
    for view in views:
        for site in (site for site in view.run.sites if site in sites):
            frames.append(_rows(url, view, site, selection))
            progress.advance()
            progress.note(f"{view.run.id} {site}")
    found = pl.concat(frames)
    blocks = {view.run.id: view.run.plan.model.n_blocks for view in views}
    scores = pl.DataFrame(list(_scores(found, blocks)), schema=SCORES_SCHEMA)
    return Layers(found, scores, tuple(shortfalls(views, selection)))


def _rows(url: Url, view: RunView, site: str, selection: Selection) -> pl.DataFrame:
    scan = scan_spectra(url, contexts=selection.contexts, prompts=selection.prompts)
    whole = scan.filter(
        pl.col("run") == view.run.id,
        pl.col("site") == site,
        pl.col("prefix") == pl.col("context"),
    ).collect()
    relative = pl.col("depth") / view.run.plan.model.n_blocks
    marks = [_flags(row, view) for row in whole.iter_rows(named=True)]
    return whole.with_columns(
        relative.alias("relative_depth"),
        pl.Series("flags", marks, dtype=pl.List(pl.String)),
    ).select(SCHEMA.names())


def _flags(row: Mapping[str, Any], view: RunView) -> list[str]:
    """Flags of one layer, sorted: those that concern ranks at one prefix."""
    ratio = row["participation_ratio"]
    short = int(np.sum(view.lengths[: row["n_prompts"]] < row["context"]))
    found = {
        "collapsed": ratio is not None and ratio <= COLLAPSED_RATIO,
        "normaliser": row["n_tokens"] < row["dim"],
        "not_finite": ratio is None,
        "short_text": short > SHORT_SHARE * row["n_prompts"],
    }
    return sorted(name for name, holds in found.items() if holds)


def _scores(found: pl.DataFrame, blocks: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    keys = ("run", "context", "n_prompts")
    for (run, context, size), rows in found.group_by(keys, maintain_order=True):
        for metric in RANKS:
            score = hourglass(_paper_layers(rows, metric), blocks[str(run)])
            yield {
                "run": run,
                "context": context,
                "n_prompts": size,
                "metric": metric,
                **asdict(score),
            }


def _paper_layers(rows: pl.DataFrame, metric: str) -> list[Layer]:
    """Layers 1 to B of one run: `final` stands for the last, where it is there."""
    by_depth = {}
    for row in rows.iter_rows(named=True):  # `final` comes after block.B, and takes its place
        if row["depth"] > 0:
            by_depth[row["depth"]] = Layer(row["depth"], row[metric], "collapsed" in row["flags"])
    return list(by_depth.values())


def write(url: Url, found: Layers, views: Iterable[RunView]) -> Path:
    """Put the tables `layers` and `hourglass` into the database of the store at `url`."""
    return put(url, {"layers": found.layers, "hourglass": found.scores}, views)
