"""The final norm of a model, recovered from rows before and after it.

A norm scales each row x of d columns, then each column:

    RMSNorm      w x / s            s^2 = mean(x^2) + epsilon          Zhang and Sennrich 2019
    LayerNorm    w (x - m) / s + b  m = mean(x), s^2 = var(x) + epsilon        Ba et al. 2016

A column after the norm is linear in the same column of the scaled rows, so w and b follow by least
squares, a column at a time. Kind and epsilon are those that fit best. That some families store w
less 1 makes no difference.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from lpp.analyze.numerics.moments import Floats, Rows
from lpp.store.shared.logits import EPSILON, Float32

Kind = Literal["RMSNorm", "LayerNorm"]

EPSILONS: Final = (1e-5, 1e-6, 1e-8, 1e-12)
"""Epsilons in use, the most common first. Large rows do not distinguish them, and need not."""

AS_GOOD: Final = 1.01
"""Times the least sum of squared errors: below that the first candidate counts, since the rounding
of the rows decides which has the least.
"""

HELD_OUT: Final = 3
"""Every third row is left out of the fit, for checking."""

FEWEST_ROWS: Final = 2 * HELD_OUT

ROUNDINGS: Final = 4
"""Most roundings of a value, each by half a unit in its last place: the row before, scaled, times
w, and the row after.
"""

LEAST_TOLERANCE: Final = 1e-5
"""Kernels of float32 differ by less, and kinds of norm by more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalNorm:
    """A norm, and how well it reproduces the rows after it."""

    kind: Kind
    epsilon: float
    weight: Floats
    """(d,) w."""
    bias: Floats
    """(d,) b; 0 of an RMSNorm."""
    error: float
    """Largest relative error of a row that was not fitted: |row - after| / size, where size is that
    of the numbers that are added up: |w (|x| + |m|) / s| + |b|.
    """

    def apply(self, rows: Rows) -> Float32:
        """(n, d) rows after the norm, computed in float64."""
        after: Float32 = (_scaled(rows, self.kind, self.epsilon) * self.weight + self.bias).astype(
            np.float32
        )
        return after


def best_norm(before: Rows, after: Rows, /) -> FinalNorm:
    """The norm that maps `before` to `after` with the least error, (n, d) finite rows each. Even
    the best one may be poor: compare its `error` with `tolerance`. Fitted on two rows of three. In
    float64; cost: some tens of passes over n d values. ValueError for fewer than `FEWEST_ROWS`
    rows, and for different shapes.

    >>> rows = np.random.default_rng(0).normal(size=(12, 4))
    >>> norm = best_norm(rows, 3 * rows / np.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-5))
    >>> norm.kind, norm.epsilon, norm.weight.round(6).tolist()
    ('RMSNorm', 1e-05, [3.0, 3.0, 3.0, 3.0])
    """
    if before.shape != after.shape or len(before) < FEWEST_ROWS:
        raise ValueError(f"rows of {before.shape} and {after.shape}")
    checked = np.arange(len(before)) % HELD_OUT == HELD_OUT - 1
    x, y = before.astype(np.float64), after.astype(np.float64)
    fits = [_fitted(x[~checked], y[~checked], *candidate) for candidate in _candidates()]
    least = min(misfit for misfit, _ in fits)
    norm = next((fit for misfit, fit in fits if misfit <= AS_GOOD * least), fits[0][1])
    return replace(norm, error=float(_errors(norm, x[checked], y[checked]).max()))


def tolerance(*dtypes: str) -> float:
    """The most that a norm may be off whose rows are rounded to `dtypes`, as computed and stored.

    >>> tolerance("bfloat16", "float32"), tolerance("float32")
    (0.015625, 1e-05)
    """
    units = (unit for dtype, unit in EPSILON.items() if dtype in dtypes)
    return max(LEAST_TOLERANCE, *(ROUNDINGS * unit / 2 for unit in units))


def _candidates() -> Iterator[tuple[Kind, float]]:
    for epsilon in EPSILONS:
        yield "RMSNorm", epsilon
        yield "LayerNorm", epsilon


def _scaled(rows: Rows, kind: Kind, epsilon: float) -> Floats:
    x = rows.astype(np.float64)
    if kind == "LayerNorm":
        x -= x.mean(axis=1, keepdims=True)
    x /= np.sqrt((x**2).mean(axis=1, keepdims=True) + epsilon)
    return x


def _fitted(x: Floats, y: Floats, kind: Kind, epsilon: float) -> tuple[float, FinalNorm]:
    """Sum of squared errors, and the norm; its `error` is not known yet."""
    scaled = _scaled(x, kind, epsilon)
    mean = bias = np.zeros(x.shape[1])
    if kind == "LayerNorm":
        mean, bias = scaled.mean(axis=0), y.mean(axis=0)
    scaled -= mean
    rest = y - bias
    squares = (scaled**2).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = np.where(squares > 0, (scaled * rest).sum(axis=0) / squares, 0.0)
    rest -= scaled * weight
    norm = FinalNorm(
        kind=kind, epsilon=epsilon, weight=weight, bias=bias - weight * mean, error=np.nan
    )
    return float((rest**2).sum()), norm


def _errors(norm: FinalNorm, x: Floats, y: Floats) -> Floats:
    """(n,) `FinalNorm.error` of each row."""
    away = np.linalg.norm(norm.weight * _scaled(x, norm.kind, norm.epsilon) + norm.bias - y, axis=1)
    mean = x.mean(axis=1, keepdims=True) if norm.kind == "LayerNorm" else np.zeros((len(x), 1))
    scale = np.sqrt(((x - mean) ** 2).mean(axis=1, keepdims=True) + norm.epsilon)
    size = np.linalg.norm(norm.weight * (np.abs(x) + np.abs(mean)) / scale, axis=1)
    size += np.linalg.norm(norm.bias)
    with np.errstate(invalid="ignore", divide="ignore"):
        errors: Floats = np.where(away == 0, 0.0, away / size)
    return errors
