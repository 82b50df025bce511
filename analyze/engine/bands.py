"""Rows of one site, sorted into position bands as they are read.

X(L) is nested: the rows below a prefix are those of its position bands. Each row goes to its band
once; a prefix is the merge of the bands below it.

Memory for b bands of width d, whatever the number of prompts: a float64 scatter (8 d^2 bytes) and
up to max(d, 1024) waiting float32 rows (4 d of them) per band, two d^2 matrices to merge and
multiply in, two blocks of rows (one being read ahead) and the eigensolve's own copy. Ten bands:
63 MB at d = 576, 2.0 GB at d = 3,584; a run of several spans adds to it (`spans`). Rows wait so
that a product is worth its d x d addition, and because a prefix with N < d rows is still whole
among them: its N x N Gram matrix costs less.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from lpp.analyze.engine.held import Held, Spreads
from lpp.analyze.numerics.moments import Moments, Rows, Workspace, chunk_rows
from lpp.analyze.runs.cells import Cell, Integers, n_tokens
from lpp.store.read import Block


def band_counts(lengths: Integers, upper: Sequence[int]) -> Integers:
    """(B,) rows of prompts of `lengths` tokens, (P,), in the bands that end at `upper`.

    >>> band_counts(np.array([5, 2]), [2, 4]).tolist()
    [4, 2]
    """
    below = [n_tokens(lengths, Cell(len(lengths), end)) for end in (0, *upper)]
    return np.diff(below)


class Bands(Spreads):
    """Rows of one site sorted into position bands, as moments and waiting rows.

    upper: band b holds positions `upper[b - 1] <= position < upper[b]`.
    counts: (B,) the most rows each will hold, for the sizes of the buffers.
    """

    def __init__(self, dim: int, upper: Sequence[int], counts: Integers) -> None:
        super().__init__(dim, upper, Workspace(dim, max_rows=int(counts.max(initial=0))))
        self._bands = [_Band(dim, int(count)) for count in counts]

    def add(self, block: Block) -> None:
        """Take in rows; those beyond the last band are left out."""
        band = np.searchsorted(self._edges, block.position, side="right").astype(np.uint16)
        order = np.argsort(band, kind="stable")  # sixteen bits: a radix sort
        bounds = np.searchsorted(band[order], np.arange(len(self._bands) + 1))
        for b, (start, end) in enumerate(itertools.pairwise(bounds)):
            self._bands[b].add(block.values, order[start:end], self.work)

    def count(self, band: int) -> int:
        """Rows of a band so far."""
        return self._bands[band].n

    def held(self, band: int) -> Held:
        """What a band is made of, a view of its buffer."""
        return Held(self._bands[band].waiting, self._bands[band].moments)

    def clear(self) -> None:
        """Forget the rows, keep the buffers."""
        for band in self._bands:
            band.clear()


class _Band:
    """Rows at some positions: those that wait for a product, and the moments of the others.

    A band of fewer than `dim` rows has no moments: all its rows wait.
    """

    def __init__(self, dim: int, expected: int) -> None:
        self._rows: Rows = np.empty((max(1, min(expected, chunk_rows(dim))), dim), np.float32)
        self._filled = 0
        self.moments: Moments | None = None

    @property
    def n(self) -> int:
        """Rows so far."""
        return self._filled + (self.moments.n if self.moments else 0)

    @property
    def waiting(self) -> Rows:
        """Rows that `moments` does not hold yet, (k, d)."""
        return self._rows[: self._filled]

    def add(self, values: Rows, which: Integers, work: Workspace) -> None:
        """Take in `values[which]`."""
        while len(which):
            if self._filled == len(self._rows):
                self._multiply(work)
            some = which[: len(self._rows) - self._filled]
            to = self._rows[self._filled : self._filled + len(some)]
            np.take(
                values, some, axis=0, out=to, mode="clip"
            )  # "raise" would copy through a buffer
            self._filled += len(some)
            which = which[len(some) :]

    def clear(self) -> None:
        """Forget the rows."""
        self._filled, self.moments = 0, None

    def _multiply(self, work: Workspace) -> None:
        if self.moments is None:
            self.moments = Moments.empty(self._rows.shape[1])
        self.moments.add_rows(self.waiting, work)
        self._filled = 0
