"""What an executor is given, and what it gives back."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from lpp.analyze.engine.cache import Cache
from lpp.analyze.engine.estimates import Estimates, Request
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.keys import RunView


@dataclass(frozen=True, slots=True)
class Work:
    """One site of one run, and what is asked of it."""

    view: RunView
    cache: Cache
    site: str
    cells: Collection[Cell]
    request: Request


class Executor(Protocol):
    """Computes estimates of many sites."""

    def estimates(self, work: Iterable[Work]) -> Iterator[Estimates]:
        """Those of each site, in order."""
