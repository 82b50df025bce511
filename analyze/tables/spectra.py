"""The spectra table: ranks by run, site, context, prefix, number of prompts, first position."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Final

import polars as pl

from lpp.analyze.engine.cache import Cache
from lpp.analyze.engine.estimates import Estimates, Request, SiteRequest
from lpp.analyze.engine.executor import LOCAL, Executor
from lpp.analyze.metrics.metric import Metric
from lpp.analyze.metrics.registry import METRICS, SINKS
from lpp.analyze.metrics.spectral import PAPER
from lpp.analyze.numerics.jackknife import Estimate, error_names
from lpp.analyze.numerics.spectrum import rank_bound
from lpp.analyze.quantities.tables import ADDED, columns_of, frame_schema, shared
from lpp.analyze.questions import Selection
from lpp.analyze.runs.cells import Cell, n_tokens
from lpp.analyze.runs.incomplete import warn_of_incomplete
from lpp.analyze.runs.keys import RunView, Url, views
from lpp.analyze.tables.lazy import LazySource, scan
from lpp.sql.schema.columns import ERRORS, Column, Merging, Table, values_first

SiteEstimates = tuple[pl.DataFrame, Estimates]
"""Some key rows of one site of one run, and the estimates of their cells."""

SINK_COLUMNS: Final = (
    *columns_of(
        METRICS["n_sinks"], meaning="positions used that are attention sinks", type="INTEGER"
    ),
    *columns_of(
        METRICS["sink_end"],
        meaning="first position after the site's sinks; 0: none",
        type="INTEGER",
    ),
)

_KEYS: Final = (
    *shared("run site context prefix n_prompts first_position depth n_quarantined n_duplicates"),
    *shared("n_tokens"),
    Column("dim", "INTEGER", "d: width of the rows", "dimensions"),
    *shared("rank_bound"),
)

SPECTRA: Final = Table(
    "spectra",
    "spectrum of the hidden states at one site and prefix",
    "lpp-analyze profile STORE",
    ("run", "site", "context", "prefix", "n_prompts", "first_position"),
    (
        *_KEYS,
        *SINK_COLUMNS,
        *values_first(*(columns_of(metric, ERRORS) for metric in PAPER)),
        *shared("flags cluster"),
    ),
    merging=Merging(),
)
"""Ranks in dimensions and divided by `rank_bound`, then the standard error and interval of each."""

SPECTRA_SCHEMA: Final = frame_schema(SPECTRA.columns, without=ADDED)

KEYS: Final = tuple(column.name for column in _KEYS)
"""Columns known without reading a row; filters on them decide what is computed."""

_KEY_SCHEMA: Final = pl.Schema({name: SPECTRA_SCHEMA[name] for name in KEYS})


def scan_spectra(
    url: Url,
    *,
    contexts: Sequence[int] | None = None,
    prompts: Sequence[int] | None = None,
    skip_first: Sequence[int] = (0,),
    groups: int | None = None,
) -> pl.LazyFrame:
    """Ranks of the store at `url`, computed when collected: columns as in `SPECTRA_SCHEMA`.

    contexts: any up to the captured one; each run's captured context by default. prompts: numbers
    n, each for the first n prompts of a run; all committed prompts by default. skip_first: numbers
    k; the states at positions k to prefix - 1 count, and prefixes up to k give no row. groups: of
    the jackknife, such as 10; without it errors are null and cost nothing.

    A run gives no rows for what it does not have.

    Filters on key columns and the choice of columns limit what is computed. Only the selected sites
    are read; without `effective_rank` and `top_share` there is no eigendecomposition; only errors
    of selected columns are computed. Results are cached under `analysis/`. Warns about each
    incomplete run. Raises FormatError if `url` is not a store or was altered.
    """
    warn_of_incomplete(views(url))
    selection = Selection(contexts=contexts, prompts=prompts, skip_first=skip_first)

    def compute(
        run_views: list[RunView], keys: pl.DataFrame, columns: frozenset[str]
    ) -> Iterator[pl.DataFrame]:
        request = _requested(columns, groups)
        for _, of_site, estimates in site_numbers(run_views, keys, lambda _: request):
            yield frame([(of_site, estimates)])

    return scan(
        LazySource(
            name="LPP SPECTRA",
            schema=SPECTRA_SCHEMA,
            opened=lambda: views(url),
            keys=lambda run_views: all_keys(run_views, selection),
            compute=compute,
        )
    )


def _requested(columns: frozenset[str], groups: int | None) -> Request:
    """The request for the metrics of `columns`, with errors if there are `groups`."""
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
    """(run, its part of `keys`, estimates) for each run and site of `keys`, in order.

    request: gives what to compute for such a part. A site is computed when the iteration needs it.
    """
    runs = {view.run.id: view for view in views}
    parts, work = [], []
    caches = {
        run: Cache(runs[run].run.path.parent.parent, runs[run].run) for run in keys["run"].unique()
    }
    for of_site in keys.partition_by("run", "site", maintain_order=True):
        run, site = of_site.select("run", "site").row(0)
        parts.append((runs[run], of_site))
        of_cells = {*cells(of_site)}
        work.append(SiteRequest(runs[run], caches[run], site, of_cells, request(of_site)))
    for (view, of_site), estimates in zip(parts, executor.estimates(work), strict=True):
        yield view, of_site, estimates


def cells(keys: pl.DataFrame) -> list[Cell]:
    """The cell of each row."""
    rows = keys.select("n_prompts", "prefix", "first_position").iter_rows()
    return [Cell(size, prefix, first_position=first) for size, prefix, first in rows]


def frame(parts: Sequence[SiteEstimates]) -> pl.DataFrame:
    """The rows of the keys of `parts`; numbers that are not in the estimates are null."""
    names = [metric.name for metric in PAPER]
    keys = pl.concat([no_keys(), *(keys for keys, _ in parts)])
    columns = numbers(parts, [*SINKS, *names], errors=names)
    return keys.with_columns(columns).select(pl.col(n).cast(t) for n, t in SPECTRA_SCHEMA.items())


def numbers(
    parts: Sequence[SiteEstimates], names: Iterable[str], *, errors: Collection[str]
) -> Iterator[pl.Series]:
    """Columns for the rows of `parts`: each metric of `names`, and errors of those in `errors`."""
    rows = [(cell, estimates) for keys, estimates in parts for cell in cells(keys)]
    for metric in names:
        of_metric = [estimates.get((cell, metric), Estimate(None)) for cell, estimates in rows]
        heads = (metric, *(error_names(metric) if metric in errors else ()))
        for k, head in enumerate(heads):
            yield pl.Series(head, [e[k] for e in of_metric], dtype=pl.Float64)


def all_keys(views: Iterable[RunView], selection: Selection) -> pl.DataFrame:
    """The key columns of every row."""
    rows = [row for view in views for row in _key_rows(view, selection)]
    return pl.DataFrame(rows, schema=_KEY_SCHEMA, orient="row")


def no_keys() -> pl.DataFrame:
    """The key columns without rows."""
    return pl.DataFrame(schema=_KEY_SCHEMA)


def key_frame(view: RunView, selection: Selection) -> pl.DataFrame:
    """The key columns of one run, by depth, context, prefix, prompts and first position."""
    return all_keys([view], selection)


def _key_rows(view: RunView, selection: Selection) -> list[tuple[Any, ...]]:
    plan = view.run.plan
    settings = [
        (context, Cell(size, prefix, first_position=first))
        for context in view.contexts(selection.contexts)
        for prefix in view.prefixes(context)
        for size in view.sizes(selection.prompts)
        for first in sorted(set(selection.skip_first))
        if first < prefix
    ]
    counts = {
        size: (view.quarantined(size), view.duplicates(size))
        for size in {c.n_prompts for _, c in settings}
    }
    tokens = {cell: n_tokens(view.lengths, cell) for _, cell in settings}
    sites = [(s, plan.depth_of(s), view.run.site(s).width) for s in view.run.activation_sites]
    return [
        (
            *(view.run.id, name, context, cell.prefix, cell.n_prompts, cell.first_position),
            *(depth, *counts[cell.n_prompts]),
            *(tokens[cell], width, rank_bound(tokens[cell], width)),
        )
        for name, depth, width in sites
        for context, cell in settings
    ]
