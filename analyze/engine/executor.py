"""Executors, which compute the estimates of many sites: in this process or on a cluster.

All executors give the same bits.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal

from lpp.analyze.engine.accumulate import bands_of, span_rows
from lpp.analyze.engine.estimates import Estimates, site_estimates
from lpp.analyze.engine.twin_differences import WithTwins
from lpp.analyze.engine.work import Executor, Item, Result, Work
from lpp.analyze.engine.workers import MEMORY_SHARE, Workers, free_bytes
from lpp.analyze.numerics.moments import PRODUCT_ROWS, chunk_rows
from lpp.store.arrays.decode_pool import usable_cores

__all__ = ["LOCAL", "Executor", "ExecutorName", "LocalExecutor", "Work", "chosen_executor"]

ExecutorName = Literal["local", "ray"]


class _Sites:
    """Computes several sites at once in this process, as many as fit into memory."""

    remote = False

    def __init__(self, jobs: int | None) -> None:
        self._jobs = jobs

    @property
    def jobs(self) -> int:
        """Threads."""
        return usable_cores() if self._jobs is None else self._jobs

    def estimates(self, work: Iterable[Work]) -> Iterator[Estimates]:
        """The estimates of each site, in order."""
        every = list(work)
        if not every:
            return
        with Workers(self.jobs) as workers:
            room = int(free_bytes() * MEMORY_SHARE) // max(map(site_bytes, every))
            at_once = min(workers.jobs, max(1, room))

            def compute(one: Work) -> Estimates:
                args = one.view, one.cache, one.site, one.cells, one.request
                return site_estimates(*args, workers=workers)

            yield from workers.map(compute, every, at_once)

    def map(
        self, task: Callable[[Item, Workers], Result], items: Iterable[Item], *, item_bytes: int
    ) -> Iterator[Result]:
        """`task` of each item, in order."""
        every = list(items)
        if not every:
            return
        room = int(free_bytes() * MEMORY_SHARE) // item_bytes
        with Workers(max(1, min(self.jobs, room))) as workers:
            yield from workers.map(lambda item: task(item, workers), every, workers.jobs)


class LocalExecutor(WithTwins):
    """Computes in this process. jobs: threads; one for each usable core by default."""

    def __init__(self, jobs: int | None = None) -> None:
        super().__init__(_Sites(jobs))


LOCAL: Final[Executor] = LocalExecutor()
"""All cores of this machine."""


def site_bytes(work: Work) -> int:
    """Estimated peak memory of a site in bytes; the docstring of `accumulate` lists what counts."""
    run, dim = work.view.run, work.view.run.site(work.site).width
    bands = len(bands_of(work.cells, run.plan.prefixes))
    square, row = 8 * dim * dim, dim * 4
    copies = 1 + (run.plan.prompts.tokens > span_rows(dim)) + bool(work.request.errors)
    waiting = bands * min(chunk_rows(dim), run.plan.prompts.tokens) * row
    return bands * copies * square + waiting + 4 * square + 2 * PRODUCT_ROWS * dim * 8 + (64 << 20)


@contextlib.contextmanager
def chosen_executor(
    name: ExecutorName, address: str | None, jobs: int | None = None
) -> Iterator[Executor]:
    """The executor of this name, until the block ends. address: of the Ray cluster."""
    if name == "local":
        yield LocalExecutor(jobs)
        return
    from lpp.analyze.engine.ray_executor import RayExecutor
    from lpp.store.commands.cluster import cluster

    with cluster(address) as ray:
        yield WithTwins(RayExecutor(ray))
