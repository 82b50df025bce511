"""AUROCs of many columns of scores, each with labels of its own, and what clusters contribute.

Contributions of clusters make every error: the sum of their squares is the variance of a number,
and those of a difference or a mean of numbers are the difference or the mean of theirs.
"""

import numpy as np

from lpp.analyze.numerics.moments import Floats
from lpp.analyze.numerics.statistics.auroc import FEWEST_OF_A_GROUP, Codes, Flags


def auroc_columns(
    values: Floats, right: Flags, groups: Codes, clusters: Codes, /
) -> tuple[Floats, Floats]:
    """The AUROC of each column within groups, (c,), and contributions of clusters to it, (k, c).

    values, right: (n, c), finite. groups, clusters: (n,), clusters from 0 to k - 1. NaN for a
    column of which no group has `FEWEST_OF_A_GROUP` clusters of each kind. Values and errors are
    those of `auroc` without clusters; with them, each placement has the factor for its number of
    clusters (Obuchowski 1997) also where it meets others of its cluster.

    >>> scores, right = np.array([[3.0], [2.0], [2.0], [1.0]]), np.arange(4)[:, None] < 2
    >>> value, parts = auroc_columns(scores, right, np.zeros(4, int), np.arange(4))
    >>> value.tolist(), round(float(np.sqrt(parts[:, 0] @ parts[:, 0])), 6)
    ([0.875], 0.176777)
    """
    c = values.shape[1]
    value, pairs, parts = np.zeros(c), np.zeros(c), np.zeros((int(clusters.max()) + 1, c))
    for code in np.unique(groups):
        here = groups == code
        order = np.argsort(values[here], axis=0, kind="stable")
        scores = np.take_along_axis(values[here], order, axis=0)
        kind = np.take_along_axis(right[here], order, axis=0)
        below = _midranks(scores)
        right_below = _midranks(scores, kind)
        n_right = kind.sum(axis=0)
        n_wrong = len(kind) - n_right
        ours, of_ours = np.unique(clusters[here], return_inverse=True)
        k, cell = len(ours), of_ours[order] * c + np.arange(c)
        of_cluster = [_sums(cell, each, k, c) > 0 for each in (kind, ~kind)]
        counts = [each.sum(axis=0) for each in of_cluster]
        weight = np.where(np.minimum(*counts) < FEWEST_OF_A_GROUP, 0, n_right * n_wrong)
        of_right = (below - right_below) / np.maximum(n_wrong, 1)
        of_wrong = 1 - right_below / np.maximum(n_right, 1)
        area = (of_right * kind).sum(axis=0) / np.maximum(n_right, 1)
        value += weight * area
        pairs += weight
        for each, placed, n, count in (
            (kind, of_right, n_right, counts[0]),
            (~kind, of_wrong, n_wrong, counts[1]),
        ):
            factor = weight * np.sqrt(count / np.maximum(count - 1, 1)) / np.maximum(n, 1)
            parts[ours] += _sums(cell, each * (placed - area) * factor, k, c)
    total = np.where(pairs > 0, pairs, np.nan)
    parts /= total
    return value / total, parts


def _midranks(ordered: Floats, counted: Flags | None = None) -> Floats:
    """(n, c) how many of the counted entries lie below each entry of a column, ties half; columns
    ascend, and by default every entry counts.
    """
    n = len(ordered)
    new = np.ones((n + 1, ordered.shape[1]), dtype=bool)
    new[1:n] = ordered[1:] != ordered[:-1]
    index = np.arange(n)[:, None]
    first = np.maximum.accumulate(np.where(new[:n], index, 0))
    end = np.minimum.accumulate(np.where(new[1:], index + 1, n)[::-1])[::-1]
    if counted is None:
        return np.asarray((first + end) / 2, np.float64)
    before = np.vstack([np.zeros((1, ordered.shape[1])), np.cumsum(counted, axis=0)])
    both: Floats = np.take_along_axis(before, first, 0) + np.take_along_axis(before, end, 0)
    return both / 2


def _sums(cell: Codes, weights: Floats | Flags, k: int, c: int) -> Floats:
    """(k, c) sums of the weights by cluster and column."""
    sums = np.bincount(cell.ravel(), weights.ravel(), k * c)
    return sums.reshape(k, c).astype(np.float64, copy=False)
