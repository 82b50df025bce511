"""Metrics that compare a run with its untrained twin: the difference of two estimates.

The estimates of both runs are cached like all others, so the twin's rows are not read again.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from lpp.analyze.engine.cache import Cache
from lpp.analyze.engine.estimates import Estimates
from lpp.analyze.engine.work import Executor, Item, Result, Work
from lpp.analyze.engine.workers import Workers
from lpp.analyze.metrics.metric import Metric
from lpp.analyze.numerics.jackknife import Estimate, jackknife_difference
from lpp.analyze.runs.keys import RunView
from lpp.analyze.runs.twins import untrained_twin


class WithTwins:
    """An `Executor` that computes differences from the estimates of another executor."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    @property
    def jobs(self) -> int:
        """Tasks that run at once."""
        return self._executor.jobs

    @property
    def remote(self) -> bool:
        """Whether tasks run in other processes."""
        return self._executor.remote

    def map(
        self, task: Callable[[Item, Workers], Result], items: Iterable[Item], *, item_bytes: int
    ) -> Iterator[Result]:
        """`task` of each item, in order."""
        return self._executor.map(task, items, item_bytes=item_bytes)

    def estimates(self, work: Iterable[Work]) -> Iterator[Estimates]:
        """The estimates of each site, in order."""
        asked: deque[tuple[Work, bool]] = deque()  # (work, whether the twin's follows)
        found = self._executor.estimates(_parts(work, asked))
        for own in found:
            one, compared = asked.popleft()
            twin = next(found) if compared else {}
            yield {**own, **_differences(one, own, twin)}


def _parts(work: Iterable[Work], asked: deque[tuple[Work, bool]]) -> Iterator[Work]:
    """The work without differences, each followed by that of the twin if there is one."""
    for one in work:
        bases = [(m, m.of_twin) for m in one.request.metrics if m.of_twin is not None]
        twin = _twin_work(one, bases)
        asked.append((one, twin is not None))
        plain = [metric for metric in one.request.metrics if metric.of_twin is None]
        names = {metric.name for metric in plain}
        yield _asking(one, [*plain, *(base for _, base in bases if base.name not in names)], bases)
        if twin is not None:
            yield twin


Bases = Sequence[tuple[Metric[Any], Metric[Any]]]
"""(difference, the metric that is compared)."""


def _asking(work: Work, metrics: Sequence[Metric[Any]], bases: Bases) -> Work:
    errors = {base.name for metric, base in bases if metric.name in work.request.errors}
    request = replace(work.request, metrics=metrics, errors={*work.request.errors, *errors})
    return replace(work, request=request)


def _twin_work(work: Work, bases: Bases) -> Work | None:
    """The compared metrics of the twin; None if there is no twin or no common part."""
    twin = untrained_twin(work.view.run) if bases else None
    if twin is None or work.site not in twin.sites or not twin.plan.keeps_rows:
        return None
    there = [cell for cell in work.cells if cell.n_prompts <= twin.n_prompts]
    if not there:
        return None
    cache = Cache(twin.path.parent.parent, twin)
    at_twin = replace(work, view=RunView(twin), cache=cache, cells=there)
    return _asking(at_twin, [base for _, base in bases], bases)


def _differences(work: Work, own: Estimates, twin: Estimates) -> Estimates:
    nothing = Estimate(None)
    return {
        (cell, metric.name): jackknife_difference(
            twin.get((cell, metric.of_twin.name), nothing),
            own.get((cell, metric.of_twin.name), nothing),
            metric.limits,
        )
        for metric in work.request.metrics
        if metric.of_twin is not None
        for cell in work.cells
    }
