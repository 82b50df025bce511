"""Count, mean and scatter matrix of rows; mergeable in any order.

The scatter of a set of rows is M = sum (x - mean)(x - mean)^T. Two sets merge as
M = M1 + M2 + (delta delta^T) n1 n2 / (n1 + n2), delta = mean2 - mean1 (Chan, Golub and LeVeque
1983), so bands, blocks and shards combine in any order. Everything is float64: activations have
a few enormous dimensions beside which a float32 scatter drowns the rest.

Cost: n d^2 multiply-adds for the product, which NumPy runs as one symmetric rank-k update. The
d x d addition after it is paid once per chunk of max(d, 1024) rows, so it stays small beside it.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]
"""(n, d) activations as they are read."""
Floats = npt.NDArray[np.float64]

MIN_CHUNK_ROWS = 1024
TILE_ROWS = 128
ROUNDING = 8 * np.finfo(np.float64).eps
"""Times the size and the largest eigenvalue: how far from 0 a zero eigenvalue may be solved."""
CANCELLED = 1e-12
"""A variance of which a subtraction leaves a smaller part is all gone: what is left is rounding."""
MIN_DEVIATION = 1e-8
"""A column whose standard deviation is smaller is constant: its z-scores are not blown up."""


def chunk_rows(dim: int) -> int:
    """Rows worth one product: fewer, and the d x d addition would cost as much as it."""
    return max(dim, MIN_CHUNK_ROWS)


class Workspace:
    """Scratch memory of the products of one width, allocated once: 8 d (chunk + d) bytes."""

    def __init__(self, dim: int, *, max_rows: int | None = None) -> None:
        rows = chunk_rows(dim) if max_rows is None else max(1, min(max_rows, chunk_rows(dim)))
        self.centred: Floats = np.empty((rows + 1, dim))
        self.product: Floats = np.empty((dim, dim))


@dataclass(slots=True)
class Moments:
    """What a covariance needs of its rows.

    n: number of rows. mean: (d,). scatter: (d, d), sum of the outer products of centred rows.
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
        """Moments of `rows`: (n, d). Memory: 16 d^2 bytes and one chunk in float64.

        >>> m = Moments.from_rows(np.array([[1, 0], [3, 0], [5, 6]], dtype=np.float32))
        >>> m.n, m.mean.tolist(), m.scatter.tolist()
        (3, [3.0, 2.0], [[8.0, 12.0], [12.0, 24.0]])
        """
        moments = cls.empty(rows.shape[1])
        moments.add_rows(rows)
        return moments

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

    def add_rows(self, rows: Rows, workspace: Workspace | None = None) -> None:
        """Take in `rows`, (n, d), in place."""
        if len(rows) == 0:
            return
        work = workspace or Workspace(self.dim, max_rows=len(rows))
        step = len(work.centred) - 1
        for start in range(0, len(rows), step):
            self._add_chunk(rows[start : start + step], work)

    def _add_chunk(self, rows: Rows, work: Workspace) -> None:
        count = len(rows)
        centred = work.centred[:count]
        mean = centre(rows, out=centred)
        delta = mean - self.mean
        if self.n:
            # One more row carries the rank-one term of the merge through the same product.
            centred = work.centred[: count + 1]
            np.multiply(delta, np.sqrt(self.n * count / (self.n + count)), out=centred[count])
            np.matmul(centred.T, centred, out=work.product)
            self.scatter += work.product
            self.mean += delta * (count / (self.n + count))
        else:
            np.matmul(centred.T, centred, out=self.scatter)
            self.mean[:] = mean
        self.n += count

    def add(self, other: Self) -> None:
        """Merge `other` into this one in place, a tile at a time: no d x d temporary."""
        if other.n == 0:
            return
        total = self.n + other.n
        delta = other.mean - self.mean
        scaled = delta * np.sqrt(self.n * other.n / total)
        for start in range(0, self.dim, TILE_ROWS):
            tile = slice(start, start + TILE_ROWS)
            self.scatter[tile] += other.scatter[tile]
            self.scatter[tile] += scaled[tile, None] * scaled
        # From nothing the mean is the other's exactly, not up to a rounding.
        self.mean += delta * (other.n / total) if self.n else delta
        self.n = total

    def without(self, other: Self, *, out: Self) -> Self:
        """Write the moments of these rows less `other`, which are some of them, into `out`.

        A merge the other way round, for d x d subtractions instead of n d^2 products. What is
        left of a column whose variance was nearly all in `other` is rounding, and counts as 0.
        """
        out.n = self.n - other.n
        delta = other.mean - self.mean
        weight = other.n / out.n if out.n else 0.0
        np.subtract(self.mean, delta * weight, out=out.mean)
        scaled = delta * np.sqrt(weight * self.n)
        for start in range(0, self.dim, TILE_ROWS):
            tile = slice(start, start + TILE_ROWS)
            np.subtract(self.scatter[tile], other.scatter[tile], out=out.scatter[tile])
            out.scatter[tile] -= scaled[tile, None] * scaled
        before = np.diagonal(self.scatter)
        constant = np.diagonal(out.scatter) <= CANCELLED * before
        if constant.any():
            out.scatter[constant] = 0.0
            out.scatter[:, constant] = 0.0
        out.noise = self.noise + ROUNDING * self.dim * float(before.sum())
        return out

    def merge(self, other: Self) -> Self:
        """Moments of both sets of rows; neither operand changes."""
        merged = type(self)(self.n, self.mean.copy(), self.scatter.copy())
        merged.add(other)
        return merged


@dataclass(frozen=True, slots=True)
class Gram:
    """Inner products of n centred rows, for n < d: the same non-zero eigenvalues for less.

    centred: (n, d), rows minus their mean. products: (n, n). noise: as for `Moments`.
    """

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
        if len(rows):
            centre(rows, out=centred)
        return cls(centred, centred @ centred.T)

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

    def only(self, kept: npt.NDArray[np.bool_]) -> Self:
        """The Gram matrix of the rows where `kept`, (n,), is true: no product is computed again."""
        centred = np.empty((int(kept.sum()), self.dim))
        if not len(centred):
            return type(self)(centred, np.empty((0, 0)))
        centre(self.centred[kept], out=centred)
        if not centred.any():  # equal rows: nothing is left, where a subtraction leaves rounding
            return type(self)(centred, np.zeros((len(centred), len(centred))))
        products = self.products[np.ix_(kept, kept)]
        means = products.mean(axis=0)
        products -= means + (means - means.mean())[:, None]
        return type(self)(centred, products, ROUNDING * self.n * float(np.trace(self.products)))


Spread = Moments | Gram
"""Either holds `n`, `dim`, `variances` and a `matrix` with the covariance's eigenvalues times
n - 1."""


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
        return Gram(rows, rows @ rows.T)
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
