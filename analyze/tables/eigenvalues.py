"""Whole spectra as a table: one row per eigenvalue."""

import warnings
from collections.abc import Sequence

import polars as pl

from lpp.analyze.engine.cache import Cache
from lpp.analyze.engine.site_summaries import site_summaries
from lpp.analyze.engine.summary import Demand, Summary
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.keys import RunView, Url
from lpp.analyze.runs.select import Selection, select_runs, select_sites
from lpp.analyze.runs.site_reader import SiteReader
from lpp.analyze.tables.spectra import cells as cells_of
from lpp.analyze.tables.spectra import key_frame
from lpp.store import open_store

SCHEMA = pl.Schema(
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
"""Keys, the place of the eigenvalue from 1, its value (variance), and its share in the sum, which
is null where the sum is 0."""


def read_eigenvalues(
    url: Url, selection: Selection | None = None, *, prefix: int | None = None
) -> pl.DataFrame:
    """Eigenvalues of the covariance of X(L), descending: columns as in `SCHEMA`.

    selection: runs, sites, contexts and numbers of prompts; `final` of every run by default.
    prefix: L, one of the schedule of each context; the whole context by default. A cell has
    min(N, d) rows, 30 kB at d = 1,000. They lie in the analysis cache after `lpp-analyze profile`;
    what does not is computed, and kept. Rows that hold infinities or NaN have no spectrum.

    Warns of a run that is incomplete. Raises InputError for a selection that fits nothing.
    """
    frame, incomplete = eigenvalues_held(url, selection, prefix=prefix)
    for line in incomplete:
        warnings.warn(line, stacklevel=2)
    return frame


def eigenvalues_held(
    url: Url, selection: Selection | None = None, *, prefix: int | None = None
) -> tuple[pl.DataFrame, list[str]]:
    """The same, and a line for each incomplete run in place of a warning."""
    selection = selection or Selection(sites=("final",))
    chosen, incomplete = select_runs(url, selection)
    sites = select_sites(chosen, selection)
    frames = [
        _of_run(Cache(open_store(url).path, view.run), view, sites, selection, prefix)
        for view in chosen
    ]
    return pl.concat([pl.DataFrame(schema=SCHEMA), *frames]), incomplete


def _of_run(
    cache: Cache, view: RunView, sites: list[str], selection: Selection, prefix: int | None
) -> pl.DataFrame:
    wanted = pl.col("prefix") == (pl.col("context") if prefix is None else prefix)
    keys = key_frame(view, selection.contexts, selection.prompts)
    keys = keys.filter(wanted & pl.col("site").is_in(sites))
    parts = [_of_site(cache, view, part) for part in keys.partition_by("site", maintain_order=True)]
    return pl.concat([pl.DataFrame(schema=SCHEMA), *parts])


def _of_site(cache: Cache, view: RunView, keys: pl.DataFrame) -> pl.DataFrame:
    site = keys.item(0, "site")
    cells = cells_of(keys)
    known = _summaries(cache, view, site, cells)
    found = [known[cell].covariance.solved for cell in cells]
    names = ("run", "site", "context", "prefix", "n_prompts", "depth")
    sums = [known[cell].covariance.total for cell in cells]
    frame = keys.select(names).with_columns(
        pl.Series("eigenvalue", [values.tolist() for values in found], dtype=pl.List(pl.Float64)),
        pl.Series("total", sums, dtype=pl.Float64),
    )
    share = pl.when(pl.col("total") > 0).then(pl.col("eigenvalue") / pl.col("total"))
    rank = pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("context", "prefix", "n_prompts")
    return (
        frame.explode("eigenvalue")
        .with_columns(rank=rank, share=share)
        .filter(pl.col("eigenvalue").is_finite())
        .select(SCHEMA.names())
    )


def _summaries(
    cache: Cache, view: RunView, site: str, cells: Sequence[Cell]
) -> dict[Cell, Summary]:
    """What is kept of `cells`, the rest from one read of the site; the store may be read-only."""
    demand = Demand(solved=frozenset({"covariance"}))
    known = cache.summaries(site)
    missing = {cell: demand for cell in cells if not demand.met_by(known.get(cell))}
    if missing:
        new = site_summaries(SiteReader(view.run, site, view.lengths), missing)
        cache.keep_summaries(site, new)
        known |= new
    return known
