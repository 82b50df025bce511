"""Mean pairwise cosine: how far the vectors of a site point one way (Ethayarajh 2019)."""

from collections.abc import Iterator, Sequence

import numpy as np

from lpp.analyze.metrics.row_measures.exact_sums import split
from lpp.analyze.metrics.row_measures.prompt_parts import Parts, slices
from lpp.analyze.numerics.moments import Floats, Rows
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.rows.site_reader import SiteReader
from lpp.analyze.runs.rows.wide_block import WideBlock


def mean_pairwise_cosine(rows: Rows, /) -> float:
    """Mean cosine of two different rows of (N, d), all pairs: exact, in N d multiply-adds.

    With u the rows over their lengths, |sum u|^2 = N + the sum of the cosines of all ordered
    pairs. From -1/(N - 1) to 1. Rows of length 0 point nowhere and are left out; NaN for fewer
    than two others.

    >>> mean_pairwise_cosine(np.array([[2, 0], [0, 3], [1, 0]], dtype=np.float32))  # 0, 1 and 0
    0.3333333333333333
    """
    wide = rows.astype(np.float64)
    lengths = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    return _mean_cosine(int(np.count_nonzero(lengths)), inverse(lengths) @ wide)


def _mean_cosine(n: int, total: Floats) -> float:
    if n < 2:
        return float("nan")
    return float(np.minimum((total @ total - n) / (n * (n - 1)), 1.0))


def inverse(lengths: Floats) -> Floats:
    """1 over each of `lengths`; 0 for 0."""
    return np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths != 0)


class PairwiseCosines:
    """The same for every cell from one read of a site's rows; 16 d bytes for each part.

    The sums are exact (`exact_sums.split`), so that other cells and the ends of blocks move no bit.
    """

    def __init__(self, reader: SiteReader, cells: Sequence[Cell]) -> None:
        self._cells = cells
        self._parts = Parts(cells)
        self._sums = np.zeros((2, self._parts.count + 1, reader.width))  # the last is of no cell
        self._counts = np.zeros(self._parts.count + 1, dtype=np.int64)

    def add(self, block: WideBlock) -> None:
        """Take in the next rows."""
        directions = split(block.wide * inverse(block.lengths)[:, None], 0)
        part = self._parts.of(block.prompt_id, block.position)
        self._counts += np.bincount(part[block.lengths != 0], minlength=len(self._counts))
        for k, rows in slices(part):
            self._sums[:, k] += directions[:, rows].sum(axis=1)

    def again(self) -> bool:
        """One read is enough."""
        return False

    def values(self) -> Iterator[tuple[Cell, float]]:
        """The number of each cell."""
        for cell in self._cells:
            inside = np.flatnonzero(self._parts.inside(cell))
            n = int(self._counts[inside].sum())
            yield cell, _mean_cosine(n, self._sums[:, inside].sum(axis=1).sum(axis=0))
