"""Drift of rows, overlap of leading eigenvectors, and sums less those of a group."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from lpp.analyze.numerics import distance as module
from lpp.analyze.numerics.cka import CrossScatters
from lpp.analyze.numerics.distance import row_drift
from lpp.analyze.numerics.jackknife import Estimate, jackknife, jackknife_difference
from lpp.analyze.numerics.leading import leading_eigenvectors, subspace_overlap
from lpp.analyze.numerics.moments import Gram, Moments, Rows
from lpp.store.arrays.reader import to_float32

Array = npt.NDArray[np.float32]

PAIRS = (0, 0), (0, 1), (1, 1)


def rows(n: int, d: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_by_hand() -> None:
    a = np.array([[3, 4], [1, 0], [2, 0], [0, 5]], np.float32)
    b = np.array([[6, 8], [0, 1], [-1, 0], [0, 5]], np.float32)
    found = row_drift(a, b)
    assert found.relative_distance.tolist() == [1.0, pytest.approx(2**0.5), 1.5, 0.0]
    assert found.cosine.tolist() == [1.0, 0.0, -1.0, 1.0]


@pytest.mark.parametrize(("d", "tile"), [(1, 1), (7, 7 * 4 * 12), (64, 1 << 20)])
def test_every_token_is_that_of_a_plain_loop(
    d: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TILE_BYTES", tile)
    a, b = rows(50, d), rows(50, d, 1)
    found = row_drift(a, b)
    for k in range(50):
        x, y = a[k].astype(float), b[k].astype(float)
        norm = math.sqrt(sum(x * x))
        assert found.relative_distance[k] == pytest.approx(
            math.sqrt(sum((x - y) ** 2)) / norm, rel=1e-13
        )
        assert found.cosine[k] == pytest.approx(
            sum(x * y) / norm / math.sqrt(sum(y * y)), rel=1e-12, abs=1e-14
        )


def test_rows_as_they_are_stored_are_widened_first() -> None:
    """bfloat16 lies in a store as uint16, the upper half of a float32."""
    stored = [(rows(30, 9, seed).view(np.uint32) >> 16).astype(np.uint16) for seed in (0, 1)]
    wide = [to_float32(one) for one in stored]
    for found, expected in zip(row_drift(*stored), row_drift(*wide), strict=True):
        assert (found == expected).all()
    sums, expected_sums = CrossScatters([9, 9], PAIRS), CrossScatters([9, 9], PAIRS)
    sums.add(stored)
    expected_sums.add(wide)
    assert sums.square(0, 1) == expected_sums.square(0, 1)


def test_equal_rows_have_not_moved_at_all() -> None:
    """Exactly: whatever their length and number, and beside rows that moved by one bit."""
    a = rows(300, 97) * np.float32(10.0) ** np.arange(-40, 35, 0.25, dtype=np.float32)[:, None]
    found = row_drift(a, a.copy())
    assert (found.relative_distance == 0).all()
    assert (found.cosine == 1).all()
    b = a.copy()
    b[7] = np.nextafter(b[7], np.float32(1e9))
    moved = row_drift(a, b)
    assert np.flatnonzero(moved.relative_distance).tolist() == [7]
    assert 0.999999 < moved.cosine[7] <= 1


def test_a_scale_moves_a_row_and_turns_none() -> None:
    a = rows(40, 9)
    found = row_drift(a, np.float32(0.5) * a)
    np.testing.assert_allclose(found.relative_distance, 0.5, rtol=1e-14)
    np.testing.assert_allclose(found.cosine, 1, rtol=1e-14)
    assert (found.cosine <= 1).all()
    np.testing.assert_allclose(row_drift(a, -a).relative_distance, 2, rtol=1e-14)
    swapped = row_drift(rows(40, 9, 1), a)
    np.testing.assert_allclose(swapped.cosine, row_drift(a, rows(40, 9, 1)).cosine, rtol=1e-13)


def test_rows_of_length_0_and_rows_that_are_not_finite() -> None:
    a = np.array([[0, 0], [0, 0], [1, 0], [np.nan, 1], [np.inf, 1], [1, 2]], np.float32)
    b = np.array([[0, 0], [1, 0], [0, 0], [1, 1], [np.inf, 1], [np.inf, 2]], np.float32)
    found = row_drift(a, b)
    assert found.relative_distance[:3].tolist() == [0, math.inf, 1]
    assert found.cosine[0] == 1
    assert np.isnan(found.cosine[1:]).all()
    assert not np.isfinite(found.relative_distance[3:]).any()
    assert [len(one) for one in row_drift(a[:0], b[:0])] == [0] * 4


def by_hand_overlap(x: Rows, y: Rows, k: int) -> float:
    """From all eigenvectors of the centred rows' covariance, by singular values."""
    bases = [
        np.linalg.svd(z.astype(float) - z.astype(float).mean(axis=0), full_matrices=False)[2][:k]
        for z in (x, y)
    ]
    return float(np.square(bases[0] @ bases[1].T).sum() / k)


