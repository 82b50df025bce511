"""Two accuracies over the same items: their difference, its interval, and an exact p.

With clusters, such as scenes, items of one cluster may share luck: errors are those of sums over
clusters, and p exchanges the two accuracies in whole clusters.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import stats

from lpp.analyze.numerics.moments import Floats
from lpp.analyze.numerics.statistics.auroc import Codes, Flags
from lpp.store.uncertainty import effective_items, share_interval, standard_error

MOST_STEPS: Final = 1 << 16
"""Steps of the grid that the sums of differences of clusters lie on, up to which p is exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """Two proportions of the same n items, and how they differ."""

    n: int
    first: float
    second: float
    """Shares, 0 to 1."""
    difference: float
    """`second` minus `first`."""
    interval: tuple[float, float]
    """95 % interval of the difference: Newcombe 1998; with clusters, from their errors."""
    p_value: float
    """Two-sided, of two equal proportions; 1 where no item differs. Exact: McNemar 1947; with
    clusters Durkalski et al. 2003, exact where the grid of their sums is not too fine."""


def paired_difference(
    first: Flags, second: Flags, clusters: Codes | None = None, /
) -> PairedDifference:
    """The difference of two proportions of the same items.

    first, second: (n,) whether an item has the property; n at least 1, else ValueError. clusters:
    (n,) of `cluster_codes`; by default each item is one of its own.

    Interval: method 10 of Newcombe 1998, Statistics in Medicine 17, 2635. It joins Wilson's
    intervals of the two proportions, less what they share: the correlation of their errors. Errors
    are those of `standard_error`, and n is that of `effective_items`. p: the sum over clusters of
    the mean difference of a cluster (Durkalski et al. 2003, Statistics in Medicine 22, 2417), over
    all ways to exchange `first` and `second` in whole clusters; of items alone that is McNemar's
    test without an approximation. Where clusters of many sizes leave too many ways to count, p is
    that of Durkalski's chi-square.

    >>> first, second = np.arange(50) < 48, (np.arange(50) < 36) | (np.arange(50) > 47)
    >>> result = paired_difference(first, second)
    >>> result.difference, [round(end, 4) for end in result.interval], round(result.p_value, 4)
    (-0.2, [-0.3404, -0.0569], 0.0129)
    """
    n = len(first)
    if not n:
        raise ValueError("n = 0: should be 1 or more")
    of_items = np.arange(n) if clusters is None else clusters
    k, codes = int(of_items.max()) + 1, of_items.tolist()
    p, q = float(first.mean()), float(second.mean())
    away = second.astype(np.float64) - first
    errors = [standard_error(column.tolist(), codes) for column in (first, second, away)]
    ends = share_interval(p, errors[0], k), share_interval(q, errors[1], k)
    e_p, e_q, e_both = (error or 0.0 for error in errors)
    shared = (e_p**2 + e_q**2 - e_both**2) / (2 * e_p * e_q) if e_p * e_q else 0.0
    if shared > 0:  # Newcombe's correction, towards 0
        size = math.sqrt(effective_items(p, e_p, k) * effective_items(q, e_q, k))
        shared = max(shared - 1 / (2 * size * math.sqrt(p * (1 - p) * q * (1 - q))), 0.0)
    sums = np.bincount(of_items, away).astype(np.float64)
    return PairedDifference(
        n=n,
        first=p,
        second=q,
        difference=float(away.mean()),
        interval=_newcombe((p, q), ends, max(shared, -1.0)),
        p_value=_durkalski(sums, np.bincount(of_items)),
    )


def _newcombe(
    shares: tuple[float, float],
    ends: tuple[tuple[float, float], tuple[float, float]],
    shared: float,
) -> tuple[float, float]:
    """The interval of q - p, two `shares`, from the ends of their own intervals.

    shared: correlation of their errors.
    """
    (p, q), (of_p, of_q) = shares, ends
    down = _joined(q - of_q[0], of_p[1] - p, shared)
    up = _joined(of_q[1] - q, p - of_p[0], shared)
    return max(q - p - down, -1.0), min(q - p + up, 1.0)


def _joined(a: float, b: float, correlation: float) -> float:
    """Length of the difference of two errors that go together."""
    return math.sqrt(max(a**2 - 2 * correlation * a * b + b**2, 0.0))


def _mcnemar(first: int, second: int) -> float:
    if not first + second:
        return 1.0
    return float(stats.binomtest(first, first + second).pvalue)


def _durkalski(sums: Floats, sizes: Codes) -> float:
    """Two-sided p of (k,) clusters' sums of differences. sizes: (k,) items of each."""
    differ = sums != 0
    step = math.lcm(*np.unique(sizes[differ]).tolist())
    weights = np.abs(sums[differ]).astype(np.int64) * (step // sizes[differ])
    if not len(weights):
        return 1.0
    observed = abs(int((np.sign(sums[differ]).astype(np.int64) * weights).sum()))
    each, times = np.unique(weights // (unit := int(np.gcd.reduce(weights))), return_counts=True)
    observed //= unit
    if len(each) == 1:
        few = (times[0] - observed) // 2
        return _mcnemar(int(few), int(times[0] - few))
    if each @ times > MOST_STEPS:
        return float(stats.chi2.sf(observed**2 / float(each.astype(np.float64) ** 2 @ times), 1))
    chances = np.ones(1)  # of the sum of the weights that are exchanged
    for weight, count in zip(each.tolist(), times.tolist(), strict=True):
        pmf = np.zeros(weight * count + 1)
        pmf[::weight] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, pmf)
    distance = np.abs(2 * np.arange(len(chances)) - (len(chances) - 1))
    return float(min(1.0, chances[distance >= observed].sum()))
