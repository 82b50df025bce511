"""How far each row lies from the mean of other rows: Mahalanobis distance, fitted out of fold."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from lpp.analyze.numerics.moments import Floats
from lpp.analyze.numerics.statistics.auroc import Codes

FOLDS: Final = 5

LEAST_SHRINKAGE: Final = 1e-6
"""Least shrinkage of the covariance: for two rows Ledoit and Wolf's is 0, and S has no inverse."""


def folds(n: int, /, *, count: int = FOLDS, seed: int = 0) -> Codes:
    """(n,) the fold of each item or cluster: equally many in each, as far as n allows, in a seeded
    order.

    >>> np.bincount(folds(7, count=3)).tolist()
    [3, 2, 2]
    """
    assigned: Codes = np.random.default_rng(seed).permutation(np.arange(n) % count)
    return assigned


def distances(rows: npt.NDArray[np.floating[Any]], fold: Codes, /) -> Floats:
    """(n,) Mahalanobis distance of each row to the mean of the rows of the other folds.

    rows: (n, d), finite. fold: (n,) of `folds`. Mean and covariance S are those of the other folds
    alone. The covariance is (1 - a) S + a m I, m the mean of the variances of the columns, with a
    after Ledoit and Wolf 2004, J. Multivariate Analysis 88, at least `LEAST_SHRINKAGE`: with fewer
    rows than columns S has no inverse. NaN where the other folds do not vary.

    In float64. Cost, for each fold: n d k multiply-adds and a factorisation of size k = min(n, d).
    """
    wide = rows.astype(np.float64)
    result = np.full(len(wide), np.nan)
    for k in np.unique(fold):
        inside = fold == k
        result[inside] = _distances(wide[~inside], wide[inside])
    return result


def shrinkage(centred: Floats, products: Floats, /) -> tuple[float, float]:
    """(a, m) of Ledoit and Wolf 2004 for (n, d) rows of mean 0; their S divides by n.

    products: of the rows with each other, (n, n), or of the columns, (d, d); the eigenvalues but
    zeros are the same. a: 0 to 1; 1 where the rows do not vary.
    """
    n, d = centred.shape
    mean = float(np.trace(products)) / (n * d)
    flat = products.ravel()
    squares = float(flat @ flat) / n**2  # |S|^2
    spread = squares / d - mean**2
    lengths = np.vecdot(centred, centred)
    error = (float((lengths**2).sum()) / n - squares) / (n * d)
    return (1.0 if spread <= 0 else min(max(error, 0.0), spread) / spread), mean


def _distances(fitted: Floats, rows: Floats) -> Floats:
    """Distance of each of `rows`, (s, d), to the mean of `fitted`, (n, d)."""
    n, d = fitted.shape
    if n < 2:
        return np.full(len(rows), np.nan)
    mean = fitted.mean(axis=0)
    centred, away = fitted - mean, rows - mean
    products = centred.T @ centred if d <= n else centred @ centred.T
    a, m = shrinkage(centred, products)
    if m <= 0:
        return np.full(len(rows), np.nan)
    a = max(a, LEAST_SHRINKAGE)
    ridge, share = a * m, (1 - a) / n
    if d <= n:
        matrix = share * products + ridge * np.eye(d)
        squares = np.vecdot(away, cho_solve(cho_factor(matrix), away.T).T)
    else:  # Woodbury's identity: a system of n rows in place of d columns
        across = centred @ away.T
        matrix = share * products + ridge * np.eye(n)
        inner = np.vecdot(across.T, cho_solve(cho_factor(matrix), across).T)
        squares = (np.vecdot(away, away) - share * inner) / ridge
    result: Floats = np.sqrt(np.maximum(squares, 0.0))
    return result
