"""What an executor is given, and what it gives back."""

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
    """One site of one run, and what is asked of it."""

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
        """Whether tasks run in other processes, which this one's memory and threads are not of."""

    def estimates(self, work: Iterable[Work]) -> Iterator[Estimates]:
        """Those of each site, in order."""

    def map(
        self, task: Callable[[Item, Workers], Result], items: Iterable[Item], *, item_bytes: int
    ) -> Iterator[Result]:
        """`task` of each item, in order; a task may hand parts of its work to the workers.

        task: a function of a module, since other processes find it by its name; what it returns
        depends on nothing but the item. item_bytes: about the most memory that a thread of it
        takes; in this process as many threads work as there is memory for.
        """
