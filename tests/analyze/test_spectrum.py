"""Ranks against a float64 SVD, their bounds and what leaves them alone."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpp.analyze.numerics.moments import Gram, Moments
from lpp.analyze.numerics.spectrum import (
    effective_rank,
    eigenvalues,
    participation_ratio,
    top_share,
)

Array = npt.NDArray[np.float32]


def svd_ranks(rows: Array) -> tuple[float, float]:
    """PR and ER the slow way: singular values of the centred rows in float64."""
    wide = rows.astype(np.float64)
    values = np.linalg.svd(wide - wide.mean(axis=0), compute_uv=False) ** 2
    share = values[values > 0] / values.sum()
    return values.sum() ** 2 / (values**2).sum(), float(np.exp(-(share * np.log(share)).sum()))


def random_rows(seed: int, n: int, dim: int) -> Array:
    rng = np.random.default_rng(seed)
    scales = np.exp(rng.normal(size=dim))
    return (rng.normal(size=(n, dim)) * scales + rng.normal(size=dim) * 5).astype(np.float32)


def enormous_dimension() -> Array:
    rows = random_rows(3, 300, 40)
    rows[:, 7] *= 3e3
    return rows


@pytest.mark.parametrize("route", [Moments, Gram])
@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(random_rows(1, 20, 64), id="fewer rows than columns"),
        pytest.param(random_rows(2, 500, 24), id="more rows than columns"),
        pytest.param(random_rows(4, 2, 5), id="two rows"),
        pytest.param(random_rows(5, 6, 1), id="one column"),
        pytest.param(enormous_dimension(), id="one enormous dimension"),
    ],
)
def test_ranks_agree_with_an_svd(rows: Array, route: type[Moments | Gram]) -> None:
    spread = route.from_rows(rows)
    ratio, rank = svd_ranks(rows)
    assert participation_ratio(spread) == pytest.approx(ratio, rel=1e-9)
    assert effective_rank(eigenvalues(spread)) == pytest.approx(rank, rel=1e-9)
    assert len(eigenvalues(spread)) == min(rows.shape)


def test_eigenvalues_are_those_of_the_sample_covariance() -> None:
    rows = random_rows(6, 60, 5)
    expected = np.linalg.eigvalsh(np.cov(rows.astype(np.float64), rowvar=False))[::-1]
    np.testing.assert_allclose(eigenvalues(Moments.from_rows(rows)), expected, rtol=1e-10)
    np.testing.assert_allclose(eigenvalues(Gram.from_rows(rows))[:5], expected, rtol=1e-10)
    two = np.array([[0, 0], [4, 0]], dtype=np.float32)  # of two rows, n - 1 is 1
    assert eigenvalues(Moments.from_rows(two)).tolist() == [8, 0]
    assert eigenvalues(Gram.from_rows(two)).tolist() == [8, 0]


@pytest.mark.parametrize("route", [Moments, Gram])
@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(np.zeros((5, 3), dtype=np.float32), id="zero matrix"),
        pytest.param(np.full((7, 3), 0.1, dtype=np.float32), id="equal rows"),
        pytest.param(np.array([[1.5, -2.0, 3e4]], dtype=np.float32), id="one row"),
        pytest.param(np.empty((0, 3), dtype=np.float32), id="no rows"),
    ],
)
def test_without_variance_no_dimension_is_in_use(rows: Array, route: type[Moments | Gram]) -> None:
    spread = route.from_rows(rows)
    assert participation_ratio(spread) == 0.0
    assert effective_rank(eigenvalues(spread)) == 0.0
    assert top_share(eigenvalues(spread)) == 0.0


def test_equal_rows_stay_without_variance_across_a_merge() -> None:
    rows = np.full((9, 4), 0.1, dtype=np.float32)
    merged = Moments.from_rows(rows[:2]).merge(Moments.from_rows(rows[2:]))
    merged.add(Moments.from_rows(rows))
    assert participation_ratio(merged) == 0.0


def test_hand_values() -> None:
    assert effective_rank(np.array([1.0, 1.0, 0.0, 0.0])) == pytest.approx(2.0)
    assert top_share(np.array([6.0, 3.0, 1.0])) == pytest.approx(0.6)
    one_direction = np.outer(np.arange(4), [1, 2, 3]).astype(np.float32)
    assert participation_ratio(Moments.from_rows(one_direction)) == pytest.approx(1.0)


def test_small_negatives_are_rounding_and_large_ones_are_not_hidden() -> None:
    tiny = Moments(3, np.zeros(2), np.array([[2.0, 0.0], [0.0, -1e-17]]))
    assert eigenvalues(tiny).tolist() == [1.0, 0.0]
    wrong = Moments(3, np.zeros(2), np.array([[2.0, 0.0], [0.0, -0.5]]))
    with pytest.raises(ArithmeticError, match="not a covariance"):
        eigenvalues(wrong)


def test_rows_that_are_not_finite_are_refused() -> None:
    rows = np.array([[1.0, np.nan], [2.0, 1.0], [0.0, 3.0]], dtype=np.float32)
    with pytest.raises(ArithmeticError, match="infinities or NaN"):
        eigenvalues(Moments.from_rows(rows))


shapes = st.tuples(st.integers(0, 2**31), st.integers(2, 40), st.integers(1, 20))


@settings(deadline=None)
@given(shapes)
def test_bounds_hold(shape: tuple[int, int, int]) -> None:
    rows = random_rows(*shape)
    values = eigenvalues(Moments.from_rows(rows))
    ratio, rank = participation_ratio(Moments.from_rows(rows)), effective_rank(values)
    assert 1 <= ratio <= rank * (1 + 1e-12)
    assert rank <= min(rows.shape)
    assert 1 / min(rows.shape) <= top_share(values) * (1 + 1e-12) <= 1 + 1e-11


@settings(deadline=None)
@given(shapes, st.floats(0.01, 100), st.floats(-50, 50))
def test_rotation_translation_and_scale_change_nothing(
    shape: tuple[int, int, int], scale: float, shift: float
) -> None:
    rows = random_rows(*shape)
    turn = np.linalg.qr(np.random.default_rng(shape[0]).normal(size=(shape[2], shape[2])))[0]
    moved = (rows.astype(np.float64) @ turn * scale + shift).astype(np.float32)
    before, after = Moments.from_rows(rows), Moments.from_rows(moved)
    # float32 storage of the moved rows is what limits the agreement.
    assert participation_ratio(after) == pytest.approx(participation_ratio(before), rel=1e-3)
    assert effective_rank(eigenvalues(after)) == pytest.approx(
        effective_rank(eigenvalues(before)), rel=1e-3
    )


@settings(deadline=None)
@given(shapes)
def test_a_permutation_of_rows_changes_nothing(shape: tuple[int, int, int]) -> None:
    rows = random_rows(*shape)
    mixed = np.random.default_rng(shape[0]).permutation(rows, axis=0)
    a, b = eigenvalues(Moments.from_rows(rows)), eigenvalues(Moments.from_rows(mixed))
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * a[0])
