"""Whole spectra as a table: one row per eigenvalue."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from lpp.analyze.engine.cache import Cache
from lpp.analyze.engine.site_spectra import site_summaries
from lpp.analyze.engine.workers import Workers
from lpp.analyze.metrics.summary import Demand, Summary
from lpp.analyze.questions import Selection
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.keys import RunView, Url
from lpp.analyze.runs.rows.site_reader import SiteReader
from lpp.analyze.runs.select import select_runs, select_sites
from lpp.analyze.tables.spectra import cells as cells_of
from lpp.analyze.tables.spectra import key_frame
from lpp.store import open_store

EIGENVALUES_SCHEMA = pl.Schema(
    {
        "run": pl.String,
        "site": pl.String,
        "context": pl.Int32,
        "prefix": pl.Int32,
        "n_prompts": pl.Int32,
        "depth": pl.Int32,
        "rank": pl.Int32,
        "eigenvalue": pl.Float64,
        "share": pl.Float64,
    }
)
"""Keys; rank of the eigenvalue, from 1; its value, a variance; its share of the sum, null if that
is 0."""


def read_eigenvalues(
    url: Url, selection: Selection | None = None, *, prefix: int | None = None
) -> pl.DataFrame:
    """Eigenvalues of the covariance of X(L), descending: columns as in `EIGENVALUES_SCHEMA`.

    selection: runs, sites, contexts and numbers of prompts; `final` of every run by default.
    prefix: L, a prefix of each context's schedule; the whole context by default. A cell gives
    min(N, d) rows, 30 kB at d = 1,000. After `lpp-analyze profile` they are in the analysis cache;
    missing ones are computed and cached. States with infinities or NaN have no spectrum.

    Warns about each incomplete run. Raises InputError for a selection that matches nothing.
    """
    frame, incomplete = eigenvalues_held(url, selection, prefix=prefix)
    for line in incomplete:
        warnings.warn(line, stacklevel=2)
    return frame


def eigenvalues_held(
    url: Url, selection: Selection | None = None, *, prefix: int | None = None, compute: bool = True
) -> tuple[pl.DataFrame, list[str]]:
    """(`read_eigenvalues` without warnings, a line for each incomplete run).

    compute: whether to compute what is not in the analysis cache; otherwise it gives no rows.
    """
    selection = selection or Selection(sites=("final",))
    chosen, incomplete = select_runs(url, selection)
    sites = select_sites(chosen, selection)
    wanted = pl.col("prefix") == (pl.col("context") if prefix is None else prefix)
    frames = [pl.DataFrame(schema=EIGENVALUES_SCHEMA)]
    for view in chosen:
        cache = Cache(open_store(url).path, view.run)
        keys = key_frame(view, replace(selection, skip_first=(0,)))
        keys = keys.filter(wanted & pl.col("site").is_in(sites))
        for of_site in keys.partition_by("site", maintain_order=True):
            known = _summaries(cache, view, of_site.item(0, "site"), cells_of(of_site), compute)
            frames.append(_of_site(of_site, known))
    return pl.concat(frames), incomplete


def _of_site(keys: pl.DataFrame, known: Mapping[Cell, Summary]) -> pl.DataFrame:
    """The rows of one site, for those of its cells that are `known`."""
    there = [cell in known for cell in cells_of(keys)]
    keys = keys.filter(pl.Series(there, dtype=pl.Boolean))
    cells = cells_of(keys)
    solved = [known[cell].covariance.solved for cell in cells]
    names = ("run", "site", "context", "prefix", "n_prompts", "depth")
    sums = [known[cell].covariance.total for cell in cells]
    frame = keys.select(names).with_columns(
        pl.Series("eigenvalue", [values.tolist() for values in solved], dtype=pl.List(pl.Float64)),
        pl.Series("total", sums, dtype=pl.Float64),
    )
    share = pl.when(pl.col("total") > 0).then(pl.col("eigenvalue") / pl.col("total"))
    rank = pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("context", "prefix", "n_prompts")
    return (
        frame.explode("eigenvalue")
        .with_columns(rank=rank, share=share)
        .filter(pl.col("eigenvalue").is_finite())
        .select(EIGENVALUES_SCHEMA.names())
    )


def _summaries(
    cache: Cache, view: RunView, site: str, cells: Sequence[Cell], compute: bool
) -> dict[Cell, Summary]:
    """Summaries of `cells`, from the cache or one read of the site. The store may be read-only."""
    demand = Demand(solved=frozenset({"covariance"}))
    cached = cache.summaries(site)
    known = {cell: cached[cell] for cell in cells if demand.met_by(cached.get(cell))}
    missing = {cell: demand for cell in cells if cell not in known}
    if missing and compute:
        with Workers() as workers, np.errstate(invalid="ignore", over="ignore"):
            new = site_summaries(SiteReader(view.run, site, view.lengths), missing, workers)
        cache.keep_summaries(site, new)
        known |= new
    return known
