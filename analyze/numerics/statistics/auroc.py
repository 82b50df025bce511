"""How well a number tells right items from wrong ones: AUROC, its interval, p, a control.

AUROC is the probability that a right item, drawn at random, has the larger value than a wrong one;
ties count half. 0.5: the number says nothing about the answer. Below 0.5: wrong items tend to have
the larger value, and the number is shown as it is.

With groups, such as subjects, only items of one group are compared. That is the mean of the AUROCs
within groups, weighted by the pairs of a right and a wrong item in each: a number that only tells
easy subjects from hard ones is at 0.5.

With clusters, such as scenes, items of one cluster may share luck, and clusters are independent: an
error adds up what the items of a cluster contribute before it squares. A cluster may have items of
several groups. Without clusters every item is one of its own.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

from lpp.analyze.numerics.moments import Floats

Flags: TypeAlias = npt.NDArray[np.bool_]
Codes: TypeAlias = npt.NDArray[np.int64]

CONFIDENCE: Final = 0.95
Z: Final = float(stats.norm.ppf(0.5 + CONFIDENCE / 2))

FEWEST_OF_A_GROUP: Final = 2
"""Clusters with right items, and also with wrong items, that a group needs: a single one has no
variance. Without clusters, items."""

_DRAWS: Final = 200
"""Shuffles of the labels for a control."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Auroc:
    """An AUROC with its error, interval and p."""

    value: float
    """0 to 1"""
    stderr: float
    """DeLong's, with clusters Obuchowski's; 0 if right and wrong items are separated perfectly."""
    interval: tuple[float, float] | None
    """95 %, from `stderr` on the scale of the log odds, so that it stays within 0 and 1. None where
    `stderr` is 0: it would claim that no other value is possible."""
    p_value: float
    """Two-sided, of exchangeable labels: Mann and Whitney 1947, normal, corrected for ties; with
    groups the sum over groups, exchangeable within each; with clusters the labels of whole clusters
    are exchangeable, and those inside a cluster."""
    n_groups: int
    """Groups with enough right and enough wrong items; 1 without groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """The AUROC of the same values after the labels were shuffled, many times."""

    mean: float
    low: float
    high: float
    """`low` to `high` holds 95 % of the draws."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """How much farther from 0.5 the AUROC of a feature is than that of another one."""

    value: float
    """-0.5 to 0.5; between two AUROCs as they are, -1 to 1"""
    stderr: float
    """0 where the two do not differ in any placement."""
    interval: tuple[float, float]
    """95 %, normal; one point where `stderr` is 0."""
    p_value: float
    """Two-sided, of no gain."""


def auroc(
    values: Floats, right: Flags, groups: Codes | None = None, clusters: Codes | None = None, /
) -> Auroc | None:
    """AUROC of `values` for the items that are `right`, with DeLong's standard error.

    values: (n,), finite. right: (n,). groups, clusters: (n,) a number for the group, and for the
    cluster, of each item; items of a group with fewer than `FEWEST_OF_A_GROUP` clusters of right or
    of wrong items do not count. None where nothing can be compared: too few right or wrong items,
    or one value for all.

    The placements of DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44, from midranks (Sun and
    Xu 2014): n log n. With clusters the error is that of sums of placements over a cluster
    (Obuchowski 1997, Biometrics 53). With groups, given the number of right and wrong items in
    each, a placement counts with its group's weight.

    >>> result = auroc(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False]))
    >>> result.value  # pairs: 3 > 2, 3 > 1, 2 = 2, 2 > 1
    0.875
    """
    strata = list(_strata(values, right, groups, clusters))
    pairs = sum(stratum.pairs for stratum in strata)
    if not pairs or not any(np.ptp(stratum.values) for stratum in strata):
        return None
    value, parts = _placed(strata)
    value = min(max(value, 0.0), 1.0)  # rounding
    stderr = math.sqrt(_variance(parts))
    under_null = _null_variance(strata) / pairs**2
    return Auroc(
        value=value,
        stderr=stderr,
        interval=log_odds_interval(value, stderr),
        p_value=float(2 * stats.norm.sf(abs(value - 0.5) / math.sqrt(under_null))),
        n_groups=len(strata),
    )


def gain(
    values: Floats,
    other: Floats,
    right: Flags,
    groups: Codes | None = None,
    clusters: Codes | None = None,
    /,
    *,
    either_side: bool = True,
) -> Gain | None:
    """How much farther from 0.5 the AUROC of `values` is than that of `other`, of the same items.

    Both may be on either side of 0.5. either_side: if False, how much larger the AUROC is, for
    scores whose sign was fitted to other items. other: (n,), finite; the rest is as in `auroc`.
    None where nothing can be compared. The two AUROCs are paired: the error is that of the
    difference of their placements (DeLong, DeLong and Clarke-Pearson 1988), summed over clusters.
    """
    both = [list(_strata(scores, right, groups, clusters)) for scores in (values, other)]
    if not both[0]:
        return None
    (first, first_parts), (second, second_parts) = map(_placed, both)
    signs = [math.copysign(1.0, area - 0.5) if either_side else 1.0 for area in (first, second)]
    value = signs[0] * (first - 0.5) - signs[1] * (second - 0.5)
    stderr = math.sqrt(
        _variance(
            [
                _Part(signs[0] * x.sums - signs[1] * y.sums, x.n_clusters)
                for x, y in zip(first_parts, second_parts, strict=True)
            ]
        )
    )
    return Gain(
        value=value,
        stderr=stderr,
        interval=(value - Z * stderr, value + Z * stderr),
        p_value=float(2 * stats.norm.sf(abs(value) / stderr)) if stderr else float(not value),
    )


def shuffled(
    values: Floats,
    right: Flags,
    groups: Codes | None = None,
    clusters: Codes | None = None,
    /,
    *,
    draws: int = _DRAWS,
    seed: int = 0,
) -> Control | None:
    """What `auroc` of these values gives when labels are shuffled: within groups where given.

    With clusters, a cluster gets the labels of another one, in an order of their own; where
    clusters differ in size, as far as they reach, and then those of the next one. None where
    `auroc` is None. Cost: draws n multiply-adds; memory: 9 bytes for each item and draw, with
    clusters 33, and draws n log n to sort.
    """
    strata = list(_strata(values, right, groups, clusters))
    pairs = sum(stratum.pairs for stratum in strata)
    if not pairs or not any(np.ptp(stratum.values) for stratum in strata):
        return None
    generator = np.random.default_rng(seed)
    wins = np.zeros(draws)
    n_clusters = strata[0].n_clusters
    alone = n_clusters == len(values)
    turns = np.empty(0) if alone else generator.random((draws, n_clusters))
    for stratum in strata:
        n_right = int(stratum.right.sum())
        ranks = stratum.ranks()
        if alone:
            labels = generator.permuted(np.tile(stratum.right, (draws, 1)), axis=1)
        else:  # a cluster has the same turn in every group
            inside = generator.random((draws, len(stratum.right)))
            labels = stratum.right[np.lexsort((inside, turns[:, stratum.clusters]))]
            ranks = ranks[np.argsort(stratum.clusters, kind="stable")]
        wins += labels @ ranks - n_right * (n_right + 1) / 2
    drawn = wins / pairs
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Control(mean=float(drawn.mean()), low=float(low), high=float(high))


def residual_ranks(
    values: Floats, covariates: Floats, groups: Codes | None = None, /
) -> Floats | None:
    """(n,) residuals of a linear regression of the ranks of `values` on those of `covariates`.

    covariates: (n, k), finite. groups: (n,) a number for the group of each item. Ranks are then
    those within a group, less their mean: otherwise covariates that differ between groups would
    order the items within one. None where the regression leaves nothing but rounding. The labels
    take no part in it. As in a partial rank correlation, the covariates' part is taken out as far
    as it is linear in ranks; Janes and Pepe 2009, Biometrika 96, on AUROC adjusted for covariates.

    >>> values = np.array([1.0, 2.0, 3.0, 4.0])
    >>> residual_ranks(values, values[:, None] ** 3) is None
    True
    """
    columns = np.column_stack([values, covariates])
    n = len(columns)
    codes = np.zeros(n, dtype=np.int64) if groups is None else groups
    ranks = np.empty(columns.shape)
    for code in np.unique(codes):
        here = codes == code
        count = int(here.sum())
        # ranks of a small group reach as far as those of a large one
        ranks[here] = (stats.rankdata(columns[here], axis=0) - (count + 1) / 2) * (n / count)
    design = ranks[:, 1:]
    rest: Floats = ranks[:, 0] - design @ np.linalg.lstsq(design, ranks[:, 0], rcond=None)[0]
    if np.abs(rest).max(initial=0.0) <= 1e-9 * n:
        return None
    # equal items are left with equal values, but for rounding: it must not order them
    return np.round(rest, 9)


def tied_share(values: Floats, right: Flags, /) -> float:
    """Share of the pairs of a right and a wrong item whose values are equal.

    A regression on covariates orders tied items by the covariates, which the feature does not.
    Simulated with 200 items, labels that depend on the covariate, and features that depend on
    nothing: the 95 % interval of the AUROC of `residual_ranks` left 0.5 out in 71 % of 300 samples
    for a feature of two values, in 43 % where 60 % of the items had one value, in 10 % for four
    values; in 2 % for a tenth of tied pairs, and for none.

    >>> tied_share(np.array([1.0, 2.0, 2.0]), np.array([True, True, False]))
    0.5
    """
    _, codes = np.unique(values, return_inverse=True)
    n_right, n_wrong = np.bincount(codes, right), np.bincount(codes, ~right)
    return float((n_right * n_wrong).sum() / (n_right.sum() * n_wrong.sum()))


@dataclass(frozen=True, slots=True)
class _Stratum:
    """Items that are compared with each other."""

    values: Floats
    right: Flags
    clusters: Codes
    """(n,) 0 to `n_clusters` - 1"""
    n_clusters: int
    """Clusters of all items, also those of other strata."""

    @property
    def pairs(self) -> int:
        """Pairs of a right and a wrong item."""
        n_right = int(self.right.sum())
        return n_right * (len(self.right) - n_right)

    def ranks(self) -> Floats:
        """(n,) midranks among all items."""
        return _midranks(self.values)

    def placements(self) -> tuple[Floats, Floats]:
        """(m,) share of wrong items below each right one; (n,) of right items above each wrong one;
        ties half. The mean of either is the AUROC.
        """
        ranks = self.ranks()
        right, wrong = self.values[self.right], self.values[~self.right]
        below = (ranks[self.right] - _midranks(right)) / len(wrong)
        above = 1 - (ranks[~self.right] - _midranks(wrong)) / len(right)
        return below, above

    def of_clusters(self, numbers: Floats) -> Floats:
        """(n_clusters,) sums over each cluster of (n,) numbers."""
        return np.bincount(self.clusters, numbers, self.n_clusters).astype(np.float64)


def _midranks(values: Floats) -> Floats:
    """(n,) ranks from 1, ties their mean: SciPy's rankdata, in a third of its time for few items.

    >>> _midranks(np.array([2.0, 1.0, 2.0])).tolist()
    [2.5, 1.0, 2.5]
    """
    _, level, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (counts.cumsum() - (counts - 1) / 2)[level]
    return ranks


def _strata(
    values: Floats, right: Flags, groups: Codes | None, clusters: Codes | None
) -> Iterator[_Stratum]:
    """The groups with enough items of both kinds."""
    n = len(values)
    codes = np.zeros(n, dtype=np.int64) if groups is None else groups
    of_items = np.arange(n) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    n_clusters = int(of_items.max(initial=-1)) + 1
    for code in np.unique(codes):
        here = codes == code
        labels, of_group = right[here], of_items[here]
        kinds = [len(np.unique(of_group[kind])) for kind in (labels, ~labels)]
        if min(kinds) >= FEWEST_OF_A_GROUP:
            yield _Stratum(values[here].astype(np.float64), labels, of_group, n_clusters)


class _Part(NamedTuple):
    """What clusters contribute to the error of an AUROC by the right, or by the wrong, items of a
    stratum.
    """

    sums: Floats
    """(n_clusters,) sums of placements less their mean, over the items of the kind, times the
    stratum's weight."""
    n_clusters: int
    """Clusters that have such items."""


