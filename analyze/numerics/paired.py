"""Two accuracies over the same items: their difference, its interval, and an exact p."""

import math
from dataclasses import dataclass

from scipy import stats

from lpp.analyze.numerics.auroc import CONFIDENCE


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
    """Of the difference, 95 %: Newcombe 1998."""
    p_value: float
    """Two-sided, exact, of two equal proportions: McNemar 1947; 1 where no item differs."""


def paired_difference(both: int, first: int, second: int, neither: int, /) -> PairedDifference:
    """The difference of two proportions from the four counts of a paired 2x2 table.

    both, first, second, neither: items with the property in both, in the first alone, in the second
    alone, in neither. One item or more: ValueError.

    Interval: method 10 of Newcombe 1998, Statistics in Medicine 17, 2635. It joins Wilson's
    intervals of the two proportions, less what they share: their correlation over items. p:
    McNemar's test without an approximation, `first` of `first + second` against one half.

    >>> found = paired_difference(36, 12, 2, 0)
    >>> found.difference, [round(end, 4) for end in found.interval], round(found.p_value, 4)
    (-0.2, [-0.3404, -0.0569], 0.0129)
    """
    n = both + first + second + neither
    if min(both, first, second, neither) < 0 or not n:
        raise ValueError(f"counts {both}, {first}, {second}, {neither}: n should be 1 or more")
    with_first, with_second = both + first, both + second
    p, q = with_first / n, with_second / n
    difference = (second - first) / n
    low, high = _wilson(with_first, n)
    other_low, other_high = _wilson(with_second, n)
    shared = _correlation(both, first, second, neither)
    down = _joined(q - other_low, high - p, shared)
    up = _joined(other_high - q, p - low, shared)
    return PairedDifference(
        n=n,
        first=p,
        second=q,
        difference=difference,
        interval=(max(difference - down, -1.0), min(difference + up, 1.0)),
        p_value=_mcnemar(first, second),
    )


def _wilson(count: int, n: int) -> tuple[float, float]:
    interval = stats.binomtest(count, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def _correlation(both: int, first: int, second: int, neither: int) -> float:
    """Phi of the table, moved towards 0 by Newcombe's correction where it is positive."""
    product: float = both * neither - first * second
    if product > 0:
        product = max(product - (both + first + second + neither) / 2, 0)
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    return product / math.sqrt(margins) if margins else 0.0


def _joined(one: float, other: float, correlation: float) -> float:
    """Length of the difference of two errors that go together."""
    return math.sqrt(max(one**2 - 2 * correlation * one * other + other**2, 0.0))


def _mcnemar(first: int, second: int) -> float:
    if not first + second:
        return 1.0
    return float(stats.binomtest(first, first + second).pvalue)
