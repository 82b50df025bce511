"""Count, mean and scatter matrix of rows, and the Gram matrix of few rows.

The scatter of a set of rows is M = sum (x - mean)(x - mean)^T. Two sets merge as
M = M1 + M2 + (delta delta^T) n1 n2 / (n1 + n2), delta = mean2 - mean1 (Chan, Golub and LeVeque
1983), so bands, blocks and shards combine in any order. Everything is float64: activations have
a few enormous dimensions beside which a float32 scatter drowns the rest.

Rows are summed about a fixed point near their mean, the shift: sum y and sum y y^T, y = x - shift,
are plain sums, which add and subtract, and M = sum y y^T - (sum y)(sum y)^T / n. Cost: n d^2
multiply-adds for the products, which NumPy runs as one symmetric rank-k update, and one pass that
widens and shifts each row.
"""

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from lpp.store.arrays.reader import to_float32

Rows = npt.NDArray[Any]
"""(n, d) activations: float32, or as they are stored (bfloat16 as uint16)."""
Floats = npt.NDArray[np.float64]

MIN_CHUNK_ROWS = 1024
PRODUCT_ROWS = 2048
"""Rows of one product at most: enough that the d x d addition after it costs a few per cent."""
_TILE_ROWS: Final = 128
SHIFT_ROWS: Final = 64
"""Rows whose mean is the shift, unless one is given."""
ROUNDING: Final = 8 * np.finfo(np.float64).eps
"""Times the size and the largest eigenvalue: how far from 0 a zero eigenvalue may be solved."""
CANCELLED: Final = 1e-12
"""If a subtraction leaves a smaller part of a variance, the rest is rounding and counts as 0."""
MIN_DEVIATION: Final = 1e-8
"""A column whose standard deviation is smaller is constant: its z-scores are not blown up."""


def product_rows(dim: int) -> int:
    """Rows worth one product: fewer, and the d x d addition would cost as much as it."""
    return max(dim, MIN_CHUNK_ROWS)


class Workspace:
    """Scratch memory of the products of one width: 8 d (rows + d) bytes, allocated once."""

    def __init__(self, dim: int, *, max_rows: int | None = None) -> None:
        most = PRODUCT_ROWS if max_rows is None else max(1, min(max_rows, PRODUCT_ROWS))
        self.rows: Floats = np.empty((most, dim))
        self.product: Floats = np.empty((dim, dim))


@dataclass(slots=True)
class Moments:
    """Count, mean and scatter of rows, enough for their covariance. n: number of rows. mean: (d,).
    scatter: (d, d), sum of the outer products of centred rows.
    noise: how far from 0 a zero eigenvalue of the scatter may lie, beyond its solve's rounding.
    """

    n: int
    mean: Floats
    scatter: Floats
    noise: float = 0.0

    @classmethod
    def empty(cls, dim: int) -> Self:
        """No rows of width `dim`."""
        return cls(0, np.zeros(dim), np.zeros((dim, dim)))

    @classmethod
    def from_rows(cls, rows: Rows) -> Self:
        """Moments of `rows`: (n, d). Memory: 24 d^2 bytes and up to 2,048 rows in float64.

        >>> m = Moments.from_rows(np.array([[1, 0], [3, 0], [5, 6]], dtype=np.float32))
        >>> m.n, m.mean.tolist(), m.scatter.tolist()
        (3, [3.0, 2.0], [[8.0, 12.0], [12.0, 24.0]])
        """
        sums = ShiftedSums.empty(shift_of(rows))
        sums.add_rows(rows, Workspace(rows.shape[1], max_rows=len(rows)))
        moments = sums.moments()
        return cls(moments.n, moments.mean, moments.scatter, moments.noise)

    @property
    def dim(self) -> int:
        """Width d of a row."""
        return len(self.mean)

    @property
    def matrix(self) -> Floats:
        """The matrix whose eigenvalues, over n - 1, are those of the sample covariance."""
        return self.scatter

    @property
    def variances(self) -> Floats:
        """(d,) sample variance of each column."""
        variances: Floats = np.diagonal(self.scatter) / max(self.n - 1, 1)
        return variances

    def add(self, other: Self) -> None:
        """Merge `other` into this one in place, a tile at a time: no d x d temporary."""
        if other.n == 0:
            return
        total = self.n + other.n
        delta = other.mean - self.mean
        scaled = delta * np.sqrt(self.n * other.n / total)
        for start in range(0, self.dim, _TILE_ROWS):
            tile = slice(start, start + _TILE_ROWS)
            self.scatter[tile] += other.scatter[tile]
            if self.n:
                self.scatter[tile] += scaled[tile, None] * scaled
        # Starting from no rows, the mean is exactly the other's.
        self.mean += delta * (other.n / total) if self.n else delta
        self.noise += other.noise
        self.n = total

    def drop_cancelled(self, before: Floats) -> None:
        """Make columns constant, in place, of whose `before`, (d,), a subtraction left rounding."""
        constant = np.diagonal(self.scatter) <= CANCELLED * before
        if constant.any():
            self.scatter[constant] = 0.0
            self.scatter[:, constant] = 0.0

    def merge(self, other: Self) -> Self:
        """Moments of both sets of rows; neither operand changes."""
        merged = self.copy()
        merged.add(other)
        return merged

    def copy(self) -> Self:
        """A copy in its own memory."""
        return type(self)(self.n, self.mean.copy(), self.scatter.copy(), self.noise)


