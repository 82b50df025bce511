"""Differences of ranks of two runs, one of which stores moments and no rows."""

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from lpp.analyze.drift.pair import Pair
from lpp.analyze.engine.cache import Cache
from lpp.analyze.engine.estimates import Request, SiteRequest
from lpp.analyze.engine.executor import Executor
from lpp.analyze.engine.stored_moments import holds
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.numerics.jackknife import Estimate, jackknife_difference
from lpp.analyze.quantities.drift import RANKS, SITE_CHANGES
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.moments_held import listed_numbers


def why_no_moments(pair: Pair, cell: Cell) -> str | None:
    """Why `cell` has no ranks, if a run stores no rows; else None."""
    for view in (pair.a, pair.b):
        plan = view.run.plan
        if not np.array_equal(view.set_aside[: view.quarantined(cell.n_prompts)], pair.left_out):
            return "the runs set different prompts aside, and moments leave out those of one"
        if not plan.keeps_rows and not holds(view.run, cell):
            return (
                f"there are some of {listed_numbers(plan.shards[1:])} prompts, between positions "
                f"{listed_numbers((0, *plan.moment_ends))}"
            )
    return None


def moment_estimates(
    pair: Pair,
    sites: Sequence[tuple[str, bool]],
    cell: Cell,
    wanted: Collection[str],
    executor: Executor,
) -> Iterator[dict[str, Estimate]]:
    """Estimates of those of `wanted` that exist, for each site in order.

    sites: each with whether its numbers get an error. The numbers of each run are computed and
    stored as for its own tables.
    """
    names = [name for name in RANKS if name in wanted]
    held = why_no_moments(pair, cell) is None
    there = [
        held and len({v.run.site(site).width for v in (pair.a, pair.b)}) == 1 for site, _ in sites
    ]
    found = executor.estimates(
        SiteRequest(
            view,
            Cache(view.run.path.parent.parent, view.run),
            site,
            [cell],
            Request(
                metrics=[METRICS[name] for name in names],
                errors=names if sure else (),
                groups=pair.groups if sure else 0,
            ),
        )
        for (site, sure), comparable in zip(sites, there, strict=True)
        if comparable
        for view in (pair.a, pair.b)
    )
    for comparable in there:
        if not comparable:
            yield {}
            continue
        a, b = next(found), next(found)
        yield {
            name: jackknife_difference(b[cell, name], a[cell, name], SITE_CHANGES[name].limits)
            for name in names
        }
