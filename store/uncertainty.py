"""How far a score may be off: standard errors of items that belong together, and intervals."""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Final

Z95: Final = 1.959963984540054
"""Standard normal quantile of a two-sided interval of 95 %."""

LARGEST_LOG: Final = 300.0
"""The exponential of more, times a score, may be infinite."""


def standard_error(values: Sequence[float], clusters: Sequence[Hashable]) -> float | None:
    """Standard error of the mean; None for a single cluster.

    values: (n,) one per item. clusters: (n,) which items belong together, such as those of one
    scene. The larger of two: with items taken as independent, and with only clusters taken so
    (Cameron and Miller 2015, section 2). Items that balance each other by design lower the second.
    """
    mean = sum(values) / len(values)
    sums: dict[Hashable, float] = defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] += value - mean
    if len(sums) < 2:
        return None
    by_item = _spread([value - mean for value in values])
    return max(by_item, _spread(list(sums.values()))) / len(values)


def _spread(residuals: Sequence[float]) -> float:
    n = len(residuals)
    return math.sqrt(n / (n - 1) * sum(r * r for r in residuals))


def effective_items(score: float, stderr: float | None, clusters: int) -> float:
    """Number of independent items, right or wrong, that would give a score from 0 to 1 this
    standard error, as in surveys (Korn and Graubard 1998).

    `clusters` where the error is 0 or unknown, so that ten right answers of ten do not pass for
    certainty. The error of n independent items is sqrt(score (1 - score) / (n - 1)).

    >>> round(effective_items(0.5, standard_error([0, 1, 1, 0], range(4)), 4), 9)
    4.0
    >>> round(effective_items(0.5, standard_error([0, 0, 1, 1], "aabb"), 2), 9)
    2.0
    """
    variance = score * (1 - score)
    return 1 + variance / stderr**2 if stderr and variance else clusters


def share_interval(score: float, stderr: float | None, clusters: int) -> tuple[float, float]:
    """95 % interval of a score between 0 and 1, itself between 0 and 1.

    Wilson's interval (1927) for `effective_items`.

    >>> [round(end, 3) for end in share_interval(1.0, 0.0, 10)]
    [0.722, 1.0]
    >>> share_interval(0.0, None, 100)[0]
    0.0
    """
    variance = score * (1 - score)
    n = effective_items(score, stderr, clusters)
    scale = 1 + Z95**2 / n
    centre = (score + Z95**2 / (2 * n)) / scale
    half = Z95 / scale * math.sqrt(variance / n + Z95**2 / (4 * n**2))
    # by rounding, the formula misses 0 at 0 and 1 at 1
    low = max(0.0, centre - half) if score > 0 else 0.0
    return low, min(1.0, centre + half) if score < 1 else 1.0


def score_interval(
    score: float,
    stderr: float | None,
    values: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    of_log: bool = False,
) -> tuple[float, float] | None:
    """95 % interval of a score; None where nothing says how far it may be off.

    values: of each item, empty where an item has no number. clusters: of each item. Where score and
    values lie between 0 and 1 it is `share_interval`, else the score +- 1.96 standard errors.
    of_log: the score is the exponential of a mean, as a perplexity is: its logarithm +- 1.96 of its
    standard errors, stderr / score each, exponentiated.
    """
    if of_log:
        if stderr is None or score <= 0:
            return None
        by = min(Z95 * stderr / score, LARGEST_LOG)
        return score * math.exp(-by), score * math.exp(by)
    if values and all(0 <= value <= 1 for value in (score, *values)):
        return share_interval(score, stderr, len(set(clusters)))
    if stderr is None:
        return None
    return score - Z95 * stderr, score + Z95 * stderr
