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
        site_request, compared = pending.popleft()
        of_twin = next(results) if compared else {}
        yield {**estimated, **_differences(site_request, estimated, of_twin)}


def _parts(
    requests: Iterable[SiteRequest], pending: deque[tuple[SiteRequest, bool]]
) -> Iterator[SiteRequest]:
    """The requests without differences, each followed by the twin's if there is one."""
    for site_request in requests:
        requested = site_request.request.metrics
        bases = [(m, m.of_twin) for m in requested if m.of_twin is not None]
        twin = _of_twin(site_request, bases)
        pending.append((site_request, twin is not None))
        plain = [metric for metric in requested if metric.of_twin is None]
        names = {metric.name for metric in plain}
        further = [base for _, base in bases if base.name not in names]
        yield _with_metrics(site_request, [*plain, *further], bases)
        if twin is not None:
            yield twin


Bases = Sequence[tuple[Metric[Any], Metric[Any]]]
"""(difference, the metric that is compared)."""


def _with_metrics(
    site_request: SiteRequest, metrics: Sequence[Metric[Any]], bases: Bases
) -> SiteRequest:
    request = site_request.request
    errors = {base.name for metric, base in bases if metric.name in request.errors}
    request = replace(request, metrics=metrics, errors={*request.errors, *errors})
    return replace(site_request, request=request)


def _of_twin(site_request: SiteRequest, bases: Bases) -> SiteRequest | None:
    """The compared metrics of the twin; None if there is no twin or no common part."""
    twin = untrained_twin(site_request.view.run) if bases else None
    if twin is None or site_request.site not in twin.sites:
        return None
    cells = [cell for cell in site_request.cells if cell.n_prompts <= twin.n_prompts]
    if not cells:
        return None
    cache = Cache(twin.path.parent.parent, twin)
    at_twin = replace(site_request, view=RunView(twin), cache=cache, cells=cells)
    return _with_metrics(at_twin, [base for _, base in bases], bases)


def _differences(site_request: SiteRequest, estimated: Estimates, of_twin: Estimates) -> Estimates:
    nothing = Estimate(None)
    return {
        (cell, metric.name): jackknife_difference(
            of_twin.get((cell, metric.of_twin.name), nothing),
            estimated.get((cell, metric.of_twin.name), nothing),
            metric.limits,
        )
        for metric in site_request.request.metrics
        if metric.of_twin is not None
        for cell in site_request.cells
    }
