"""The spectra table: ranks of every run, site, context, prefix and number of prompts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import polars as pl

from lpp.analyze.bands import site_summaries
from lpp.analyze.cache import SpectrumCache
from lpp.analyze.cells import Cell, n_tokens
from lpp.analyze.keys import RunView, Url, depth, views
from lpp.analyze.lazy import Source, scan
from lpp.analyze.spectral_metrics import PAPER
from lpp.analyze.spectrum import rank_bound
from lpp.analyze.summary import Demand, Summary
from lpp.store import open_store

SCHEMA = pl.Schema(
    {
        "run": pl.String,
        "site": pl.String,
        "context": pl.Int32,
        "prefix": pl.Int32,
        "n_prompts": pl.Int32,
        "depth": pl.Int32,
        "n_tokens": pl.Int64,
        "dim": pl.Int32,
        "rank_bound": pl.Int32,
        **{metric.name: pl.Float64 for metric in PAPER},
    }
)
"""Columns: keys first, then counts, then numbers in dimensions and over `rank_bound`."""

KEYS = tuple(SCHEMA)[:9]
"""Known without reading a row; filters on them decide what is computed."""


def scan_spectra(
    url: Url, *, contexts: Sequence[int] | None = None, prompts: Sequence[int] | None = None
) -> pl.LazyFrame:
    """Ranks of the store at `url`, computed as they are collected: columns as in `SCHEMA`.

    contexts: any up to the captured one; each run's captured context by default.
    prompts: numbers of prompts, the first n of the run; all that are committed by default.
    A run that holds less than what is asked for has no rows for it.

    Filters on key columns and the choice of columns reach the computation: one site asked for is
    one site read, and without `effective_rank` and `top_share` there is no eigen-decomposition.
    What was computed once is kept under `analysis/`. Raises FormatError: not a store, or altered.
    """
    open_store(url)

    def keys() -> pl.DataFrame:
        return all_keys(views(url), contexts, prompts)

    def compute(keys: pl.DataFrame, columns: frozenset[str]) -> Iterator[pl.DataFrame]:
        return frames(url, keys, columns)

    return scan(Source(name="LPP SPECTRA", schema=SCHEMA, keys=keys, compute=compute))


def frames(url: Url, keys: pl.DataFrame, columns: frozenset[str]) -> Iterator[pl.DataFrame]:
    """The rows of `keys`, a run and site at a time: each read at most once, when it is its turn."""
    store = open_store(url)
    for _, of_run in keys.group_by("run", maintain_order=True):
        view = RunView(store.runs[of_run.item(0, "run")])
        cache = SpectrumCache(store.path, view.run)
        for _, of_site in of_run.group_by("site", maintain_order=True):
            yield rows(view, cache, of_site, columns)


def all_keys(
    views: Iterable[RunView], contexts: Sequence[int] | None, prompts: Sequence[int] | None
) -> pl.DataFrame:
    """The key columns of every row."""
    found = [key_frame(view, contexts, prompts) for view in views]
    return pl.concat([pl.DataFrame(schema=_key_schema()), *found])


def _key_schema() -> pl.Schema:
    return pl.Schema({name: SCHEMA[name] for name in KEYS})


def key_frame(
    view: RunView, contexts: Sequence[int] | None, prompts: Sequence[int] | None
) -> pl.DataFrame:
    """The key columns of one run's rows, in order of site depth, context, prefix, prompts."""
    plan = view.run.plan
    cells = [
        (context, prefix, size, n_tokens(view.lengths, Cell(size, prefix)))
        for context in view.contexts(contexts)
        for prefix in view.prefixes(context)
        for size in view.sizes(prompts)
    ]
    found = [
        (
            *(view.run.id, site.name, context, prefix, size),
            *(depth(site.name, plan.model.n_blocks), tokens, site.width),
            rank_bound(tokens, site.width),
        )
        for site in plan.sites
        for context, prefix, size, tokens in cells
    ]
    return pl.DataFrame(found, schema=_key_schema(), orient="row")


def rows(
    view: RunView, cache: SpectrumCache, keys: pl.DataFrame, columns: frozenset[str]
) -> pl.DataFrame:
    """The rows of one run and site for `keys`; value columns that nobody asked for are null."""
    cells = [Cell(*pair) for pair in keys.select("n_prompts", "prefix").iter_rows()]
    metrics = [metric for metric in PAPER if metric.name in columns]
    summaries: Mapping[Cell, Summary] = {}
    if metrics:
        wanted = dict.fromkeys(cells, Demand.of(metrics))
        summaries = cached_summaries(view, cache, keys.item(0, "site"), wanted)
    values = {m.name: [summaries[cell].value(m) for cell in cells] for m in metrics}
    return keys.with_columns(
        # rows that hold infinities or NaN have no rank
        pl.Series(m.name, values.get(m.name, [None] * len(cells)), dtype=pl.Float64).fill_nan(None)
        for m in PAPER
    ).select(SCHEMA.names())


def cached_summaries(
    view: RunView, cache: SpectrumCache, site: str, wanted: Mapping[Cell, Demand]
) -> dict[Cell, Summary]:
    """Summaries from the cache, and those it lacks from one read of the site."""
    known = cache.read(site)
    missing = {cell: d for cell, d in wanted.items() if not d.met_by(known.get(cell))}
    for cell, summary in site_summaries(view.run, site, missing, view.lengths).items():
        known[cell] = summary.joined(known[cell]) if cell in known else summary
    if missing:
        cache.write(site, known)
    return known
