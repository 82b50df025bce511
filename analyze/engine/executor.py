"""Who computes the estimates of many sites: this process, or a cluster.

The work is the same and so are the bits (`spans`). An executor is handed every site there is to do
and gives their estimates in the same order.
"""

import contextlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from lpp.analyze.engine.cache import Cache
from lpp.analyze.engine.estimates import Estimates, Request, site_estimates
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.keys import RunView

ExecutorName = Literal["local", "ray"]


@dataclass(frozen=True, slots=True)
class Work:
    """One site of one run, and what is asked of it."""

    view: RunView
    cache: Cache
    site: str
    cells: Collection[Cell]
    request: Request


class Executor(Protocol):
    """Computes estimates."""

    def estimates(self, work: Iterable[Work]) -> Iterator[Estimates]:
        """Those of each site, in order."""


class _Local:
    def estimates(self, work: Iterable[Work]) -> Iterator[Estimates]:
        for one in work:
            yield site_estimates(one.view, one.cache, one.site, one.cells, one.request)


LOCAL: Final[Executor] = _Local()
"""One site after the other, in this process."""


@contextlib.contextmanager
def chosen_executor(name: ExecutorName, address: str | None) -> Iterator[Executor]:
    """The executor of that name, until the block ends. address: of the Ray cluster."""
    if name == "local":
        yield LOCAL
        return
    from lpp.analyze.engine.ray_executor import RayExecutor
    from lpp.store.commands.cluster import cluster

    with cluster(address) as ray:
        yield RayExecutor(ray)
