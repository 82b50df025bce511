"""Linear CKA: how similar the rows of two sites are, whatever the rotation and scale of either.

For X and Y, the same N tokens at two sites, columns centred:

    CKA = ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F)

1 for equal up to a rotation and a scale, 0 for uncorrelated columns (Kornblith et al. 2019). The
estimate is the plain, biased one: for unrelated rows it is about d / (N + d), so always report N
with it.
"""

import math
from collections.abc import Collection, Sequence
from concurrent.futures import Executor
from typing import Final, Self

import numpy as np

from lpp.analyze.numerics.moments import Floats, Rows
from lpp.store.arrays.reader import to_float32

BLOCK_ROWS: Final = 1024
"""Rows worth one product: fewer, and the d x d addition after it would cost as much."""


def linear_cka(x: Rows, y: Rows, /) -> float:
    """Linear CKA of (N, d) and (N, e) rows of the same N tokens, between 0 and 1.

    NaN where either has no variance, and for rows that are not finite.

    >>> x = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], dtype=np.float32)
    >>> linear_cka(x, 3 * x[:, ::-1])  # a reflection, a scale
    1.0
    >>> round(linear_cka(x, x[:, :1]), 6)  # one of two equal directions: 1 / sqrt(2)
    0.707107
    """
    scatters = CrossScatters((x.shape[1], y.shape[1]), [(0, 0), (0, 1), (1, 1)])
    for start in range(0, len(x), BLOCK_ROWS):
        scatters.add([rows[start : start + BLOCK_ROWS] for rows in (x, y)])
    return alignment(scatters.square(0, 1), scatters.square(0, 0), scatters.square(1, 1))


def alignment(cross: float, square: float, other_square: float) -> float:
    """CKA from the squared Frobenius norms of Y^T X, X^T X and Y^T Y, columns centred."""
    scale = math.sqrt(square * other_square)
    if scale == 0 or not math.isfinite(scale):
        return math.nan
    return min(cross / scale, 1.0)


class CrossScatters:
    """Scatters X^T X and cross-scatters X^T Z of the centred rows of several sites, in one pass.

    widths: (S,) columns of each site. pairs: places (i, j) of the sites whose X_i^T X_j is wanted;
    (i, i) for the scatter of one. Memory: 8 d e bytes for each pair, as much again while it is
    multiplied, and 8 d bytes for each row of a block.

    Rows are taken about one shift for each site, the mean of the first n rows that come, and the
    rest of the mean is subtracted at the end. What cancels then is at most N / n times what is
    left, so N / n times the rounding of float64 bounds the error; equal rows give exactly 0.
    shifts: of sums that are to be subtracted from those of more rows: theirs.
    """

    def __init__(
        self,
        widths: Sequence[int],
        pairs: Collection[tuple[int, int]],
        shifts: Sequence[Floats] = (),
    ) -> None:
        self.n = 0
        self.shifts = list(shifts)
        self._sums = [np.zeros(width) for width in widths]
        self._products = {(i, j): np.zeros((widths[i], widths[j])) for i, j in pairs}

    def add(self, rows: Sequence[Rows], pool: Executor | None = None) -> None:
        """Take in (n, d) rows of the same n tokens at each site.

        pool: multiplies pairs side by side; each is one product, so the bits are the same.
        """
        count = len(rows[0])
        if count == 0:
            return
        each = map if pool is None else pool.map
        if not self.shifts:
            self.shifts = list(each(_mean, rows))
        if len(rows) == 2 and rows[0] is rows[1]:  # one symmetric product, for half the price
            wide = [_about(rows[0], self.shifts[0])] * 2
        else:
            wide = list(each(_about, rows, self.shifts))
        self._sums = [total + x.sum(axis=0) for total, x in zip(self._sums, wide, strict=True)]

        def multiply(pair: tuple[int, int]) -> None:
            with np.errstate(invalid="ignore", over="ignore"):
                self._products[pair] += wide[pair[0]].T @ wide[pair[1]]

        list(each(multiply, self._products))
        self.n += count

    def without(self, other: Self) -> Self:
        """The sums of these rows without those of `other`, a subset with the same shifts."""
        rest = type(self)([], [], self.shifts)
        rest.n = self.n - other.n
        with np.errstate(invalid="ignore", over="ignore"):
            rest._sums = [a - b for a, b in zip(self._sums, other._sums, strict=True)]
            rest._products = {
                pair: sums - other._products[pair] for pair, sums in self._products.items()
            }
        return rest

    def square(self, i: int, j: int) -> float:
        """Squared Frobenius norm of X_i^T X_j, columns centred. NaN: rows are not finite."""
        with np.errstate(invalid="ignore", over="ignore"):
            mean = self._sums[j] / max(self.n, 1)
            scatter = self._products[i, j] - np.outer(self._sums[i], mean)
            return float(np.vdot(scatter, scatter))

    def participation_ratio(self, i: int) -> float:
        """trace(C)^2 / ||C||_F^2 of site i: dimensions in use. NaN without variance."""
        with np.errstate(invalid="ignore", over="ignore"):
            total = self._sums[i]
            trace = np.trace(self._products[i, i]) - total @ total / max(self.n, 1)
            square = self.square(i, i)
            return float(trace**2 / square) if square else math.nan


def _mean(rows: Rows) -> Floats:
    """(d,) column means of (n, d) rows: exactly the row where all are equal."""
    rows = to_float32(rows)
    first = rows[0].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        mean: Floats = first + (rows - first).mean(axis=0)
    return mean


def _about(rows: Rows, shift: Floats) -> Floats:
    """(n, d) rows minus `shift`, (d,), in float64."""
    with np.errstate(invalid="ignore", over="ignore"):
        centred: Floats = to_float32(rows) - shift
    return centred
