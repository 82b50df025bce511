"""Numbers of a covariance spectrum: participation ratio, effective rank, top share.

lambda are the eigenvalues of the sample covariance (divide by N - 1) of N rows of width d, and
r = min(N, d) bounds how many are not zero. Definitions: arXiv 2605.30018. With no variance
at all (equal rows, one row, none) no dimension is in use and every number is 0.0; otherwise
1 <= PR <= ER <= r, also after rounding.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from lpp.analyze.numerics.moments import ROUNDING, Floats, Spread

_FLOAT32_DIM: Final = 256
"""Replicates of narrower rows are solved in float64: that takes a millisecond or two."""


def rank_bound(n: int, dim: int) -> int:
    """The bound min(N, d), r for short: what a normalised rank is divided by."""
    return min(n, dim)


def sums(spread: Spread) -> tuple[float, float]:
    """Sum and sum of squares of the covariance's eigenvalues, without computing any.

    They are the trace and the squared Frobenius norm: d^2 multiply-adds.
    """
    freedom = max(spread.n - 1, 1)
    flat = spread.matrix.ravel()
    return float(np.trace(spread.matrix)) / freedom, float(flat @ flat) / freedom**2


def participation_ratio(spread: Spread, /) -> float:
    """Dimensions in use: (sum lambda)^2 / sum lambda^2. Needs no eigenvalues.

    >>> from lpp.analyze import Moments
    >>> rows = np.array([[1, 0], [-1, 0], [0, 2], [0, -2]], dtype=np.float32)
    >>> round(participation_ratio(Moments.from_rows(rows)), 6)  # (1 + 4)^2 / (1 + 16)
    1.470588
    """
    return ratio_of_sums(*sums(spread), rank_bound(spread.n, spread.dim))


def ratio_of_sums(total: float, sum_squares: float, bound: int) -> float:
    """Participation ratio from the sum and the sum of squares of the eigenvalues."""
    if total == 0:
        return 0.0
    return within(total * total / sum_squares, bound)


def eigenvalues(spread: Spread, /, *, replicate: bool = False) -> Floats:
    """The r = min(N, d) largest eigenvalues of the sample covariance, descending, (r,).

    A float64 solve of the matrix that `spread` holds; for a `replicate` of a jackknife one in
    float32 where that is precise enough for an error (`replicates`). Rounding leaves an eigenvalue
    that should be 0 anywhere within about size * epsilon * largest of it: below 0 it is set to 0. A
    value further below says that the matrix was no covariance.

    Raises ArithmeticError for such a matrix, and for one that holds infinities or NaN.
    """
    matrix = spread.matrix
    if replicate and _FLOAT32_DIM <= spread.dim < spread.n:
        from lpp.analyze.numerics.replicates import float32_eigenvalues  # SciPy

        if (single := float32_eigenvalues(matrix)) is not None:
            return np.clip(single / (spread.n - 1), 0.0, None)
    if not np.isfinite(matrix.sum()):
        raise ArithmeticError("the rows hold infinities or NaN: they have no covariance")
    bound = rank_bound(spread.n, spread.dim)
    values = np.linalg.eigvalsh(matrix)[::-1] / max(spread.n - 1, 1)
    noise = rounding(values) + spread.noise / max(spread.n - 1, 1)
    if bound and values[-1] < -noise:
        raise ArithmeticError(f"not a covariance: eigenvalue {values[-1]:g} beside {values[0]:g}")
    return np.clip(values[:bound], 0.0, None)


def rounding(values: Floats) -> float:
    """How far from 0 a zero eigenvalue may come out of the solve: 8 size epsilon largest."""
    return float(ROUNDING * len(values) * np.abs(values).max(initial=0.0))


def effective_rank(eigenvalues: Floats, /) -> float:
    """Dimensions in use: exponential of the entropy of the normalised eigenvalues.

    eigenvalues: (r,), non-negative, of a covariance. Roy and Vetterli 2007.

    >>> round(effective_rank(np.ones(4)), 6)
    4.0
    >>> round(effective_rank(np.array([3.0, 1.0])), 6)  # exp of -(3/4 ln 3/4 + 1/4 ln 1/4)
    1.754765
    """
    total = eigenvalues.sum()
    if total == 0:
        return 0.0  # no variance: the exponential of an empty entropy would claim one dimension
    share = eigenvalues[eigenvalues != 0] / total  # keeps a NaN, which must not get lost
    return within(float(np.exp(-(share * np.log(share)).sum())), len(eigenvalues))


def top_share(eigenvalues: Floats, /) -> float:
    """Share of the largest eigenvalue in their sum, between 1/r and 1.

    >>> top_share(np.array([3.0, 1.0]))
    0.75
    """
    total = eigenvalues.sum()
    return 0.0 if total == 0 else float(eigenvalues.max() / total)


def within(value: float, bound: int) -> float:
    """`value` clipped to [1, bound]: outside it only by rounding. NaN stays NaN."""
    return float(np.clip(value, 1.0, max(bound, 1)))


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The summary of one matrix of one X(L): enough for every spectral metric."""

    n: int
    """Rows N."""
    dim: int
    """Columns d."""
    total: float
    """Sum of the eigenvalues: the summed variance of the columns."""
    sum_squares: float
    """Sum of their squares."""
    mean_norm: float
    """Euclidean length of the mean row; 0 for z-scores."""
    variances: Floats
    """(d,) the matrix's diagonal: the variance of each column."""
    eigenvalues: Floats | None
    """(min(N, d),) descending; None if they were not requested."""

    @property
    def rank_bound(self) -> int:
        """The bound r = min(N, d)."""
        return rank_bound(self.n, self.dim)

    @property
    def solved(self) -> Floats:
        """The eigenvalues. LookupError if they were not requested: a metric must declare that it
        needs them.
        """
        if self.eigenvalues is None:
            raise LookupError("no eigenvalues here: declare the metric with needs='eigenvalues'")
        return self.eigenvalues
