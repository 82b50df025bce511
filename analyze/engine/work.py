"""The protocol of executors, and the unit of their work."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from lpp.analyze.engine.cache import Cache
from lpp.analyze.engine.estimates import Estimates, Request
from lpp.analyze.engine.workers import Workers
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.keys import RunView

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Work:
    """One site of one run, and the request."""

    view: RunView
    cache: Cache
    site: str
    cells: Collection[Cell]
    request: Request


class Executor(Protocol):
    """Computes estimates of many sites, and any other tasks."""

    @property
    def jobs(self) -> int:
        """Tasks that run at once: threads of this process, or processors of a cluster."""

    @property
    def remote(self) -> bool:
        """Whether tasks run in other processes, with memory and threads of their own."""

    def estimates(self, work: Iterable[Work]) -> Iterator[Estimates]:
        """The estimates of each site, in order."""

    def map(
        self, task: Callable[[Item, Workers], Result], items: Iterable[Item], *, item_bytes: int
    ) -> Iterator[Result]:
        """`task` of each item, in order. A task may submit parts of its work to the workers.

        task: a function at module level, because other processes import it by name; its result must
        depend only on the item. item_bytes: estimated peak memory of one task, which limits the
        number of threads in this process.
        """
