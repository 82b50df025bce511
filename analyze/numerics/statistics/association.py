"""How two columns of numbers go together across a few models: coefficient, interval, p.

Intervals are those of Fisher's z = atanh r, with the standard error 1 / sqrt(n - 3 - k), k the
number of columns held constant (Fisher 1924), times sqrt(1 + r^2 / 2) for ranks (Bonett and Wright
2000). p is of the t distribution with n - 2 - k degrees of freedom; of ranks it is at least
2 / n!, the share of perfect orders. With eight models an interval is about one wide: these
functions show how little eight points can tell.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from scipy import stats

from lpp.analyze.numerics.moments import Floats

Method: TypeAlias = Literal["pearson", "spearman", "rank_partial"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)

_Z: Final = float(stats.norm.ppf(0.975))


@dataclass(frozen=True, slots=True, kw_only=True)
class Association:
    """One coefficient with its interval and p."""

    coefficient: float
    """-1 to 1"""
    p_value: float
    """Two-sided, of no association."""
    interval: tuple[float, float] | None
    """95 %; None for a coefficient of -1 or 1, and where n - 3 - k is below 1."""


def associate(method: Method, x: Floats, y: Floats, size: Floats) -> Association | None:
    """`method` between x and y, each (n,), finite; `size` is what `rank_partial` controls for.

    None where it is undefined: x or y constant, or, for the partial, either in the order of size.

    >>> found = associate("pearson", np.arange(5.0), np.array([1.0, 3, 2, 5, 4]), np.ones(5))
    >>> round(found.coefficient, 6)
    0.8
    """
    columns = (x, y) if method != "rank_partial" else (x, y, size)
    n, held = len(x), len(columns) - 2
    values = np.stack(columns if method == "pearson" else [stats.rankdata(v) for v in columns])
    if np.ptp(values, axis=1).min() == 0:
        return None
    r = np.corrcoef(values)
    coefficient = float(r[0, 1])
    if held:
        rest = (1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2)
        if rest < 1e-9:
            return None
        coefficient = float((r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt(rest))
    coefficient = max(-1.0, min(1.0, coefficient))
    df, unexplained = n - 2 - held, 1 - coefficient**2
    perfect = unexplained < 1e-12
    t = math.inf if perfect else abs(coefficient) * math.sqrt(df / unexplained)
    least = 0.0 if method == "pearson" else 2 / math.factorial(n)
    interval = None
    if not perfect and df > 1:
        wider = 1.0 if method == "pearson" else math.sqrt(1 + coefficient**2 / 2)
        half, z = _Z * wider / math.sqrt(df - 1), math.atanh(coefficient)
        interval = math.tanh(z - half), math.tanh(z + half)
    p = max(float(2 * stats.t.sf(t, df)), least)
    return Association(coefficient=coefficient, p_value=p, interval=interval)


def benjamini_hochberg(p_values: list[float]) -> list[float]:
    """The q of each p, over all of them: the smallest false discovery rate that includes it.

    >>> benjamini_hochberg([0.01, 0.02, 0.9])
    [0.03, 0.03, 0.9]
    """
    return [float(q) for q in stats.false_discovery_control(p_values)] if p_values else []
