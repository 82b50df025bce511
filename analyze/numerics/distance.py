"""How far rows lie from others: from the mean of other rows (Mahalanobis distance, fitted out of
fold), and from the row of the same token in another model.
"""

import math
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from lpp.analyze.numerics.moments import Floats, Rows
from lpp.analyze.numerics.statistics.auroc import Codes
from lpp.store.arrays.reader import to_float32

FOLDS: Final = 5

TILE_BYTES: Final = 1 << 20
"""Bytes of float32 rows of one model that are widened at once: intermediate results stay in the
processor's cache, which takes a third of the time at d = 576 and a fifth at 4,096."""

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


class RowDrift(NamedTuple):
    """Numbers of each token; NaN where one is not defined, or a row is not finite."""

    relative_distance: Floats
    """(n,) |a - b| / |a|: 0 for equal rows, infinite where only a is 0."""
    cosine: Floats
    """(n,) a.b / (|a| |b|), -1 to 1: exactly 1 for equal rows, NaN where only one of them is 0."""
    signal: Floats  # (n,) |a|^2
    noise: Floats  # (n,) |b - a|^2


def row_drift(a: Rows, b: Rows, /) -> RowDrift:
    """How far the rows of the same tokens, (n, d) each, lie apart.

    In float64. Cost: widening and subtracting n d values, and four dot products a row; memory:
    up to 4 MiB, and 32 bytes a row.

    >>> a = np.array([[3, 4], [1, 0], [0, 0]], dtype=np.float32)
    >>> b = np.array([[3, 4], [0, 2], [0, 0]], dtype=np.float32)
    >>> drift = row_drift(a, b)
    >>> drift.relative_distance.round(6).tolist(), drift.cosine.tolist()
    ([0.0, 2.236068, 0.0], [1.0, 0.0, 1.0])
    """
    n, width = a.shape
    drift = RowDrift(*np.empty((4, n)))
    step = max(1, TILE_BYTES // (4 * max(width, 1)))
    for start in range(0, n, step):
        tile = slice(start, start + step)
        for column, values in zip(drift, _tile(a[tile], b[tile]), strict=True):
            column[tile] = values
    return drift


def sqnr(signal: float, noise: float) -> float:
    """Signal to noise in dB, of sums or means: infinite without noise, NaN without signal."""
    return math.inf if noise == 0 else 10 * math.log10(signal / noise or math.nan)


def _tile(a: Rows, b: Rows) -> RowDrift:
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        wide, other = (to_float32(rows).astype(np.float64) for rows in (a, b))
        signal = np.vecdot(wide, wide)
        lengths, others = np.sqrt(signal), np.sqrt(np.vecdot(other, other))
        cosine = np.clip(np.vecdot(wide, other) / (lengths * others), -1.0, 1.0)
        other -= wide
        noise = np.vecdot(other, other)
        equal = noise == 0  # 0 over 0 among them
        relative = np.where(equal, 0.0, np.sqrt(noise) / lengths)
    return RowDrift(relative, np.where(equal, 1.0, cosine), signal, noise)
