"""Flags of the numbers of a comparison of two runs."""

from collections.abc import Iterable, Sequence
from typing import Final

import polars as pl

from lpp.analyze.drift.pair import Pair
from lpp.analyze.drift.sites import SiteDrift, site_frame
from lpp.analyze.engine.cache import Cache
from lpp.analyze.engine.estimates import Request, SiteRequest, site_estimates
from lpp.analyze.engine.workers import Workers
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.numerics.jackknife import error_names
from lpp.analyze.quantities.drift import PREDICTIONS, SITE_CHANGES
from lpp.analyze.quantities.flags import flags_of, flags_of_any
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.keys import RunView

SINK_PROMPTS: Final = 32
"""Prompts of each run that are searched for attention sinks. Sinks are a property of the model, and
more prompts would cost another read of all rows."""

_OF_LOGITS: Final = {name for name, p in PREDICTIONS.items() if p.needs_logits or p.tie}
"""Numbers of predictions that come from logits, not from the statistics of the capture."""


def site_flags(pair: Pair, sites: Sequence[SiteDrift], *, first_position: int) -> list[list[str]]:
    """Sorted flags of each of `sites`: `sink` (in the first `SINK_PROMPTS` prompts of either run,
    if no position is skipped), `quarantined`, `lossy` (of either run), `no_error`.

    A difference smaller than its error is normal, so it has no flag. Raises FormatError for altered
    bytes.
    """
    frame = site_frame(sites)
    names = frame["site"].to_list()
    sinks = [0] * len(names) if first_position else _sinks(pair, names)
    facts = frame.select(
        n_prompts=pl.lit(pair.n_prompts, pl.Int32),
        n_quarantined=pl.lit(len(pair.excluded), pl.Int32),
        n_sinks=pl.Series(sinks, dtype=pl.Int32),
        lossy=pl.Series(
            [any(run.plan.is_lossy(name) for run in pair.runs) for name in names], dtype=pl.Boolean
        ),
    )
    unsure = (
        facts.with_columns(
            value=pl.when(frame[error_names(name)[0]].is_null()).then(frame[name]),
            stderr=pl.lit(None, pl.Float64),
        )
        for name in SITE_CHANGES
    )
    flags: list[list[str]] = flags_of_any(unsure).to_list()
    return flags


def prediction_flags(pair: Pair, numbers: Iterable[str]) -> dict[str, list[str]]:
    """Sorted flags of each of `numbers` of the predictions: `quarantined`, and `lossy` of those
    that are computed from logits, that is from the rows of `final` of either run.
    """
    names = [*numbers]
    rounded = any(run.plan.is_lossy("final") for run in pair.runs)
    facts = pl.DataFrame({"lossy": [rounded and name in _OF_LOGITS for name in names]})
    facts = facts.with_columns(n_quarantined=pl.lit(len(pair.excluded), pl.Int32))
    return dict(zip(names, flags_of(facts).to_list(), strict=True))


def _sinks(pair: Pair, sites: list[str]) -> list[int]:
    """Largest number of sinks in either run at each site, among the rows compared."""
    with Workers(1) as workers:
        counts = [_sinks_of(view, pair, sites, workers) for view in (pair.a, pair.b)]
    return [max(both) for both in zip(*counts, strict=True)]


def _sinks_of(view: RunView, pair: Pair, sites: list[str], workers: Workers) -> list[int]:
    end = min(view.run.plan.context for view in (pair.a, pair.b))
    cell = Cell(min(pair.n_prompts, SINK_PROMPTS), end)
    cache = Cache(pair.a.run.directory.root, view.run)  # the store of B is only read
    request = Request(metrics=[METRICS["n_sinks"]])
    values = (
        site_estimates(SiteRequest(view, cache, site, [cell], request), workers)[
            cell, "n_sinks"
        ].value
        if site in view.run.activation_sites
        else 0
        for site in sites
    )
    return [int(value or 0) for value in values]
