"""Tokens parted so that every cell asked for is a union of parts: what is kept of them adds up.

A part is a band of positions by a run of prompts. What a metric sums over rows is summed once for
each part; a prefix, a number of prompts and a jackknife's group left out are each a choice of
parts. So one read serves them all, and memory is that of the sums.
"""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from lpp.analyze.numerics.moments import Floats
from lpp.analyze.runs.cells import Cell, Integers


class Parts:
    """The parts that `cells` are unions of.

    >>> parts = Parts([Cell(n_prompts=2, prefix=3), Cell(4, 5)])
    >>> parts.count, parts.inside(Cell(2, 3)).tolist()  # bands to 3, to 5, by prompts to 2, to 4
    (4, [True, False, False, False])
    """

    def __init__(self, cells: Iterable[Cell]) -> None:
        cells = list(cells)
        self._positions = np.unique([p for c in cells for p in (c.first_position, c.prefix)])
        self._prompts = np.unique([0, *(e for c in cells for e in _prompt_edges(c))])
        self._bands = max(len(self._positions) - 1, 0)

    @property
    def count(self) -> int:
        """Parts K."""
        return self._bands * (len(self._prompts) - 1)

    def of(self, prompt_id: Integers, position: Integers) -> Integers:
        """(n,) part of each token; K for those in no cell."""
        band = np.searchsorted(self._positions, position, side="right") - 1
        run = np.searchsorted(self._prompts, prompt_id, side="right") - 1
        outside = (band < 0) | (band >= self._bands) | (run == len(self._prompts) - 1)
        return np.where(outside, self.count, run * self._bands + band)

    def inside(self, cell: Cell) -> npt.NDArray[np.bool_]:
        """(K,) which parts `cell` is made of."""
        start = self._prompts[:-1]
        runs = start < cell.n_prompts
        runs[runs] = cell.stays[start[runs]]
        lower, upper = self._positions[:-1], self._positions[1:]
        bands = (lower >= cell.first_position) & (upper <= cell.prefix)
        result: npt.NDArray[np.bool_] = np.logical_and.outer(runs, bands)
        return result.ravel()


def _prompt_edges(cell: Cell) -> Iterator[int]:
    """Prompts at which `cell` begins or ends to have prompts."""
    yield cell.n_prompts
    yield from itertools.chain.from_iterable(cell.excluded)


def slices(part: Integers) -> Iterator[tuple[int, slice]]:
    """Each part of (n,) with the rows of one stretch of it: rows of a band lie side by side.

    >>> list(slices(np.array([4, 4, 2])))
    [(4, slice(0, 2, None)), (2, slice(2, 3, None))]
    """
    edges = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(part)]
    for start, end in itertools.pairwise(edges):
        if start < end:
            yield int(part[start]), slice(start, end)


def mean_over_prompts(values: Floats, exists: npt.NDArray[np.bool_], cell: Cell) -> float:
    """Mean of `values`, (P,), over the prompts of `cell` where `exists`; NaN without any."""
    chosen = exists[: cell.n_prompts] & cell.stays
    return float(values[: cell.n_prompts][chosen].mean()) if chosen.any() else float("nan")
