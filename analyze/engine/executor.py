"""Executors, which compute the estimates of many sites: in this process or on a cluster.

All executors give the same bits.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from lpp.analyze.engine.accumulate import bands_of, span_rows
from lpp.analyze.engine.estimates import Estimates, SiteRequest, site_estimates
from lpp.analyze.engine.twin_differences import with_twins
from lpp.analyze.engine.workers import MEMORY_SHARE, Item, Result, Workers, free_bytes
from lpp.analyze.numerics.moments import PRODUCT_ROWS, product_rows
from lpp.store.arrays.decode_pool import usable_cores


class Executor(Protocol):
    """Computes estimates of many sites, and any other tasks."""

    @property
    def jobs(self) -> int:
        """Tasks that run at once: threads of this process, or processors of a cluster."""

    @property
    def remote(self) -> bool:
        """Whether tasks run in other processes, with memory and threads of their own."""

    def estimates(self, requests: Iterable[SiteRequest]) -> Iterator[Estimates]:
        """The estimates of each site, in order."""

    def map(
        self, task: Callable[[Item, Workers], Result], items: Iterable[Item], *, item_bytes: int
    ) -> Iterator[Result]:
        """`task` of each item, in order. A task may submit parts of its work to the workers.

        task: a function at module level, because other processes import it by name; its result must
        depend only on the item. item_bytes: estimated peak memory of one task, which limits the
        number of threads in this process.
        """


class LocalExecutor:
    """Computes in this process, as many sites at once as fit into memory. jobs: threads; one for
    each usable core by default.
    """

    remote = False

    def __init__(self, jobs: int | None = None) -> None:
        self._jobs = jobs

    @property
    def jobs(self) -> int:
        """Threads."""
        return usable_cores() if self._jobs is None else self._jobs

    def estimates(self, requests: Iterable[SiteRequest]) -> Iterator[Estimates]:
        """The estimates of each site, in order."""
        return with_twins(self._sites, requests)

    def _sites(self, requests: Iterable[SiteRequest]) -> Iterator[Estimates]:
        requests = list(requests)
        if not requests:
            return
        with Workers(self.jobs) as workers:
            at_once = min(self.jobs, _room(max(map(site_bytes, requests))))
            yield from workers.map(lambda r: site_estimates(r, workers), requests, at_once)

    def map(
        self, task: Callable[[Item, Workers], Result], items: Iterable[Item], *, item_bytes: int
    ) -> Iterator[Result]:
        """`task` of each item, in order."""
        all_items = list(items)
        if not all_items:
            return
        with Workers(min(self.jobs, _room(item_bytes))) as workers:
            yield from workers.map(lambda item: task(item, workers), all_items, workers.jobs)


LOCAL: Final[Executor] = LocalExecutor()
"""All cores of this machine."""


def _room(item_bytes: int) -> int:
    """Tasks of so many bytes that fit into memory, at least 1."""
    return max(1, int(free_bytes() * MEMORY_SHARE) // item_bytes)


def site_bytes(site_request: SiteRequest) -> int:
    """Estimated peak memory of a site in bytes; the docstring of `accumulate` lists what counts."""
    run, dim = site_request.view.run, site_request.view.run.site(site_request.site).width
    bands = len(bands_of(site_request.cells, run.plan.prefixes))
    square, row = 8 * dim * dim, dim * 4
    copies = 1 + (run.plan.prompts.tokens > span_rows(dim)) + bool(site_request.request.errors)
    waiting = bands * min(product_rows(dim), run.plan.prompts.tokens) * row
    return bands * copies * square + waiting + 4 * square + 2 * PRODUCT_ROWS * dim * 8 + (64 << 20)
