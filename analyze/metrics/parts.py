"""Tokens parted so that every cell asked for is a union of parts: what is kept of them adds up.

A part is a band of positions by a run of prompts. What a metric sums over rows is summed once for
each part; a prefix, a number of prompts and a jackknife's group left out are each a choice of
parts. So one read serves them all, and memory is that of the sums.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from lpp.analyze.numerics.moments import Floats
from lpp.analyze.runs.cells import Cell, Integers
from lpp.store.read import Block


class Parts:
    """The parts that `cells` are unions of.

    >>> parts = Parts([Cell(n_prompts=2, prefix=3), Cell(4, 5)])
    >>> parts.count, parts.inside(Cell(2, 3)).tolist()  # bands to 3, to 5, by prompts to 2, to 4
    (4, [True, False, False, False])
    """

    def __init__(self, cells: Iterable[Cell]) -> None:
        cells = list(cells)
        self.upper = np.array(sorted({cell.prefix for cell in cells}))
        self._edges = np.array(
            sorted({0, *(edge for cell in cells for edge in (cell.n_prompts, *cell.gap))})
        )

    @property
    def count(self) -> int:
        """Parts K."""
        return len(self.upper) * (len(self._edges) - 1)

    def of(self, block: Block) -> Integers:
        """(n,) part of each row of `block`; K for those in no cell."""
        band = np.searchsorted(self.upper, block.position, side="right")
        run = np.searchsorted(self._edges, block.prompt_id, side="right") - 1
        outside = (band == len(self.upper)) | (run == len(self._edges) - 1)
        return np.where(outside, self.count, run * len(self.upper) + band)

    def inside(self, cell: Cell) -> npt.NDArray[np.bool_]:
        """(K,) which parts `cell` is made of."""
        first, end = cell.gap
        start = self._edges[:-1]
        runs = (start < cell.n_prompts) & ((start < first) | (start >= end))
        result: npt.NDArray[np.bool_] = np.logical_and.outer(runs, self.upper <= cell.prefix)
        return result.ravel()


def add_by_part(sums: Floats, part: Integers, values: Floats) -> None:
    """Add each row of `values`, (n, ...), to that of `sums`, (K, ...), which `part`, (n,), names.

    Rows of part K are left out.
    """
    order = np.argsort(part, kind="stable")
    sorted_part = part[order]
    present, starts = np.unique(sorted_part, return_index=True)
    if len(present):
        totals = np.add.reduceat(values[order], starts, axis=0)
        kept = present < len(sums)
        sums[present[kept]] += totals[kept]
