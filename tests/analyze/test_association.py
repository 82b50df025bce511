"""Coefficients, p and intervals against slow references and by hand."""

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lpp.analyze.numerics.statistics.association import (
    METHODS,
    Method,
    associate,
    benjamini_hochberg,
)

Vector = npt.NDArray[np.float64]
SIZE = np.array([0.5, 1.5, 14.0, 3.0, 7.0, 3.0, 8.0, 7.0])


def vectors(n: int, seed: int) -> tuple[Vector, Vector, Vector]:
    """x, y and a size that drives both, rounded so that there are ties."""
    rng = np.random.default_rng(seed)
    size = rng.normal(size=n).round(1)
    x, y = ((0.3 * size + rng.normal(size=n)).round(1) for _ in range(2))
    return x, y, size


def slow_ranks(values: Vector) -> Vector:
    """Mean place of each value, by counting."""
    return np.array([sum(v < w for v in values) + (sum(values == w) + 1) / 2 for w in values])


def slow_pearson(x: Vector, y: Vector) -> float:
    dx, dy = x - sum(x) / len(x), y - sum(y) / len(y)
    return float(sum(dx * dy) / math.sqrt(sum(dx * dx) * sum(dy * dy)))


def residuals(y: Vector, size: Vector) -> Vector:
    """What a straight line through `size` leaves of y."""
    x = size - size.mean()
    slope = sum(x * y) / sum(x**2)
    left: Vector = y - y.mean() - slope * x
    return left


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [5, 7, 12])
def test_against_slow_references(n: int, seed: int) -> None:
    x, y, size = vectors(n, seed)
    found = {m: associate(m, x, y, size) for m in METHODS}
    rx, ry, rs = map(slow_ranks, (x, y, size))
    expected = {
        "pearson": slow_pearson(x, y),
        "spearman": slow_pearson(rx, ry),
        "rank_partial": slow_pearson(residuals(rx, rs), residuals(ry, rs)),
    }
    for method, coefficient in expected.items():
        one = found[method]  # type: ignore[index]
        assert one is not None
        assert one.coefficient == pytest.approx(coefficient, abs=1e-12)
        df = n - 2 - (method == "rank_partial")
        t = coefficient * math.sqrt(df / (1 - coefficient**2))
        least = 0 if method == "pearson" else 2 / math.factorial(n)
        p = max(least, 2 * stats.t.sf(abs(t), df))
        assert one.p_value == pytest.approx(p, rel=1e-9)
        assert one.interval is not None
        assert -1 < one.interval[0] < one.coefficient < one.interval[1] < 1
    linear, ranks = found["pearson"], found["spearman"]
    assert linear is not None
    assert ranks is not None
    assert linear.interval == pytest.approx(stats.pearsonr(x, y).confidence_interval(), rel=1e-9)
    z = math.atanh(ranks.coefficient)
    half = 1.959963985 * math.sqrt((1 + ranks.coefficient**2 / 2) / (n - 3))
    assert ranks.interval == pytest.approx((math.tanh(z - half), math.tanh(z + half)), rel=1e-6)


def solved(rows: list[list[Fraction]]) -> list[Fraction]:
    """The solution of linear equations given with their right sides, by elimination."""
    rows = [row[:] for row in rows]
    for k in range(len(rows)):
        pivot = next(i for i in range(k, len(rows)) if rows[i][k])
        rows[k], rows[pivot] = rows[pivot], rows[k]
        rows[k] = [value / rows[k][k] for value in rows[k]]
        for i in range(len(rows)):
            if i != k:
                rows[i] = [a - rows[i][k] * b for a, b in zip(rows[i], rows[k], strict=True)]
    return [row[-1] for row in rows]


def unexplained(y: list[Fraction], *columns: list[Fraction]) -> Fraction:
    """Sum of squares that a regression of y on the columns leaves, from normal equations."""

    def dot(a: list[Fraction], b: list[Fraction]) -> Fraction:
        return sum((p * q for p, q in zip(a, b, strict=True)), Fraction(0))

    weights = solved([[dot(a, b) for b in (*columns, y)] for a in columns])
    return dot(y, y) - dot(weights, [dot(c, y) for c in columns])