@pytest.mark.parametrize(("d", "k"), [(30, 10), (12, 3), (30, 1)])
def test_overlap_is_that_of_singular_vectors(d: int, k: int) -> None:
    x = rows(400, d) * np.arange(1, d + 1, dtype=np.float32)
    y = (x + 4 * rows(400, d, 1)).astype(np.float32)
    u, v = (leading_eigenvectors(Moments.from_rows(z), k) for z in (x, y))
    assert u.shape == (d, k)
    np.testing.assert_allclose(u.T @ u, np.eye(k), atol=1e-12)
    found = subspace_overlap(u, v)
    assert found == pytest.approx(by_hand_overlap(x, y, k), rel=1e-9)
    assert k / d < found < 1
    assert subspace_overlap(v, u) == pytest.approx(found, rel=1e-13)
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(d, d)))[0]
    assert subspace_overlap(turn @ u, turn @ v) == pytest.approx(found, rel=1e-12)
    inner = np.linalg.qr(np.random.default_rng(4).normal(size=(k, k)))[0]
    assert subspace_overlap(u @ inner, v) == pytest.approx(found, rel=1e-12)


def test_overlap_of_the_same_and_of_orthogonal_spaces() -> None:
    x = rows(100, 12)
    u = leading_eigenvectors(Moments.from_rows(x))
    assert u.shape == (12, 10)
    assert subspace_overlap(u, leading_eigenvectors(Moments.from_rows(x))) == 1.0
    assert subspace_overlap(u, -u) <= 1.0
    assert subspace_overlap(np.eye(4)[:, :2], np.eye(4)[:, 2:]) == 0.0
    random = [np.linalg.qr(rows(200, 10, seed).astype(float))[0] for seed in (1, 2)]
    assert subspace_overlap(*random) == pytest.approx(10 / 200, abs=0.02)


def test_no_more_eigenvectors_than_rows_and_columns_have() -> None:
    x = rows(60, 12)
    x[:, 3:] = 0
    assert leading_eigenvectors(Moments.from_rows(x)).shape == (12, 3)
    assert leading_eigenvectors(Moments.from_rows(x[:3])).shape == (12, 2)
    assert leading_eigenvectors(Moments.from_rows(x[:1])).shape == (12, 0)
    assert leading_eigenvectors(Moments.from_rows(np.ones((5, 4), np.float32))).shape == (4, 0)
    assert leading_eigenvectors(Moments.empty(4)).shape == (4, 0)
    x[2, 1] = np.nan
    with np.errstate(invalid="ignore"):
        broken = Moments.from_rows(x)
    assert leading_eigenvectors(broken).shape == (12, 0)
    assert math.isnan(subspace_overlap(np.eye(4)[:, :2], np.empty((4, 0))))


def test_of_spaces_of_unequal_rank_the_leading_ones_are_compared() -> None:
    six, two = (
        leading_eigenvectors(Moments(50, np.zeros(6), np.diag(np.array(spread, float))))
        for spread in ([1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 8, 9])
    )
    assert np.abs(six).argmax(axis=0).tolist() == [5, 4, 3, 2, 1, 0]
    assert subspace_overlap(six, two) == pytest.approx(1, rel=1e-14)


def test_sums_less_those_of_some_rows_are_the_sums_of_the_others() -> None:
    x, y = rows(900, 5) + np.float32(300), rows(900, 8, 1)
    y[:, 2] = 7.25
    whole = CrossScatters([5, 8], PAIRS)
    for start in (0, 250, 500):
        whole.add([x[start : start + 250], y[start : start + 250]])
    whole.add([x[750:], y[750:]])
    group = CrossScatters([5, 8], PAIRS, whole.shifts)
    group.add([x[200:400], y[200:400]])
    rest = whole.without(group)
    stays = np.r_[0:200, 400:900]
    direct = CrossScatters([5, 8], PAIRS)
    direct.add([x[stays], y[stays]])
    assert rest.n == direct.n == 700
    for pair in PAIRS:
        assert rest.square(*pair) == pytest.approx(direct.square(*pair), rel=1e-10)


@pytest.mark.parametrize("n", [3, 9, 11])
def test_leading_eigenvectors_of_few_rows_come_from_their_products(n: int) -> None:
    some = rows(n, 12)
    u, v = (leading_eigenvectors(one.from_rows(some)) for one in (Gram, Moments))
    assert u.shape == v.shape == (12, min(10, n - 1))
    np.testing.assert_allclose(u.T @ u, np.eye(u.shape[1]), atol=1e-12)
    np.testing.assert_allclose(u @ u.T, v @ v.T, atol=1e-9)


def test_rows_given_twice_are_two_sites_of_equal_rows() -> None:
    x, y, z = rows(200, 4), rows(50, 4, 1), rows(50, 4, 2)
    both = CrossScatters([4, 4], PAIRS)
    both.add([x, x])
    assert len({both.square(*pair) for pair in PAIRS}) == 1
    both.add([y, z])
    direct = CrossScatters([4, 4], PAIRS)
    direct.add([np.concatenate([x, y]), np.concatenate([x, z])])
    for pair in PAIRS:
        assert both.square(*pair) == pytest.approx(direct.square(*pair), rel=1e-12)


def test_a_difference_pairs_the_groups() -> None:
    a, b = jackknife(3.0, [2.0, 4.0, 3.0]), jackknife(1.0, [0.0, 1.5, 1.5])
    found = jackknife_difference(a, b)
    assert found == jackknife(2.0, [2.0, 2.5, 1.5])
    assert jackknife_difference(a, a).stderr == 0
    assert jackknife_difference(a, Estimate(1.0)) == Estimate(2.0)
    assert jackknife_difference(Estimate(None), a) == Estimate(None)
    assert jackknife_difference(a, Estimate(None)) == Estimate(None)