@dataclass(slots=True)
class ShiftedSums:
    """Sums over rows about a fixed point, which add and subtract as sets of rows do.

    n: rows. shift: (d,), near their mean. total: (d,) sum of x - shift. products: (d, d) sum of
    the outer products of x - shift.
    """

    n: int
    shift: Floats
    total: Floats
    products: Floats
    squares: Floats | None = None
    """For a difference of sums: (d,) the diagonal of the larger products, whose rounding it has."""

    @classmethod
    def empty(cls, shift: Floats) -> Self:
        """No rows."""
        dim = len(shift)
        return cls(0, shift, np.zeros(dim), np.zeros((dim, dim)))

    def copy(self) -> Self:
        """A copy in its own memory."""
        return type(self)(self.n, self.shift, self.total.copy(), self.products.copy(), self.squares)

    def add_rows(self, rows: Rows, work: Workspace) -> None:
        """Take in `rows`, (n, d): n d^2 multiply-adds."""
        for start in range(0, len(rows), len(work.rows)):
            chunk = rows[start : start + len(work.rows)]
            wide = work.rows[: len(chunk)]
            for first in range(0, len(chunk), _TILE_ROWS):  # its float32 copy stays in the cache
                tile = slice(first, first + _TILE_ROWS)
                np.subtract(to_float32(chunk[tile]), self.shift, out=wide[tile], dtype=np.float64)
            self.total += wide.sum(axis=0)
            if self.n:
                self.products += np.matmul(wide.T, wide, out=work.product)
            else:
                np.matmul(wide.T, wide, out=self.products)
            self.n += len(chunk)

    def add(self, other: Self) -> None:
        """Take in the rows of `other`, which has the same shift."""
        self.n += other.n
        self.total += other.total
        self.products += other.products

    def without(self, other: Self) -> Self:
        """The sums of these rows without those of `other`, a subset."""
        return type(self)(
            self.n - other.n,
            self.shift,
            self.total - other.total,
            self.products - other.products,
            np.diagonal(self.products).copy(),
        )

    def add_rest(self, other: Self, moments: Moments) -> None:
        """Merge the rows without those of `other`, a subset, into `moments`, in place.

        As of `moments.add(self.without(other).moments())`, in a third of its passes over d x d.
        """
        n, total = self.n - other.n, self.total - other.total
        if n == 0:
            return
        squares, scaled = np.diagonal(self.products), total / np.sqrt(n)
        left = squares - np.diagonal(other.products) - scaled * scaled
        if (left <= CANCELLED * squares).any():
            moments.add(self.without(other).moments())
            return
        both = moments.n + n
        delta = self.shift + total / n - moments.mean
        vectors = np.stack([scaled, delta * np.sqrt(moments.n * n / both)])
        signed = vectors.T * [-1.0, 1.0]
        for start in range(0, len(scaled), _TILE_ROWS):
            tile = slice(start, start + _TILE_ROWS)
            moments.scatter[tile] += self.products[tile]
            moments.scatter[tile] -= other.products[tile]
            moments.scatter[tile] += signed[tile] @ vectors
        moments.mean += delta * (n / both)
        moments.noise += ROUNDING * float(scaled @ scaled + len(scaled) * squares.sum())
        moments.n = both

    def moments(self) -> Moments:
        """Mean and scatter of the rows, in new memory: two passes over d x d."""
        if self.n == 0:
            return Moments.empty(len(self.shift))
        scaled = self.total / np.sqrt(self.n)
        scatter = np.empty_like(self.products)
        for start in range(0, len(scaled), _TILE_ROWS):
            tile = slice(start, start + _TILE_ROWS)
            np.multiply(scaled[tile, None], scaled, out=scatter[tile])
            np.subtract(self.products[tile], scatter[tile], out=scatter[tile])
        noise = ROUNDING * float(scaled @ scaled)
        if self.squares is not None:
            noise += ROUNDING * len(scaled) * float(self.squares.sum())
        moments = Moments(self.n, self.shift + self.total / self.n, scatter, noise)
        moments.drop_cancelled(np.diagonal(self.products) if self.squares is None else self.squares)
        return moments


