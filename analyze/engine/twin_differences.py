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
    asked: deque[tuple[SiteRequest, bool]] = deque()  # (request, whether the twin's follows)
    found = estimates(_parts(requests, asked))
    for own in found:
        one, compared = asked.popleft()
        twin = next(found) if compared else {}
        yield {**own, **_differences(one, own, twin)}


def _parts(
    requests: Iterable[SiteRequest], asked: deque[tuple[SiteRequest, bool]]
) -> Iterator[SiteRequest]:
    """The requests without differences, each followed by the twin's if there is one."""
    for one in requests:
        bases = [(m, m.of_twin) for m in one.request.metrics if m.of_twin is not None]
        twin = _of_twin(one, bases)
        asked.append((one, twin is not None))
        plain = [metric for metric in one.request.metrics if metric.of_twin is None]
        names = {metric.name for metric in plain}
        yield _asking(one, [*plain, *(base for _, base in bases if base.name not in names)], bases)
        if twin is not None:
            yield twin


Bases = Sequence[tuple[Metric[Any], Metric[Any]]]
"""(difference, the metric that is compared)."""


def _asking(one: SiteRequest, metrics: Sequence[Metric[Any]], bases: Bases) -> SiteRequest:
    errors = {base.name for metric, base in bases if metric.name in one.request.errors}
    request = replace(one.request, metrics=metrics, errors={*one.request.errors, *errors})
    return replace(one, request=request)


def _of_twin(one: SiteRequest, bases: Bases) -> SiteRequest | None:
    """The compared metrics of the twin; None if there is no twin or no common part."""
    twin = untrained_twin(one.view.run) if bases else None
    if twin is None or one.site not in twin.sites or not twin.plan.keeps_rows:
        return None
    there = [cell for cell in one.cells if cell.n_prompts <= twin.n_prompts]
    if not there:
        return None
    cache = Cache(twin.path.parent.parent, twin)
    at_twin = replace(one, view=RunView(twin), cache=cache, cells=there)
    return _asking(at_twin, [base for _, base in bases], bases)


def _differences(one: SiteRequest, own: Estimates, twin: Estimates) -> Estimates:
    nothing = Estimate(None)
    return {
        (cell, metric.name): jackknife_difference(
            twin.get((cell, metric.of_twin.name), nothing),
            own.get((cell, metric.of_twin.name), nothing),
            metric.limits,
        )
        for metric in one.request.metrics
        if metric.of_twin is not None
        for cell in one.cells
    }