@pytest.mark.parametrize("n", [5, 9, 16, 40])
def test_the_regression_is_that_of_exact_fractions(n: int) -> None:
    for seed in range(5):
        x, y, size = vectors(n, seed)
        found = associate("rank_partial", x, y, size)
        assert found is not None
        rx, ry, rs = ([Fraction(v) for v in slow_ranks(values)] for values in (x, y, size))
        one = [Fraction(1)] * n
        left, more = unexplained(ry, one, rs), unexplained(ry, one, rs, rx)
        assert found.coefficient**2 == pytest.approx(float((left - more) / left), rel=1e-12)
        p = 2 * stats.t.sf(math.sqrt((left - more) / more * (n - 3)), n - 3)
        assert found.p_value == pytest.approx(max(p, 2 / math.factorial(n)), rel=1e-9)


def test_the_partial_by_hand() -> None:
    # Beside size, x and y swap places once: of size nothing explains x - size = (0, 1, -1, 0, ...)
    size = np.arange(1.0, 13.0)
    x, y = size.copy(), size.copy()
    x[[1, 2]], y[[1, 2]] = x[[2, 1]], y[[2, 1]]
    found = associate("rank_partial", x, y, size)
    assert found is not None
    assert found.coefficient == pytest.approx(1, abs=1e-12)
    assert found.p_value < 1e-8
    against = associate("rank_partial", x, 13 - y, size)
    assert against is not None
    assert against.coefficient == pytest.approx(-1, abs=1e-12)


def test_a_perfect_order_of_five_is_no_proof() -> None:
    x = np.arange(5.0)
    found = associate("spearman", x, x**3, SIZE[:5])
    assert found is not None
    assert found.coefficient == pytest.approx(1)
    assert found.p_value == pytest.approx(2 / 120)  # and its mirror image, of 5!
    assert found.interval is None
    x = np.arange(8.0)
    partial = associate("rank_partial", x, x**3, SIZE)
    assert partial is not None
    assert partial.interval is None


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_has_no_coefficient(method: Method) -> None:
    x, y, size = vectors(8, 0)
    same = np.full(8, 3.0)
    assert associate(method, same, y, size) is None
    assert associate(method, x, same, size) is None


def test_what_size_makes_is_gone_once_it_is_controlled_for() -> None:
    rng = np.random.default_rng(3)
    size = np.arange(40.0)
    x, y = size + rng.normal(size=40), -size + rng.normal(size=40)
    plain, partial = (associate(m, x, y, size) for m in ("spearman", "rank_partial"))
    assert plain is not None
    assert partial is not None
    assert plain.coefficient < -0.95
    assert abs(partial.coefficient) < 0.35


@given(
    st.lists(st.integers(-50, 50), min_size=6, max_size=6, unique=True),
    st.permutations(range(6)),
)
@settings(max_examples=15, deadline=None)
def test_order_of_models_and_a_rising_scale_change_no_rank_measure(
    values: list[int], order: list[int]
) -> None:
    x, y, size = np.array(values, float), SIZE[:6] ** 2, np.array([3.0, 1, 2, 5, 4, 4])
    for method in ("spearman", "rank_partial"):
        one = associate(method, x, y, size)
        other = associate(method, np.exp(x / 10)[order], y[order], size[order])
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert other.coefficient == pytest.approx(one.coefficient, abs=1e-9)
            assert other.p_value == pytest.approx(one.p_value, rel=1e-6, abs=1e-9)


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=12))
@settings(deadline=None)
def test_benjamini_hochberg_against_its_definition(p_values: list[float]) -> None:
    """Smallest level at which the step-up procedure rejects a test, by search over levels."""
    m = len(p_values)
    ordered = sorted(p_values)
    for p, q in zip(p_values, benjamini_hochberg(p_values), strict=True):
        levels = [min(m * ordered[k] / (k + 1), 1.0) for k in range(m) if ordered[k] >= p]
        assert q == pytest.approx(min(levels), rel=1e-12)
        assert q >= p - 1e-15


def test_no_test_has_no_q() -> None:
    assert benjamini_hochberg([]) == []
