"""How well a number tells right items from wrong ones: AUROC, its interval, p, a control.

AUROC is the probability that a right item, drawn at random, has the larger value than a wrong one;
ties count half. 0.5: the number says nothing about the answer. Below 0.5: wrong items tend to have
the larger value, and the number is shown as it is.

With groups, such as subjects, only items of one group are compared. That is the mean of the AUROCs
within groups, weighted by the pairs of a right and a wrong item in each: a number that only tells
easy subjects from hard ones is at 0.5.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

from lpp.analyze.numerics.moments import Floats

Flags: TypeAlias = npt.NDArray[np.bool_]
Codes: TypeAlias = npt.NDArray[np.int64]

CONFIDENCE: Final = 0.95
Z: Final = float(stats.norm.ppf(0.5 + CONFIDENCE / 2))

FEWEST_OF_A_GROUP: Final = 2
"""Right items, and also wrong items, that a group needs: a single one has no variance."""

DRAWS: Final = 200
"""Shuffles of the labels for a control."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Auroc:
    """An AUROC with its error, interval and p."""

    value: float
    """0 to 1"""
    stderr: float
    """DeLong's; 0 if right and wrong items are separated perfectly."""
    interval: tuple[float, float] | None
    """95 %, from `stderr` on the scale of the log odds, so that it stays within 0 and 1. None where
    `stderr` is 0: it would claim that no other value is possible."""
    p_value: float
    """Two-sided, of exchangeable labels: Mann and Whitney 1947, normal, corrected for ties; with
    groups the sum over groups, exchangeable within each."""
    n_right: int
    n_wrong: int
    n_groups: int
    """Groups with enough right and enough wrong items; 1 without groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """The AUROC of the same values after the labels were shuffled, many times."""

    mean: float
    low: float
    high: float
    """`low` to `high` holds 95 % of the draws."""


def auroc(values: Floats, right: Flags, groups: Codes | None = None, /) -> Auroc | None:
    """AUROC of `values` for the items that are `right`, with DeLong's standard error.

    values: (n,), finite. right: (n,). groups: (n,) a number for the group of each item; items of a
    group with fewer than `FEWEST_OF_A_GROUP` right or wrong items do not count. None where nothing
    can be compared: too few right or wrong items, or one value for all.

    The placements of DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44, from midranks (Sun and
    Xu 2014): n log n. With groups, given the number of right and wrong items in each, the variance
    is the sum of the groups' variances, each times the square of its weight.

    >>> found = auroc(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False]))
    >>> found.value  # pairs: 3 > 2, 3 > 1, 2 = 2, 2 > 1
    0.875
    """
    strata = list(_strata(values, right, groups))
    pairs = sum(one.pairs for one in strata)
    if not pairs or not any(np.ptp(one.values) for one in strata):
        return None
    value = variance = under_null = 0.0
    for one in strata:
        weight = one.pairs / pairs
        of_right, of_wrong = one.placements()
        value += weight * float(of_right.mean())
        variance += weight**2 * (
            float(of_right.var(ddof=1)) / len(of_right)
            + float(of_wrong.var(ddof=1)) / len(of_wrong)
        )
        under_null += weight**2 * one.null_variance()
    value = min(max(value, 0.0), 1.0)  # rounding
    stderr = math.sqrt(variance)
    return Auroc(
        value=value,
        stderr=stderr,
        interval=_interval(value, stderr),
        p_value=float(2 * stats.norm.sf(abs(value - 0.5) / math.sqrt(under_null))),
        n_right=sum(int(one.right.sum()) for one in strata),
        n_wrong=sum(int((~one.right).sum()) for one in strata),
        n_groups=len(strata),
    )


def shuffled(
    values: Floats,
    right: Flags,
    groups: Codes | None = None,
    /,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Control | None:
    """What `auroc` of these values gives when labels are shuffled: within groups where given.

    None where `auroc` is None. Cost: draws n multiply-adds; memory: 9 bytes for each item and draw.
    """
    strata = list(_strata(values, right, groups))
    pairs = sum(one.pairs for one in strata)
    if not pairs or not any(np.ptp(one.values) for one in strata):
        return None
    generator = np.random.default_rng(seed)
    wins = np.zeros(draws)
    for one in strata:
        n_right = int(one.right.sum())
        labels = generator.permuted(np.tile(one.right, (draws, 1)), axis=1)
        wins += labels @ one.ranks() - n_right * (n_right + 1) / 2
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

    @property
    def pairs(self) -> int:
        """Pairs of a right and a wrong item."""
        n_right = int(self.right.sum())
        return n_right * (len(self.right) - n_right)

    def ranks(self) -> Floats:
        """(n,) midranks among all items."""
        ranks: Floats = stats.rankdata(self.values)
        return ranks

    def placements(self) -> tuple[Floats, Floats]:
        """(m,) share of wrong items below each right one; (n,) of right items above each wrong one;
        ties half. The mean of either is the AUROC.
        """
        ranks = self.ranks()
        right, wrong = self.values[self.right], self.values[~self.right]
        below = (ranks[self.right] - stats.rankdata(right)) / len(wrong)
        above = 1 - (ranks[~self.right] - stats.rankdata(wrong)) / len(right)
        return below, above

    def null_variance(self) -> float:
        """Variance of the AUROC over all orders of the labels, ties counted."""
        n, pairs = len(self.values), self.pairs
        ties = np.unique(self.values, return_counts=True)[1].astype(np.float64)
        correction = float((ties**3 - ties).sum()) / (n * (n - 1))
        return (n + 1 - correction) / (12 * pairs)


def _strata(values: Floats, right: Flags, groups: Codes | None) -> Iterator[_Stratum]:
    """The groups with enough items of both kinds."""
    codes = np.zeros(len(values), dtype=np.int64) if groups is None else groups
    for code in np.unique(codes):
        here = codes == code
        n_right = int(right[here].sum())
        if min(n_right, int(here.sum()) - n_right) >= FEWEST_OF_A_GROUP:
            yield _Stratum(values[here].astype(np.float64), right[here])


def _interval(value: float, stderr: float) -> tuple[float, float] | None:
    """Wald's interval of ln(value / (1 - value)), taken back; Pepe 2003, section 5.2.

    Simulated with 100 right and 50 wrong items at a true value of 0.76, 28,000 samples: it held the
    true value in 95.4 %, Wald's on the plain scale in 94.5 %.
    """
    if stderr == 0 or not 0 < value < 1:
        return None
    middle = math.log(value / (1 - value))
    half = Z * stderr / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-end)) for end in (middle - half, middle + half))
    return low, high
