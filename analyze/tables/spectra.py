"""The spectra table: ranks of every run, site, context, prefix and number of prompts."""

from collections.abc import Iterable, Iterator, Sequence

import polars as pl

from lpp.analyze.engine.cache import Cache
from lpp.analyze.engine.estimates import Estimates, Request
from lpp.analyze.engine.executor import LOCAL, Work
from lpp.analyze.metrics.spectral import PAPER
from lpp.analyze.numerics.jackknife import Estimate, error_names
from lpp.analyze.numerics.spectrum import rank_bound
from lpp.analyze.runs.cells import Cell, n_tokens
from lpp.analyze.runs.incomplete import warn_of_incomplete
from lpp.analyze.runs.keys import RunView, Url, depth, views
from lpp.analyze.tables.lazy import Source, scan
from lpp.store import open_store
from lpp.store.objects.place import absolute

SCHEMA = pl.Schema(
    {
        "run": pl.String,
        "site": pl.String,
        "context": pl.Int32,
        "prefix": pl.Int32,
        "n_prompts": pl.Int32,
        "depth": pl.Int32,
        "n_quarantined": pl.Int32,
        "n_tokens": pl.Int64,
        "dim": pl.Int32,
        "rank_bound": pl.Int32,
        **{metric.name: pl.Float64 for metric in PAPER},
        **{name: pl.Float64 for metric in PAPER for name in error_names(metric.name)},
    }
)
"""Columns: keys first, then counts, then numbers in dimensions and over `rank_bound`, then the
standard error and the interval of each."""

KEYS = tuple(SCHEMA)[:10]
"""Known without reading a row; filters on them decide what is computed."""


def scan_spectra(
    url: Url,
    *,
    contexts: Sequence[int] | None = None,
    prompts: Sequence[int] | None = None,
    groups: int | None = None,
) -> pl.LazyFrame:
    """Ranks of the store at `url`, computed as they are collected: columns as in `SCHEMA`.

    contexts: any up to the captured one; each run's captured context by default.
    prompts: numbers of prompts, the first n of the run; all that are committed by default.
    groups: of the jackknife, 10 for example; without it the errors are null and cost nothing.
    A run that holds less than what is asked for has no rows for it: one that keeps moments and no
    rows, prefixes that end no band and numbers of prompts that are not whole shards.

    Filters on key columns and the choice of columns reach the computation: one site asked for is
    one site read, without `effective_rank` and `top_share` there is no eigen-decomposition, and
    only those columns' errors are computed that are asked for. What was computed once is kept
    under `analysis/`. Warns of a run that is incomplete. Raises FormatError: not a store, or
    altered.
    """
    warn_of_incomplete(views(url))

    def keys() -> pl.DataFrame:
        return all_keys(views(url), contexts, prompts)

    def compute(keys: pl.DataFrame, columns: frozenset[str]) -> Iterator[pl.DataFrame]:
        return frames(url, keys, columns, groups)

    return scan(Source(name="LPP SPECTRA", schema=SCHEMA, keys=keys, compute=compute))


def frames(
    url: Url, keys: pl.DataFrame, columns: frozenset[str], groups: int | None
) -> Iterator[pl.DataFrame]:
    """The rows of `keys`, a run and site at a time: each read when it is its turn."""
    request = requested(columns, groups)
    for view, cache, of_site in by_site(url, keys):
        yield frame(of_site, estimates(view, cache, of_site, request))


def requested(columns: frozenset[str], groups: int | None) -> Request:
    """The metrics behind `columns`; no errors without `groups`."""
    errors = [m.name for m in PAPER if groups and columns & set(error_names(m.name))]
    metrics = [m for m in PAPER if m.name in {*columns, *errors}]
    return Request(metrics=metrics, errors=errors, groups=groups or 0)


def by_site(url: Url, keys: pl.DataFrame) -> Iterator[tuple[RunView, Cache, pl.DataFrame]]:
    """The part of `keys` of each run and site, in order."""
    store = open_store(absolute(url))  # a site may be another machine's work
    for _, of_run in keys.group_by("run", maintain_order=True):
        view = RunView(store.runs[of_run.item(0, "run")])
        cache = Cache(store.path, view.run)
        for _, of_site in of_run.group_by("site", maintain_order=True):
            yield view, cache, of_site


def work(view: RunView, cache: Cache, keys: pl.DataFrame, request: Request) -> Work:
    """What `request` asks of the cells of `keys`, which are of one site."""
    return Work(view, cache, keys.item(0, "site"), set(cells(keys)), request)


def estimates(view: RunView, cache: Cache, keys: pl.DataFrame, request: Request) -> Estimates:
    """The same, computed in this process."""
    return next(LOCAL.estimates([work(view, cache, keys, request)]))


def cells(keys: pl.DataFrame) -> list[Cell]:
    """The cell of each row."""
    return [Cell(*pair) for pair in keys.select("n_prompts", "prefix").iter_rows()]


def frame(keys: pl.DataFrame, found: Estimates) -> pl.DataFrame:
    """The rows of `keys`; what is not among `found` is null."""
    columns = []
    for metric in PAPER:
        of_metric = [found.get((cell, metric.name), Estimate(None)) for cell in cells(keys)]
        names = (metric.name, *error_names(metric.name))
        for place, name in enumerate(names):
            columns.append(pl.Series(name, [e[place] for e in of_metric], dtype=pl.Float64))
    return keys.with_columns(columns).select(SCHEMA.names())


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
        (context, prefix, size, view.quarantined(size), n_tokens(view.lengths, Cell(size, prefix)))
        for context in view.contexts(contexts)
        for prefix in view.rank_prefixes(context)
        for size in view.rank_sizes(prompts)
    ]
    found = [
        (
            *(view.run.id, site.name, context, prefix, size),
            *(depth(site.name, plan.model.n_blocks), aside, tokens, site.width),
            rank_bound(tokens, site.width),
        )
        for site in plan.sites
        for context, prefix, size, aside, tokens in cells
    ]
    return pl.DataFrame(found, schema=_key_schema(), orient="row")
