"""Metrics that compare a run with its untrained twin: the difference of two estimates.

The estimates of both runs are cached like all others, so the twin's rows are not read again.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from lpp.analyze.engine.cache import Cache
from lpp.analyze.engine.estimates import Estimates, SiteRequest
from lpp.analyze.metrics.metric import Metric
from lpp.analyze.numerics.jackknife import Estimate, jackknife_difference
from lpp.analyze.runs.keys import RunView
from lpp.analyze.runs.twins import untrained_twin


def with_twins(
    estimates: Callable[[Iterable[SiteRequest]], Iterator[Estimates]],
    requests: Iterable[SiteRequest],
) -> Iterator[Estimates]:
    """`estimates` of each of `requests`, with differences from the twin's estimates."""
    pending: deque[tuple[SiteRequest, bool]] = deque()  # (request, whether the twin's follows)
    results = estimates(_parts(requests, pending))
    for estimated in results:
        wanted, compared = pending.popleft()
        of_twin = next(results) if compared else {}
        yield {**estimated, **_differences(wanted, estimated, of_twin)}


def _parts(
    requests: Iterable[SiteRequest], pending: deque[tuple[SiteRequest, bool]]
) -> Iterator[SiteRequest]:
    """The requests without differences, each followed by the twin's if there is one."""
    for wanted in requests:
        bases = [(m, m.of_twin) for m in wanted.request.metrics if m.of_twin is not None]
        twin = _of_twin(wanted, bases)
        pending.append((wanted, twin is not None))
        plain = [metric for metric in wanted.request.metrics if metric.of_twin is None]
        names = {metric.name for metric in plain}
        yield _asking(
            wanted, [*plain, *(base for _, base in bases if base.name not in names)], bases
        )
        if twin is not None:
            yield twin


Bases = Sequence[tuple[Metric[Any], Metric[Any]]]
"""(difference, the metric that is compared)."""


def _asking(wanted: SiteRequest, metrics: Sequence[Metric[Any]], bases: Bases) -> SiteRequest:
    errors = {base.name for metric, base in bases if metric.name in wanted.request.errors}
    request = replace(wanted.request, metrics=metrics, errors={*wanted.request.errors, *errors})
    return replace(wanted, request=request)


def _of_twin(wanted: SiteRequest, bases: Bases) -> SiteRequest | None:
    """The compared metrics of the twin; None if there is no twin or no common part."""
    twin = untrained_twin(wanted.view.run) if bases else None
    if twin is None or wanted.site not in twin.sites or not twin.plan.keeps_rows:
        return None
    there = [cell for cell in wanted.cells if cell.n_prompts <= twin.n_prompts]
    if not there:
        return None
    cache = Cache(twin.path.parent.parent, twin)
    at_twin = replace(wanted, view=RunView(twin), cache=cache, cells=there)
    return _asking(at_twin, [base for _, base in bases], bases)


def _differences(wanted: SiteRequest, estimated: Estimates, of_twin: Estimates) -> Estimates:
    nothing = Estimate(None)
    return {
        (cell, metric.name): jackknife_difference(
            of_twin.get((cell, metric.of_twin.name), nothing),
            estimated.get((cell, metric.of_twin.name), nothing),
            metric.limits,
        )
        for metric in wanted.request.metrics
        if metric.of_twin is not None
        for cell in wanted.cells
    }
