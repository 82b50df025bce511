"""The metrics table: one row per number of any declared metric."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import polars as pl

from lpp.analyze.engine.estimates import Estimates, Request
from lpp.analyze.engine.token_estimates import token_estimates
from lpp.analyze.metrics.metric import Metric
from lpp.analyze.metrics.registry import chosen
from lpp.analyze.numerics.jackknife import Estimate
from lpp.analyze.quantities.tables import ADDED, BESIDE, frame_schema, shared
from lpp.analyze.questions import Selection
from lpp.analyze.runs.incomplete import warn_of_incomplete
from lpp.analyze.runs.keys import RunView, Url, views
from lpp.analyze.tables import spectra
from lpp.analyze.tables.lazy import LazySource, scan
from lpp.sql.schema.columns import ERRORS, Column, Merging, Table, number_columns

LOGITS = "logits"
"""The site of metrics that need token statistics: they come from the logits, not from a site."""

TABLE: Final = Table(
    "metrics",
    "metrics that are not in spectra (see lpp-analyze metrics)",
    "lpp-analyze profile STORE --metrics NAME",
    ("run", "site", "context", "prefix", "n_prompts", "first_position", "metric"),
    (
        *shared("run"),
        Column("site", "VARCHAR", "as in spectra; logits: from token statistics"),
        *shared("context prefix n_prompts first_position n_quarantined"),
        Column("metric", "VARCHAR", "name of the metric", part="name", number="value"),
        Column("unit", "VARCHAR", "unit of the value", part="unit", number="value"),
        *number_columns(
            "value", "value; null: not defined for these tokens", "of the metric", ERRORS, prefix=""
        ),
        Column("flags", "VARCHAR[]", "why the value may mislead; empty when none"),
        *shared("cluster"),
    ),
    merging=Merging(beside=BESIDE),
)

METRICS_SCHEMA: Final = frame_schema(TABLE.columns, without=ADDED)

VALUES: Final = ("value", *ERRORS)

_KEYS: Final = tuple(name for name in METRICS_SCHEMA if name not in VALUES)
"""Columns known without reading a row; filters on them decide what is computed."""

_SETTING = ("run", "site", "context", "prefix", "n_prompts", "first_position", "n_quarantined")


def scan_metrics(
    url: Url,
    *,
    metrics: Sequence[str] = ("*",),
    contexts: Sequence[int] | None = None,
    prompts: Sequence[int] | None = None,
    skip_first: Sequence[int] = (0,),
    groups: int | None = None,
) -> pl.LazyFrame:
    """Declared metrics of the store at `url`, computed when collected: columns `METRICS_SCHEMA`.

    metrics: names or patterns, such as `zscore_*`; see `lpp-analyze metrics`. Metrics of token
    statistics have the site `logits` and the first position 0. contexts, prompts, skip_first,
    groups: as for `scan_spectra`. A run without stored states gives no metrics that need them.

    Filters on key columns, including `metric`, limit what is computed. Raises InputError for a name
    that matches no metric, FormatError if `url` is not a store or was altered. Warns about each
    incomplete run.
    """
    warn_of_incomplete(views(url))
    declared = chosen(metrics)
    selection = Selection(contexts=contexts, prompts=prompts, skip_first=skip_first)

    def compute(
        run_views: list[RunView], keys: pl.DataFrame, columns: frozenset[str]
    ) -> Iterator[pl.DataFrame]:
        def request(part: pl.DataFrame) -> Request:
            names = set(part["metric"]) if columns & set(VALUES) else set()
            wanted = [metric for metric in declared if metric.name in names]
            errors = names if groups and columns & set(ERRORS) else set()
            return Request(metrics=wanted, errors=errors, groups=groups or 0)

        for of_run in keys.partition_by("run", maintain_order=True):
            of_sites, of_logits = (
                of_run.filter(pl.col("site") != LOGITS),
                of_run.filter(site=LOGITS),
            )
            for _, of_site, estimates in spectra.site_numbers(run_views, of_sites, request):
                yield frame(of_site, estimates)
            if len(of_logits):
                yield from logit_frames(run_views, of_logits, request(of_logits))

    return scan(
        LazySource(
            name="LPP METRICS",
            schema=METRICS_SCHEMA,
            opened=lambda: views(url),
            keys=lambda run_views: metric_keys(run_views, declared, selection),
            compute=compute,
        )
    )


def metric_keys(
    views: Iterable[RunView], metrics: Sequence[Metric[Any]], selection: Selection
) -> pl.DataFrame:
    """The key columns of every row, in the order of the spectra table, then of `metrics`."""
    of_sites = [m for m in metrics if m.needs != "tokens"]
    of_tokens = [m for m in metrics if m.needs == "tokens"]
    frames = [pl.DataFrame(schema={name: METRICS_SCHEMA[name] for name in _KEYS})]
    for view in views:
        keys = spectra.key_frame(view, selection)
        frames.append(crossed(keys, of_sites))
        frames.append(crossed(of_logits(view, selection), of_tokens))
    return pl.concat(frames)


def of_logits(view: RunView, selection: Selection) -> pl.DataFrame:
    """Keys of a run, as of the spectra table, with the single site `logits`."""
    keys = spectra.key_frame(view, replace(selection, skip_first=(0,)))
    once = keys.unique(["context", "prefix", "n_prompts"], maintain_order=True)
    return once.with_columns(site=pl.lit(LOGITS))


def logit_frames(
    views: Iterable[RunView], keys: pl.DataFrame, request: Request
) -> Iterator[pl.DataFrame]:
    """The rows of `keys`, all of the site `logits`, one frame per run."""
    for view in views:
        of_run = keys.filter(run=view.run.id)
        if len(of_run):
            yield frame(of_run, token_estimates(view, set(spectra.cells(of_run)), request))


def crossed(keys: pl.DataFrame, metrics: Collection[Metric[Any]]) -> pl.DataFrame:
    """A row for each of `keys` (of the spectra table) and each of `metrics`."""
    names = pl.DataFrame(
        {"metric": [m.name for m in metrics], "unit": [m.unit for m in metrics]},
        schema={name: METRICS_SCHEMA[name] for name in ("metric", "unit")},
    )
    return keys.select(_SETTING).join(names, how="cross", maintain_order="left_right")


def frame(keys: pl.DataFrame, estimates: Estimates) -> pl.DataFrame:
    """The rows of `keys`; numbers that are not in `estimates` are null."""
    pairs = zip(spectra.cells(keys), keys["metric"], strict=True)
    return _with_values(keys, [estimates.get(pair, Estimate(None)) for pair in pairs])


def frame_of_sites(
    parts: Sequence[spectra.SiteEstimates], metrics: Sequence[Metric[Any]]
) -> pl.DataFrame:
    """A row for each key of `parts` and each of `metrics`."""
    keys = crossed(pl.concat([spectra.no_keys(), *(keys for keys, _ in parts)]), metrics)
    rows = [
        estimates.get((cell, metric.name), Estimate(None))
        for keys, estimates in parts
        for cell in spectra.cells(keys)
        for metric in metrics
    ]
    return _with_values(keys, rows)


def _with_values(keys: pl.DataFrame, rows: Sequence[Estimate]) -> pl.DataFrame:
    return keys.with_columns(
        pl.Series(name, [row[k] for row in rows], dtype=pl.Float64) for k, name in enumerate(VALUES)
    )
