"""Mean pairwise cosine: how far the vectors of a site point one way (Ethayarajh 2019)."""

from collections.abc import Iterator, Sequence

import numpy as np

from lpp.analyze.metrics.parts import Parts, add_by_part
from lpp.analyze.numerics.moments import Floats, Rows
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.site_reader import SiteReader
from lpp.store.read import Block


def mean_pairwise_cosine(rows: Rows, /) -> float:
    """Mean cosine of two different rows of (N, d), all pairs: exact, in N d multiply-adds.

    With u the rows over their lengths, |sum u|^2 = N + the sum of the cosines of all ordered
    pairs. From -1/(N - 1) to 1. Rows of length 0 point nowhere and are left out; NaN for fewer
    than two others.

    >>> mean_pairwise_cosine(np.array([[2, 0], [0, 3], [1, 0]], dtype=np.float32))  # 0, 1 and 0
    0.3333333333333333
    """
    unit, pointing = _directions(rows)
    return _mean_cosine(int(pointing.sum()), unit.sum(axis=0))


def _directions(rows: Rows) -> tuple[Floats, "np.ndarray[tuple[int], np.dtype[np.bool_]]"]:
    """(N, d) rows over their lengths, 0 where that is 0, and (N,) whether it is not."""
    wide = rows.astype(np.float64)
    length = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    pointing = length != 0  # a NaN counts, and stays
    wide /= np.where(pointing, length, 1.0)[:, None]
    return wide, pointing


def _mean_cosine(n: int, total: Floats) -> float:
    if n < 2:
        return float("nan")
    return float(np.minimum((total @ total - n) / (n * (n - 1)), 1.0))


class PairwiseCosines:
    """The same for every cell from one read of a site's rows; 8 d bytes for each part."""

    def __init__(self, reader: SiteReader, cells: Sequence[Cell]) -> None:
        self._cells = cells
        self._parts = Parts(cells)
        self._sums = np.zeros((self._parts.count, reader.width))
        self._counts = np.zeros(self._parts.count)

    def add(self, block: Block) -> None:
        """Take in the next rows."""
        part = self._parts.of(block)
        unit, pointing = _directions(block.values)
        add_by_part(self._sums, part, unit)
        add_by_part(self._counts, part, pointing.astype(np.float64))

    def again(self) -> bool:
        """One read is enough."""
        return False

    def values(self) -> Iterator[tuple[Cell, float]]:
        """The number of each cell."""
        for cell in self._cells:
            inside = self._parts.inside(cell)
            n = int(self._counts[inside].sum())
            yield cell, _mean_cosine(n, self._sums[inside].sum(axis=0))
