"""The spectra table: ranks of every run, site, context, prefix, number of prompts and start."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Final

import polars as pl

from lpp.analyze.engine.cache import Cache
from lpp.analyze.engine.estimates import Estimates, Request
from lpp.analyze.engine.executor import LOCAL, Executor, Work
from lpp.analyze.metrics.metric import Metric
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.metrics.spectral import PAPER
from lpp.analyze.numerics.jackknife import Estimate, error_names
from lpp.analyze.numerics.spectrum import rank_bound
from lpp.analyze.runs.cells import Cell, n_tokens
from lpp.analyze.runs.incomplete import warn_of_incomplete
from lpp.analyze.runs.keys import RunView, Url, depth, views
from lpp.analyze.runs.select import Selection
from lpp.analyze.tables.lazy import Source, scan

SINKS: Final = ("n_sinks", "sink_end")
"""Metrics of rows that the table has beside those of the paper."""

_KEYS = pl.Schema(
    {
        "run": pl.String,
        "site": pl.String,
        "context": pl.Int32,
        "prefix": pl.Int32,
        "n_prompts": pl.Int32,
        "first_position": pl.Int32,
        "depth": pl.Int32,
        "n_quarantined": pl.Int32,
        "n_duplicates": pl.Int32,
        "n_tokens": pl.Int64,
        "dim": pl.Int32,
        "rank_bound": pl.Int32,
    }
)

SCHEMA = pl.Schema(
    dict(_KEYS)
    | dict.fromkeys(SINKS, pl.Int32)
    | dict.fromkeys((metric.name for metric in PAPER), pl.Float64)
    | dict.fromkeys((name for m in PAPER for name in error_names(m.name)), pl.Float64)
)
"""Columns: keys first, then counts, then numbers in dimensions and over `rank_bound`, then the
standard error and the interval of each."""

KEYS = tuple(_KEYS)
"""Known without reading a row; filters on them decide what is computed."""


def scan_spectra(
    url: Url,
    *,
    contexts: Sequence[int] | None = None,
    prompts: Sequence[int] | None = None,
    skip_first: Sequence[int] = (0,),
    groups: int | None = None,
) -> pl.LazyFrame:
    """Ranks of the store at `url`, computed as they are collected: columns as in `SCHEMA`.

    contexts: any up to the captured one; each run's captured context by default.
    prompts: numbers of prompts, the first n of the run; all that are committed by default.
    skip_first: first positions k, of the rows at k <= position < prefix; a prefix up to k has none.
    groups: of the jackknife, 10 for example; without it the errors are null and cost nothing.
    A run that holds less than what is asked for has no rows for it: one that keeps moments and no
    rows, prefixes and first positions that end no band and numbers of prompts that are not whole
    shards.

    Filters on key columns and the choice of columns reach the computation: one site asked for is
    one site read, without `effective_rank` and `top_share` there is no eigen-decomposition, and
    only those columns' errors are computed that are asked for. What was computed once is kept
    under `analysis/`. Warns of a run that is incomplete. Raises FormatError: not a store, or
    altered.
    """
    warn_of_incomplete(views(url))
    selection = Selection(contexts=contexts, prompts=prompts, skip_first=skip_first)

    def compute(
        every: list[RunView], keys: pl.DataFrame, columns: frozenset[str]
    ) -> Iterator[pl.DataFrame]:
        request = _requested(columns, groups)
        for _, of_site, found in site_numbers(every, keys, lambda _: request):
            yield frame(of_site, found)

    return scan(
        Source(
            name="LPP SPECTRA",
            schema=SCHEMA,
            opened=lambda: views(url),
            keys=lambda every: all_keys(every, selection),
            compute=compute,
        )
    )


def _requested(columns: frozenset[str], groups: int | None) -> Request:
    """The metrics behind `columns`; no errors without `groups`."""
    errors = [m.name for m in PAPER if groups and columns & set(error_names(m.name))]
    metrics = [m for m in (*PAPER, *sink_metrics()) if m.name in {*columns, *errors}]
    return Request(metrics=metrics, errors=errors, groups=groups or 0)


def sink_metrics() -> list[Metric[Any]]:
    """The declarations of `SINKS`."""
    return [METRICS[name] for name in SINKS]


def site_numbers(
    views: Iterable[RunView],
    keys: pl.DataFrame,
    request: Callable[[pl.DataFrame], Request],
    executor: Executor = LOCAL,
) -> Iterator[tuple[RunView, pl.DataFrame, Estimates]]:
    """Each run and site of `keys`, in order: the run, its part of `keys`, what was found of it.

    request: what to compute of such a part. Each is computed when it is its turn.
    """
    runs = {view.run.id: view for view in views}
    parts, work = [], []
    for (run,), of_run in keys.group_by("run", maintain_order=True):
        view = runs[str(run)]
        cache = Cache(view.run.path.parent.parent, view.run)
        for (site,), of_site in of_run.group_by("site", maintain_order=True):
            parts.append((view, of_site))
            work.append(Work(view, cache, str(site), set(cells(of_site)), request(of_site)))
    for (view, of_site), found in zip(parts, executor.estimates(work), strict=True):
        yield view, of_site, found


def cells(keys: pl.DataFrame) -> list[Cell]:
    """The cell of each row."""
    rows = keys.select("n_prompts", "prefix", "first_position").iter_rows()
    return [Cell(size, prefix, first_position=first) for size, prefix, first in rows]


def frame(keys: pl.DataFrame, found: Estimates) -> pl.DataFrame:
    """The rows of `keys`; what is not among `found` is null."""
    names = [metric.name for metric in PAPER]
    columns = numbers(keys, found, [*SINKS, *names], errors=names)
    return keys.with_columns(columns).select(pl.col(n).cast(t) for n, t in SCHEMA.items())


def numbers(
    keys: pl.DataFrame, found: Estimates, names: Iterable[str], *, errors: Collection[str]
) -> Iterator[pl.Series]:
    """Columns beside `keys`: each metric of `names`, and the error of those in `errors`."""
    rows = cells(keys)
    for metric in names:
        of_metric = [found.get((cell, metric), Estimate(None)) for cell in rows]
        heads = (metric, *(error_names(metric) if metric in errors else ()))
        for place, head in enumerate(heads):
            yield pl.Series(head, [e[place] for e in of_metric], dtype=pl.Float64)


def all_keys(views: Iterable[RunView], selection: Selection) -> pl.DataFrame:
    """The key columns of every row."""
    return pl.concat([pl.DataFrame(schema=_KEYS), *(key_frame(v, selection) for v in views)])


def key_frame(view: RunView, selection: Selection) -> pl.DataFrame:
    """The key columns of one run's rows: by site depth, context, prefix, prompts, start."""
    plan = view.run.plan
    settings = [
        (context, Cell(size, prefix, first_position=first))
        for context in view.contexts(selection.contexts)
        for prefix in view.rank_prefixes(context)
        for size in view.rank_sizes(selection.prompts)
        for first in sorted(set(selection.skip_first))
        if prefix in view.rank_prefixes(context, first)
    ]
    counts = {
        size: (view.quarantined(size), view.duplicates(size))
        for size in {c.n_prompts for _, c in settings}
    }
    tokens = {cell: n_tokens(view.lengths, cell) for _, cell in settings}
    found = [
        (
            *(view.run.id, site.name, context, cell.prefix, cell.n_prompts, cell.first_position),
            *(depth(site.name, plan.model.n_blocks), *counts[cell.n_prompts]),
            *(tokens[cell], site.width, rank_bound(tokens[cell], site.width)),
        )
        for site in plan.sites
        for context, cell in settings
    ]
    return pl.DataFrame(found, schema=_KEYS, orient="row")
