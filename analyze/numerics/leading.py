"""The leading eigenvectors of a covariance, and how far two such spaces overlap.

||U^T V||_F^2 / k for orthonormal (d, k) bases U and V: the mean squared cosine of the k principal
angles between the spaces, 1 for the same space, 0 for orthogonal ones, k / d in expectation for a
space drawn at random. Where the eigenvalues k and k + 1 are close, the space of the first k is
ill determined: then a small change of the rows may turn it far.
"""

import math
from typing import Final

import numpy as np
from scipy.linalg import eigh

from lpp.analyze.numerics.moments import ROUNDING, Floats, Gram, Spread

_LEADING: Final = 10
"""Leading eigenvectors that are compared, by default."""


def leading_eigenvectors(spread: Spread, k: int = _LEADING, /) -> Floats:
    """(d, j) the eigenvectors of the j = min(k, rank) largest eigenvalues, descending.

    rank: eigenvalues that are not within rounding of 0. None, (d, 0), of rows that are not finite.

    >>> from lpp.analyze import Moments
    >>> rows = np.array([[1, 0, 0], [-1, 0, 0], [0, 3, 0], [0, -3, 0]], dtype=np.float32)
    >>> abs(leading_eigenvectors(Moments.from_rows(rows), 1)).tolist()
    [[0.0], [1.0], [0.0]]
    >>> leading_eigenvectors(Moments.from_rows(rows)).shape
    (3, 2)
    """
    matrix, size = spread.matrix, len(spread.matrix)
    count = min(k, spread.dim, max(spread.n - 1, 0))
    with np.errstate(invalid="ignore", over="ignore"):
        finite = math.isfinite(float(matrix.sum()))
    if not count or not finite:
        return np.empty((spread.dim, 0))
    # LAPACK's solver for some eigenvectors: a third of the time of all of them at d = 576
    values, vectors = eigh(matrix, subset_by_index=[size - count, size - 1], check_finite=False)
    noise = ROUNDING * size * float(np.abs(values).max()) + spread.noise
    leading: Floats = vectors[:, values > noise][:, ::-1]
    if isinstance(spread, Gram):  # from those of X X^T to those of X^T X
        leading = np.linalg.qr(spread.centred.T @ leading)[0]
    return leading


def subspace_overlap(u: Floats, v: Floats, /) -> float:
    """||U^T V||_F^2 / k of the first k columns of two orthonormal bases, (d, i) and (d, j).

    k is the smaller number of columns; NaN for none. Exactly 1 for equal bases.

    >>> turned = np.array([[1.0, 0.0], [0.0, 0.5**0.5], [0.0, 0.5**0.5]])
    >>> round(subspace_overlap(np.eye(3)[:, :2], turned), 6)
    0.75
    """
    k: int = min(u.shape[1], v.shape[1])
    if not k:
        return math.nan
    u, v = u[:, :k], v[:, :k]
    if np.array_equal(u, v):
        return 1.0
    products: Floats = u.T @ v
    return min(float(np.vdot(products, products)) / k, 1.0)
