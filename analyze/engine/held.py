"""What was made of the rows of some positions, and the spread of each prefix from it.

X(L) is nested: the rows below a prefix are those of its position bands. So whatever keeps bands,
in this process or in another, gives the spreads of all prefixes by one running merge, here.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from lpp.analyze.numerics.moments import Gram, Moments, Rows, Spread, Workspace, chunk_rows


@dataclass(slots=True)
class Held:
    """Rows of one band: those that wait for a product, (k, d), and the moments of the others.

    Up to `chunk_rows` rows have no moments: all of them wait. So a prefix of N < d rows, each of
    whose bands has fewer, is whole among what waits, and its Gram matrix can be had.
    """

    waiting: Rows
    moments: Moments | None = None

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.waiting) + (self.moments.n if self.moments else 0)

    @property
    def dim(self) -> int:
        """Width d of a row."""
        return int(self.waiting.shape[1])

    def settle(self, work: Workspace) -> Moments:
        """The moments of all rows; none waits any more."""
        if self.moments is None:
            self.moments = Moments.empty(self.dim)
        self.moments.add_rows(self.waiting, work)
        self.waiting = np.empty((0, self.dim), np.float32)
        return self.moments

    def close(self, work: Workspace) -> Self:
        """No more rows come: if there are moments, none waits any more."""
        if self.moments is not None and len(self.waiting):
            self.settle(work)
        return self

    def copy(self) -> "Held":
        """The same in memory of its own, with which `join` may do as it likes."""
        moments = self.moments
        if moments is not None:
            moments = Moments(moments.n, moments.mean.copy(), moments.scatter.copy())
        return Held(self.waiting.copy(), moments)

    def join(self, other: "Held", work: Workspace) -> Self:
        """Take in the rows of `other`, which follow these and stay as they are."""
        if other.n == 0:
            return self
        wait = self.moments is None and other.moments is None
        if wait and self.n + other.n <= chunk_rows(self.dim):
            self.waiting = np.concatenate([self.waiting, other.waiting])
            return self
        mine = self.settle(work)
        theirs = other if len(other.waiting) == 0 else other.copy()
        mine.add(theirs.settle(work))
        return self


class Spreads(ABC):
    """Bands of one site, whoever keeps them. upper: (B,) where they end, ascending."""

    def __init__(self, dim: int, upper: Sequence[int], work: Workspace) -> None:
        self.dim, self.upper, self.work = dim, upper, work
        self._edges = np.array(upper)

    @abstractmethod
    def count(self, band: int) -> int:
        """Rows of a band."""

    @abstractmethod
    def held(self, band: int) -> Held:
        """What a band is made of, to be read and not kept."""

    def spreads(self, prefixes: Iterable[int]) -> Iterator[tuple[int, Spread]]:
        """Each of `prefixes`, ascending, with the spread of its rows so far.

        Valid until the next is taken: one running merge serves them all.
        """
        ascending = sorted(prefixes)
        few = [prefix for prefix in ascending if self._n(prefix) < self.dim]
        for prefix in few:
            rows = np.concatenate([self.held(b).waiting for b in self._below(prefix)])
            yield prefix, Gram.from_rows(rows)
        yield from self.moments(ascending[len(few) :])

    def moments(self, prefixes: Iterable[int]) -> Iterator[tuple[int, Moments]]:
        """The same as moments, however few the rows."""
        running, merged = Moments.empty(self.dim), 0
        for prefix in sorted(prefixes):
            below = self._below(prefix)
            for band in map(self.held, below[merged:]):
                if band.moments is not None:
                    running.add(band.moments)
                running.add_rows(band.waiting, self.work)
            merged = len(below)
            yield prefix, running

    def _below(self, prefix: int) -> range:
        return range(int(np.searchsorted(self._edges, prefix)) + 1)

    def _n(self, prefix: int) -> int:
        return sum(map(self.count, self._below(prefix)))


class HeldBands(Spreads):
    """Bands that came from elsewhere, such as another process."""

    def __init__(self, dim: int, upper: Sequence[int], bands: Sequence[Held]) -> None:
        super().__init__(dim, upper, Workspace(dim))
        self._bands = bands

    def count(self, band: int) -> int:
        """Rows of a band."""
        return self._bands[band].n

    def held(self, band: int) -> Held:
        """What a band is made of."""
        return self._bands[band]


def merged(nodes: Sequence[Held], work: Workspace) -> Held:
    """One band of several nodes, left to right, in memory of its own; of one node as it is."""
    some = [node for node in nodes if node.n] or list(nodes[:1])
    if len(some) == 1:
        return some[0]
    total = some[0].copy()
    for node in some[1:]:
        total.join(node, work)
    return total
