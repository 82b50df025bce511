"""Clusters: prompts or items that share a document, a passage or a scene, and so share luck.

What is independent is the cluster. An error is that of sums over clusters; a fold, a group that a
jackknife leaves out and a shuffle take whole clusters.
"""

from collections.abc import Sequence

import numpy as np

from lpp.analyze.numerics.statistics.auroc import Codes


def cluster_codes(values: Sequence[object], /) -> Codes:
    """(n,) number of the cluster of each prompt or item, from 0 in order of first appearance.

    values: (n,) of a field. Equal values are one cluster; None is a cluster of its own.

    >>> cluster_codes(["a", None, "b", "a", None]).tolist()
    [0, 1, 2, 0, 3]
    """
    known: dict[object, int] = {}
    keys = ((number,) if value is None else value for number, value in enumerate(values))
    return np.array([known.setdefault(key, len(known)) for key in keys], dtype=np.int64)


def even_clusters(codes: Codes, /) -> float:
    """Number of clusters of one size that hold as much: (sum of sizes)^2 / sum of sizes^2.

    A few large clusters count as few: below 25 wherever one holds more than a fifth.

    >>> even_clusters(np.array([0, 0, 1, 1])), even_clusters(np.array([0, 0, 0, 1]))
    (2.0, 1.6)
    """
    sizes = np.bincount(codes)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def recoded(codes: Codes, /) -> Codes:
    """The codes of some of the items, numbered again from 0 in order of first appearance.

    >>> recoded(np.array([7, 2, 7])).tolist()
    [0, 1, 0]
    """
    return cluster_codes(codes.tolist())
