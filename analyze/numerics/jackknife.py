"""The standard error of a number over prompts, and Student's interval.

The delete-a-group jackknife (Kott 2001; Efron and Tibshirani 1993, chapter 11) computes a number
again without each of G groups of prompts: the standard error is
sqrt((G - 1) / G sum (theta_g - mean theta)^2), with G - 1 degrees of freedom. It needs no
formula for the number itself. Tokens of one prompt are no independent sample, prompts are: so it
is prompts that leave, whole. An interval is for the number at hand, in expectation over prompts of
the same kind and number: spectra grow with the sample, and no interval knows that.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

LEVEL: Final = 0.95
"""Level of every interval."""

LARGEST_LOG: Final = 709.0
"""No float64 holds the exponential of more than 709.78."""


class Estimate(NamedTuple):
    """A number and its error; None where there is none."""

    value: float | None
    stderr: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    groups: tuple[float, ...] = ()
    """The value again without each group of prompts, (G,), where a jackknife was made."""


ERRORS: Final = Estimate._fields[1:4]
"""The columns that follow a value."""


def error_names(metric: str) -> tuple[str, ...]:
    """Columns beside the column of `metric`.

    >>> error_names("entropy")
    ('entropy_stderr', 'entropy_ci_low', 'entropy_ci_high')
    """
    return tuple(f"{metric}_{name}" for name in ERRORS)


def student(
    value: float,
    stderr: float,
    freedom: int,
    limits: tuple[float, float] = (-math.inf, math.inf),
    level: float = LEVEL,
    *,
    of_log: bool = False,
) -> Estimate:
    """`value` with Student's interval of `level`; without both if value or error is not finite.
    limits: least and largest possible value; the interval is cut there. of_log: the interval is
    that of the logarithm, exponentiated.

    >>> [round(number, 3) for number in student(10.0, 1.0, freedom=9)[:4]]
    [10.0, 1.0, 7.738, 12.262]
    >>> student(0.9, 0.1, freedom=9, limits=(0.0, 1.0)).ci_high
    1.0
    >>> round(student(10.0, 1.0, freedom=9, level=0.98).ci_low, 3)
    7.179
    """
    if not math.isfinite(value):
        return Estimate(None)
    if freedom < 1 or not math.isfinite(stderr):
        return Estimate(value)
    from scipy.special import stdtrit

    half = float(stdtrit(freedom, (1 + level) / 2)) * stderr
    low, high = limits
    ends = [value - half, value + half]
    if of_log:
        ends = [value * math.exp(min(end / value - 1, LARGEST_LOG)) for end in ends]
    ends = [min(max(end, low), high) for end in ends]
    return Estimate(value, stderr, ends[0], ends[1])


def clustered_error(
    values: npt.NDArray[np.float64], clusters: npt.NDArray[np.integer]
) -> tuple[float, int]:
    """Standard error of the mean of `values`, (n,), and its degrees of freedom, C - 1.

    clusters: (n,) cluster of each value. sqrt(C / (C - 1) sum_c (sum_{i in c} (x_i - mean))^2) / n:
    the sandwich estimate for a mean (Liang and Zeger 1986) with its factor for few clusters. NaN
    with fewer than two clusters. Clusters of one give the usual error.

    >>> error, freedom = clustered_error(np.array([1.0, 1.0, 3.0, 3.0]), np.array([0, 0, 1, 1]))
    >>> error, freedom  # two independent values, not four
    (1.0, 1)
    """
    _, cluster = np.unique(clusters, return_inverse=True)
    sums = np.bincount(cluster, values - values.mean())
    count = len(sums)
    if count < 2:
        return math.nan, 0
    squares = float(np.square(sums).sum())
    return math.sqrt(count / (count - 1) * squares) / len(values), count - 1


_DRAWS: Final = 1000
"""Resamples of a bootstrap."""

MOST_RESAMPLED: Final = 1000
"""For more prompts the bias of an extreme is not computed: it is below 1/100 of its error."""


def floor_bias(values: npt.NDArray[np.float64], clusters: npt.NDArray[np.integer]) -> float:
    """Bias of the least of several means, by the bootstrap over clusters: the mean least mean of
    resamples, minus the least mean (Efron and Tibshirani 1993, chapter 10). 0 or below; NaN for
    values that are not finite, and for more than `MOST_RESAMPLED` clusters.

    values: (L, n) of n prompts at L prefixes. clusters: (n,) of the prompts.

    >>> floor_bias(np.array([[0.0, 2.0], [9.0, 9.0]]), np.arange(2))  # one mean is least always
    0.0
    """
    _, cluster = np.unique(clusters, return_inverse=True)
    count = int(cluster.max(initial=-1)) + 1
    if not 2 <= count <= MOST_RESAMPLED or not np.isfinite(values).all():
        return math.nan
    sums = np.stack([np.bincount(cluster, row, minlength=count) for row in values], axis=1)
    sizes = np.bincount(cluster, minlength=count)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=_DRAWS)
    means = (drawn @ sums) / (drawn @ sizes)[:, None]
    # less the mean at one prefix, whose expectation is known: a smaller sampling error
    return float((means.min(axis=1) - means[:, values.mean(axis=1).argmin()]).mean())


def jackknife(
    value: float,
    replicates: Sequence[float],
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> Estimate:
    """`value` with its error. replicates: (G,) the same number without each of G groups.

    limits: as for `student`.
    No error from fewer than two groups, or where the number does not exist without one of them.

    >>> jackknife(3.0, [2.0, 4.0]).stderr  # sqrt(1/2 (1 + 1))
    1.0
    """
    parts = np.asarray(replicates, dtype=np.float64)
    if len(parts) < 2 or not np.isfinite(parts).all():
        return student(value, math.nan, 0)
    weight = (len(parts) - 1) / len(parts)
    squares = float(np.square(parts - parts.mean()).sum())
    estimate = student(value, math.sqrt(weight * squares), len(parts) - 1, limits)
    return estimate if estimate.stderr is None else estimate._replace(groups=tuple(parts.tolist()))


def jackknife_of_log(value: float, replicates: Sequence[float], least: float = 0.0) -> Estimate:
    """`jackknife` of a number above 0 that is the exponential of a mean, such as a perplexity.

    The interval is that of the logarithm, exponentiated: its ends are above 0, and as many times
    below the value as above, or `least`. The standard error is that of the number itself.

    >>> [round(end, 1) for end in jackknife_of_log(8.0, [7.0, 64 / 7])[2:4]]  # ln 8 -+ 12.7 ln 8/7
    [1.5, 43.6]
    """
    plain = jackknife(value, replicates)
    if plain.stderr is None or min(value, *replicates) <= 0:
        return plain._replace(ci_low=None, ci_high=None)
    ends = jackknife(math.log(value), [math.log(part) for part in replicates])[2:4]
    low, high = (
        None if end is None else max(least, math.exp(min(end, LARGEST_LOG))) for end in ends
    )
    return plain._replace(ci_low=low, ci_high=high)


def jackknife_difference(
    first: Estimate, second: Estimate, limits: tuple[float, float] = (-math.inf, math.inf)
) -> Estimate:
    """`first` minus `second`, with the paired error: the same group of prompts is left out of both.

    No number where either is none, no error where either has none.

    >>> both = jackknife(3.0, [2.0, 4.0]), jackknife(1.0, [0.0, 2.0])
    >>> jackknife_difference(*both)[:2]  # the groups move both alike
    (2.0, 0.0)
    """
    if first.value is None or second.value is None:
        return Estimate(None)
    parts = [a - b for a, b in zip(first.groups, second.groups, strict=False)]
    return jackknife(first.value - second.value, parts, limits)
