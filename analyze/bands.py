"""Rows of one site, sorted into position bands as they are read.

X(L) is nested: the rows below a prefix are those of its position bands. Each row goes to its band
once; a prefix is the merge of the bands below it.

Memory for b bands of width d, whatever the number of prompts: a float64 scatter (8 d^2 bytes) and
up to max(d, 1024) waiting float32 rows (4 d of them) per band, two d^2 matrices to merge and
multiply in, two blocks of rows (one being read ahead) and the eigensolve's own copy. Ten bands:
63 MB at d = 576, 2.0 GB at d = 3,584. Rows wait so that a product is worth its d x d addition, and
because a prefix with N < d rows is still whole among them: its N x N Gram matrix costs less.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lpp.analyze.cells import Cell, Integers, n_tokens
from lpp.analyze.moments import Gram, Moments, Rows, Spread, Workspace, chunk_rows
from lpp.store.run import Block


def band_counts(lengths: Integers, upper: Sequence[int]) -> Integers:
    """(B,) rows of prompts of `lengths` tokens, (P,), in the bands that end at `upper`.

    >>> band_counts(np.array([5, 2]), [2, 4]).tolist()
    [4, 2]
    """
    below = [n_tokens(lengths, Cell(len(lengths), end)) for end in (0, *upper)]
    return np.diff(below)


class Bands:
    """Rows of one site sorted into position bands, as moments and waiting rows.

    upper: band b holds positions `upper[b - 1] <= position < upper[b]`.
    counts: (B,) the most rows each will hold, for the sizes of the buffers.
    """

    def __init__(self, dim: int, upper: Sequence[int], counts: Integers) -> None:
        self._dim = dim
        self.upper = upper
        self._edges = np.array(upper)
        self._bands = [_Band(dim, int(count)) for count in counts]
        self._work = Workspace(dim, max_rows=int(counts.max(initial=0)))

    def add(self, block: Block) -> None:
        """Take in rows; those beyond the last band are left out."""
        band = np.searchsorted(self._edges, block.position, side="right").astype(np.uint16)
        order = np.argsort(band, kind="stable")  # sixteen bits: a radix sort
        bounds = np.searchsorted(band[order], np.arange(len(self._bands) + 1))
        for b, (start, end) in enumerate(itertools.pairwise(bounds)):
            self._bands[b].add(block.values, order[start:end], self._work)

    def spreads(self, prefixes: Iterable[int]) -> Iterator[tuple[int, Spread]]:
        """Each of `prefixes`, ascending, with the spread of its rows so far.

        Valid until the next is taken: one running merge serves them all.
        """
        ascending = sorted(prefixes)
        few = [prefix for prefix in ascending if self._n(prefix) < self._dim]
        for prefix in few:
            rows = np.concatenate([band.waiting for band in self._below(prefix)])
            yield prefix, Gram.from_rows(rows)
        yield from self.moments(ascending[len(few) :])

    def moments(self, prefixes: Iterable[int]) -> Iterator[tuple[int, Moments]]:
        """The same as moments, however few the rows."""
        running, merged = Moments.empty(self._dim), 0
        for prefix in sorted(prefixes):
            below = self._below(prefix)
            for band in below[merged:]:
                if band.moments is not None:
                    running.add(band.moments)
                running.add_rows(band.waiting, self._work)
            merged = len(below)
            yield prefix, running

    def clear(self) -> None:
        """Forget the rows, keep the buffers."""
        for band in self._bands:
            band.clear()

    def _below(self, prefix: int) -> "list[_Band]":
        return self._bands[: int(np.searchsorted(self._edges, prefix)) + 1]

    def _n(self, prefix: int) -> int:
        return sum(band.n for band in self._below(prefix))


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