def _placed(strata: Sequence[_Stratum]) -> tuple[float, list[_Part]]:
    """The AUROC, and two parts of each stratum."""
    pairs = sum(stratum.pairs for stratum in strata)
    value, parts = 0.0, []
    for stratum in strata:
        weight = stratum.pairs / pairs
        placed = stratum.placements()
        value += weight * float(placed[0].mean())
        for kind, placements in zip((stratum.right, ~stratum.right), placed, strict=True):
            away = np.zeros(len(kind))
            away[kind] = (placements - placements.mean()) * (weight / len(placements))
            count = len(np.unique(stratum.clusters[kind]))
            parts.append(_Part(stratum.of_clusters(away), count))
    return value, parts


def _variance(parts: Sequence[_Part]) -> float:
    """Obuchowski 1997, with a pair of parts for each group; DeLong's where clusters are items."""
    together = np.zeros_like(parts[0].sums)
    variance = apart = 0.0
    for sums, count in parts:
        squares = float(sums @ sums)
        together += sums
        apart += squares
        variance += squares * count / (count - 1)
    k = len(together)
    return max(0.0, variance + (float(together @ together) - apart) * k / (k - 1))


def _null_variance(strata: Sequence[_Stratum]) -> float:
    """Variance of the sum of ranks of right items over all orders of the labels, ties counted.

    Labels, less the share of right items, have one covariance within clusters and another one
    between clusters: the means over the pairs of items, which sum to 0 over all pairs. Where
    clusters are of one size, this is the variance over all ways to exchange the labels of whole
    clusters, and those inside clusters; where they are items, that of Mann and Whitney. Over items
    of one cluster in different groups a further mean counts.
    """
    of_groups = variance = 0.0
    across = np.zeros((3, strata[0].n_clusters))  # sums over groups: labels, ranks, items
    inside = np.zeros(4)  # squares of the same within groups, and of the groups' sizes
    for stratum in strata:
        n = len(stratum.values)
        ranks, labels = stratum.ranks() - (n + 1) / 2, stratum.right - stratum.right.mean()
        sums = np.stack([stratum.of_clusters(numbers) for numbers in (labels, ranks, np.ones(n))])
        across += sums
        q, b, n_pairs = np.vecdot(sums, sums)
        inside += q, b, n_pairs, n**2
        v, s = float(labels @ labels) / n, float(ranks @ ranks)
        largest = sums[2].max()
        within = 0.0
        if largest > 1:
            within = min(max((q - n * v) / (n_pairs - n), -v / (largest - 1)), v)
        between = -(n * v + (n_pairs - n) * within) / (n**2 - n_pairs)
        of_groups += v * s + within * (b - s) - between * b
    q, b, n_pairs = np.vecdot(across, across) - inside[:3]
    variance = of_groups
    if n_pairs > 0:
        others = across[2].sum() ** 2 - inside[3] - n_pairs
        variance += b * q * (1 / n_pairs + (1 / others if others > 0 else 0.0))
    return variance if variance > 0 else of_groups


def log_odds_interval(value: float, stderr: float, /) -> tuple[float, float] | None:
    """95 % interval of an AUROC: Wald's of ln(value / (1 - value)), taken back; Pepe 2003, section
    5.2. None for an error of 0, and at 0 and 1.

    Simulated with 100 right and 50 wrong items at a true value of 0.76, 28,000 samples: it held the
    true value in 95.4 %, Wald's on the plain scale in 94.5 %.
    """
    if stderr == 0 or not 0 < value < 1:
        return None
    middle = math.log(value / (1 - value))
    half = Z * stderr / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-end)) for end in (middle - half, middle + half))
    return low, high
