"""Analysis on a Ray cluster: each site is a task, which computes as one thread of a process does.

The driver only submits tasks. They read the store by its URL, from a disk or bucket that every
machine can access, and write the cache; results are in Ray's object store. If a worker or machine
dies, its tasks are repeated. The bits stay the same, since a task depends only on its arguments.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, Final

import numpy as np

from lpp.analyze.engine.estimates import Estimates, SiteRequest, site_estimates
from lpp.analyze.engine.twin_differences import with_twins
from lpp.analyze.engine.workers import Item, Result, Workers
from lpp.store.errors import task_error

REPEATS: Final = 10
"""Most repeats of a task whose worker or machine died: preemptible machines die often."""


class RayExecutor:
    """Implements `Executor` on a cluster.

    connect: called once, when there is work; it returns the module `ray`, connected.
    """

    remote = True

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect

    @cached_property
    def _ray(self) -> Any:
        return self._connect()

    @cached_property
    def jobs(self) -> int:
        """Processors of the cluster when there was work."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 0)))

    def estimates(self, requests: Iterable[SiteRequest]) -> Iterator[Estimates]:
        """The estimates of each site, in order."""
        return with_twins(lambda sites: self.map(site_estimates, sites, item_bytes=0), requests)

    def map(
        self, task: Callable[[Item, Workers], Result], items: Iterable[Item], *, item_bytes: int
    ) -> Iterator[Result]:
        """`task` of each item, in order. item_bytes: ignored, as Ray schedules by processors."""
        calls = deque(
            self._ray.remote(num_cpus=1, max_retries=REPEATS)(_alone)
            .options(name=task.__name__)
            .remote(task, item)
            for item in items
        )
        while calls:
            try:
                yield self._ray.get(calls.popleft())
            except self._ray.exceptions.RayError as error:
                raise task_error(self._ray, error) from None


@np.errstate(invalid="ignore", over="ignore")  # rows with NaN or infinities give NaN
def _alone(task: Callable[[Item, Workers], Result], item: Item) -> Result:
    """`task` of `item` in a process of the cluster, with one thread."""
    with Workers(1) as workers:
        return task(item, workers)