def shift_of(rows: Rows) -> Floats:
    """(d,) a point near the mean of `rows`, (n, d): the mean of the first 64. 0 without a row.

    The mean is taken about the first row, so that equal rows lie at it exactly.
    """
    if len(rows) == 0:
        return np.zeros(rows.shape[1])
    wide = to_float32(rows[:SHIFT_ROWS]).astype(np.float64)
    shift: Floats = wide[0] + (wide - wide[0]).mean(axis=0)
    shift[~np.isfinite(shift)] = 0.0
    return shift


@dataclass(frozen=True, slots=True)
class Gram:
    """Inner products of n centred rows, for n < d: the same non-zero eigenvalues for less.

    mean: (d,). centred: (n, d), rows minus their mean. products: (n, n). noise: as for `Moments`.
    """

    mean: Floats
    centred: Floats
    products: Floats
    noise: float = 0.0

    @classmethod
    def from_rows(cls, rows: Rows) -> Self:
        """Gram matrix of `rows`, (n, d), centred: n^2 d multiply-adds, 8 n (n + d) bytes.

        >>> Gram.from_rows(np.array([[1, 0], [3, 0]], dtype=np.float32)).products.tolist()
        [[1.0, -1.0], [-1.0, 1.0]]
        """
        centred = np.empty(rows.shape)
        mean = centre(to_float32(rows), out=centred) if len(rows) else np.zeros(rows.shape[1])
        return cls(mean, centred, centred @ centred.T)

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.centred)

    @property
    def dim(self) -> int:
        """Width d of a row."""
        return int(self.centred.shape[1])

    @property
    def matrix(self) -> Floats:
        """The matrix whose eigenvalues, over n - 1, are those of the sample covariance."""
        return self.products

    @property
    def variances(self) -> Floats:
        """(d,) sample variance of each column."""
        variances: Floats = np.einsum("nd,nd->d", self.centred, self.centred)
        return variances / max(self.n - 1, 1)

    def only(self, mask: npt.NDArray[np.bool_]) -> Self:
        """The Gram matrix of the rows where `mask`, (n,), is true: no product is computed again."""
        centred = np.empty((int(mask.sum()), self.dim))
        if not len(centred):
            return type(self)(np.zeros(self.dim), centred, np.empty((0, 0)))
        mean = self.mean + centre(self.centred[mask], out=centred)
        if not centred.any():  # equal rows: nothing is left, where a subtraction leaves rounding
            return type(self)(mean, centred, np.zeros((len(centred), len(centred))))
        products = self.products[np.ix_(mask, mask)]
        means = products.mean(axis=0)
        products -= means + (means - means.mean())[:, None]
        noise = ROUNDING * self.n * float(np.trace(self.products))
        return type(self)(mean, centred, products, noise)


Spread = Moments | Gram
"""Either holds `n`, `dim`, `mean`, `variances` and a `matrix` with the covariance's eigenvalues
times n - 1."""


def standardised(spread: Spread) -> Spread:
    """The spread of the z-scores: every column over its standard deviation.

    A deviation below 1e-8 counts as 1, as in arXiv 2605.30018. One more d x d matrix, or n x d
    rows and their n^2 d products. What a subtraction left of rounding grows with the narrowest
    column's scale, squared, and so does the bound on it.
    """
    deviations = np.sqrt(spread.variances)
    scale = 1.0 / np.where(deviations < MIN_DEVIATION, 1.0, deviations)
    if isinstance(spread, Gram):
        rows = spread.centred * scale
        return Gram(np.zeros(spread.dim), rows, rows @ rows.T)
    scatter = spread.scatter * scale
    scatter *= scale[:, None]
    noise = spread.noise * float(np.square(scale).max(initial=0.0))
    return Moments(spread.n, np.zeros(spread.dim), scatter, noise)


def centre(rows: Rows | Floats, *, out: Floats) -> Floats:
    """Write `rows` minus their column means into `out` in float64; return the means, (d,).

    The first row is taken off before anything is summed. It makes equal rows exactly zero,
    whatever their value, and keeps the digits of columns whose mean is enormous.
    """
    first = rows[0].astype(np.float64)
    np.subtract(rows, first, out=out, dtype=np.float64)
    mean: Floats = out.mean(axis=0)
    out -= mean
    total: Floats = first + mean
    return total
