"""The metrics table: any declared metric, a row each."""

import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import polars as pl

from lpp.analyze.engine.estimates import Estimates, Request, token_estimates
from lpp.analyze.metrics.metric import Metric
from lpp.analyze.metrics.registry import chosen, unavailable
from lpp.analyze.numerics.jackknife import ERRORS, Estimate
from lpp.analyze.runs.incomplete import warn_of_incomplete
from lpp.analyze.runs.keys import RunView, Url, views
from lpp.analyze.tables import spectra
from lpp.analyze.tables.lazy import Source, scan

LOGITS = "logits"
"""The site of metrics that need token statistics: they come from the logits, not from a site."""

SCHEMA = pl.Schema(
    {
        "run": pl.String,
        "site": pl.String,
        "context": pl.Int32,
        "prefix": pl.Int32,
        "n_prompts": pl.Int32,
        "n_quarantined": pl.Int32,
        "metric": pl.String,
        "unit": pl.String,
        "value": pl.Float64,
        **dict.fromkeys(ERRORS, pl.Float64),
    }
)
"""Keys first, the unit with them; then the number, its standard error and its interval."""

KEYS = tuple(SCHEMA)[:8]
"""Known without reading a row; filters on them decide what is computed."""


def scan_metrics(
    url: Url,
    *,
    metrics: Sequence[str] = ("*",),
    contexts: Sequence[int] | None = None,
    prompts: Sequence[int] | None = None,
    groups: int | None = None,
) -> pl.LazyFrame:
    """Declared metrics of the store at `url`, computed as they are collected: `SCHEMA`.

    metrics: names or patterns, such as `zscore_*`; see `lpp-analyze metrics`. Metrics of token
    statistics have the site `logits`. contexts, prompts, groups: as for `scan_spectra`. A run
    that keeps no rows has none for metrics that need them.

    Filters on key columns, `metric` among them, reach the computation: nothing is computed that
    no metric left needs. A metric that only a pattern asks for is left out, with a warning, where
    a package is missing that it needs. Raises InputError for a name that fits no metric;
    FormatError: not a store, or altered. Warns of a run that is incomplete.
    """
    warn_of_incomplete(views(url))
    declared = chosen(metrics)
    for line in unavailable(metrics):
        warnings.warn(line, stacklevel=2)

    def keys() -> pl.DataFrame:
        return all_keys(list(views(url)), declared, contexts, prompts)

    def compute(keys: pl.DataFrame, columns: frozenset[str]) -> Iterator[pl.DataFrame]:
        for view, cache, of_site in spectra.by_site(url, keys):
            names = set(of_site["metric"]) if columns & set(SCHEMA.names()[8:]) else set()
            some = [metric for metric in declared if metric.name in names]
            errors = names if groups and columns & set(ERRORS) else set()
            request = Request(metrics=some, errors=errors, groups=groups or 0)
            if of_site.item(0, "site") == LOGITS:
                found = token_estimates(view, set(spectra.cells(of_site)), request)
            else:
                found = spectra.estimates(view, cache, of_site, request)
            yield frame(of_site, found)

    return scan(Source(name="LPP METRICS", schema=SCHEMA, keys=keys, compute=compute))


def all_keys(
    views: Sequence[RunView],
    metrics: Sequence[Metric[Any]],
    contexts: Sequence[int] | None,
    prompts: Sequence[int] | None,
) -> pl.DataFrame:
    """The key columns of every row, in the order of the spectra table, then of `metrics`."""
    of_sites = [m for m in metrics if m.needs != "tokens"]
    of_tokens = [m for m in metrics if m.needs == "tokens"]
    keys = spectra.all_keys(views, contexts, prompts)
    of_rows = {metric.name for metric in of_sites if metric.needs == "rows"}
    without = [view.run.id for view in views if not view.run.plan.keeps_rows]
    there = crossed(keys, of_sites).filter(
        ~(pl.col("run").is_in(without) & pl.col("metric").is_in(of_rows))
    )
    found = pl.concat([there, crossed(of_logits(keys), of_tokens)])
    order = {view.run.id: place for place, view in enumerate(views)}
    return found.sort(pl.col("run").replace_strict(order), maintain_order=True)


def of_logits(keys: pl.DataFrame) -> pl.DataFrame:
    """The keys of the spectra table, once for all sites, under the site `logits`."""
    once = keys.unique(["run", "context", "prefix", "n_prompts"], maintain_order=True)
    return once.with_columns(site=pl.lit(LOGITS))


def crossed(keys: pl.DataFrame, metrics: Collection[Metric[Any]]) -> pl.DataFrame:
    """A row for each of `keys`, of the spectra table, and each of `metrics`."""
    names = pl.DataFrame(
        {"metric": [m.name for m in metrics], "unit": [m.unit for m in metrics]},
        schema={name: SCHEMA[name] for name in ("metric", "unit")},
    )
    return keys.select(KEYS[:6]).join(names, how="cross", maintain_order="left_right")


def frame(keys: pl.DataFrame, found: Estimates) -> pl.DataFrame:
    """The rows of `keys`; what is not among `found` is null."""
    pairs = zip(spectra.cells(keys), keys["metric"], strict=True)
    rows = [found.get(pair, Estimate(None)) for pair in pairs]
    return keys.with_columns(
        pl.Series(name, [row[place] for row in rows], dtype=pl.Float64)
        for place, name in enumerate(SCHEMA.names()[8:])
    )
