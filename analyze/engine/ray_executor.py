"""Analysis on a Ray cluster: each site is a task, and so is each span of a long site.

A site's task runs `site_estimates`, as a thread of one process does, and writes the cache. For a
site of several spans it hands out the sums of each span, the eigensolves, and the metrics that need
rows, which one task reads in order; it merges the results from left to right. The driver only
submits tasks.

Tasks read the store by its URL, from a disk or bucket that every machine can access. Results are in
Ray's object store. If a worker or machine dies, its tasks are repeated. The bits stay the same,
since a task depends only on its arguments. A task that hands out others holds no processor: one
that waits for a result lost with its machine may keep it, and the task that makes the result again
would wait for that.

The object stores take 8 b d^2 bytes for each span in progress, at most two spans per processor, and
as much for each group of the jackknife in progress, at most one per processor.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache, cached_property
from typing import Any, Final

import numpy as np

from lpp.analyze.engine.accumulate import span_ends, span_rows
from lpp.analyze.engine.estimates import Estimates, SiteRequest, site_estimates
from lpp.analyze.engine.twin_differences import with_twins
from lpp.analyze.engine.workers import Call, Item, Result, Workers
from lpp.analyze.metrics.summary import SPECTRAL_KINDS
from lpp.analyze.runs.keys import RunView
from lpp.store.errors import task_error

REPEATS: Final = 10
"""Most repeats of a task whose worker or machine died: preemptible machines die often."""

AHEAD: Final = 2
"""Unfinished tasks per processor: enough that none idles, few enough to limit memory."""

Ref = Any
"""A reference to an object in Ray's object store."""


class RayExecutor:
    """Implements `Executor` on a cluster.

    connect: called once, when there is work; it returns the module `ray`, connected.
    """

    remote = True

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._views: dict[str, Ref] = {}

    @cached_property
    def _ray(self) -> Any:
        return self._connect()

    @cached_property
    def jobs(self) -> int:
        """Processors of the cluster when there was work."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 0)))

    def estimates(self, requests: Iterable[SiteRequest]) -> Iterator[Estimates]:
        """The estimates of each site, in order."""
        return with_twins(self._sites, requests)

    def map(
        self, task: Callable[[Item, Workers], Result], items: Iterable[Item], *, item_bytes: int
    ) -> Iterator[Result]:
        """`task` of each item, in order. item_bytes: ignored, as Ray schedules by processors."""
        calls = ((1, (_with_workers, task, item)) for item in items)
        return _in_order(self._ray, AHEAD * self.jobs, calls)

    def _sites(self, requests: Iterable[SiteRequest]) -> Iterator[Estimates]:
        def call(site_request: SiteRequest) -> tuple[int, Call]:
            if site_request.view.run.id not in self._views:  # every task sees the same shards
                self._views[site_request.view.run.id] = self._ray.put(site_request.view)
            view = self._views[site_request.view.run.id]
            spans = min(_n_spans(site_request), AHEAD * self.jobs)
            return spans, (
                _site,
                spans,
                view,
                site_request.cache,
                site_request.site,
                site_request.cells,
                site_request.request,
            )

        return _in_order(self._ray, AHEAD * self.jobs, map(call, requests))


class _ClusterWorkers(Workers):
    """One thread of a site's task, and the machines of the cluster. spans: most in progress."""

    def __init__(self, ray: Any, spans: int) -> None:
        super().__init__(1)
        self._ray, self._spans = ray, spans

    def in_order(self, calls: Iterable[Call]) -> Iterator[Any]:
        return _in_order(self._ray, max(1, self._spans // AHEAD), ((1, call) for call in calls))

    def each(
        self, call: Callable[..., Iterator[Result]], items: Sequence[Item], *shared: Any
    ) -> Iterator[Result]:
        refs = [self._ray.put(value) for value in shared]
        calls = ((1, (_results, call, item, *refs)) for item in items)
        for results in _in_order(self._ray, self._spans, calls):
            yield from deepcopy(results)  # objects of the object store are read-only

    def share(self, value: Item) -> Item:
        shared: Item = self._ray.put(value)  # a task gets the value
        return shared


def _n_spans(site_request: SiteRequest) -> int:
    """Spans and groups that tasks of their own may sum; 1 for a site that is one task."""
    run, request = site_request.view.run, site_request.request.of(*SPECTRAL_KINDS)
    if not (request.metrics and site_request.cells and run.plan.keeps_rows):
        return 1
    longest = max(site_request.cells)
    lengths = site_request.view.lengths[: longest.n_prompts]
    ends = span_ends(lengths, span_rows(run.site(site_request.site).width))
    if not ends or ends[0] >= longest.n_prompts:
        return 1
    return 1 + len(ends) + len(longest.parts(request.groups) if request.errors else ())


def _in_order(ray: Any, limit: int, calls: Iterable[tuple[int, Call]]) -> Iterator[Any]:
    """The result of each call, in order. calls: (weight, call), its most tasks in progress: 1 for a
    call that computes, more for one that hands out. Those unfinished weigh at most `limit`.
    """
    unfinished: dict[Ref, int] = {}
    results: deque[Ref] = deque()
    for weight, call in calls:
        while unfinished and sum(unfinished.values()) + weight > limit:
            for done in ray.wait([*unfinished], num_returns=1, fetch_local=False)[0]:
                del unfinished[done]
        results.append(_submitted(ray, call, hands_out=weight > 1))
        unfinished[results[-1]] = weight
        while results and ray.wait([results[0]], timeout=0)[0]:
            unfinished.pop(results[0], None)
            yield _result(ray, results.popleft())
    while results:
        yield _result(ray, results.popleft())


def _submitted(ray: Any, call: Call, *, hands_out: bool = False) -> Ref:
    where = {"num_cpus": 0, "scheduling_strategy": "SPREAD"} if hands_out else {"num_cpus": 1}
    return _task(ray).options(name=call[0].__name__, **where).remote(*call)


@cache
def _task(ray: Any) -> Any:
    return ray.remote(max_retries=REPEATS)(_quiet)


def _result(ray: Any, ref: Ref) -> Any:
    try:
        return ray.get(ref)
    except ray.exceptions.RayError as error:
        raise task_error(ray, error) from None


# The tasks. They depend on their arguments alone and keep nothing between calls.


@np.errstate(invalid="ignore", over="ignore")  # rows with NaN or infinities give NaN
def _quiet(call: Callable[..., Result], *args: Any) -> Result:
    return call(*args)


def _with_workers(task: Callable[[Item, Workers], Result], item: Item) -> Result:
    with Workers(1) as workers:
        return task(item, workers)


def _results(call: Callable[..., Iterator[Result]], item: object, *shared: object) -> list[Result]:
    with Workers(1) as workers:
        return list(call(workers, [item], *shared))


def _site(spans: int, view: RunView, *others: Any) -> Estimates:
    site_request = SiteRequest(view, *others)
    if spans == 1:
        return _with_workers(site_estimates, site_request)
    import ray

    of_rows = replace(site_request, request=site_request.request.of("rows"))
    values = _submitted(ray, (_with_workers, site_estimates, of_rows))
    with _ClusterWorkers(ray, spans) as workers:
        of_spectra = replace(site_request, request=site_request.request.of(*SPECTRAL_KINDS))
        return {**site_estimates(of_spectra, workers), **_result(ray, values)}
