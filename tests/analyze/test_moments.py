"""Merging in any order is the same as taking the rows whole."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lpp.analyze.numerics.moments as module
from lpp.analyze.numerics.moments import Gram, Moments, Rows, Workspace, standardised


def rows_of(seed: int, n: int, dim: int) -> Rows:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, dim)) * 3 + rng.normal(size=dim) * 20).astype(np.float32)


def assert_same(a: Moments, b: Moments) -> None:
    assert a.n == b.n
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(a.scatter, b.scatter, rtol=1e-10, atol=1e-10 * a.scatter.max())


def reference(rows: Rows) -> Moments:
    wide = rows.astype(np.float64)
    mean = wide.mean(axis=0)
    return Moments(len(rows), mean, (wide - mean).T @ (wide - mean))


def test_a_product_in_chunks_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PRODUCT_ROWS", 7)
    rows = rows_of(1, 52, 4)
    assert len(Workspace(4).rows) == 7
    assert_same(Moments.from_rows(rows), reference(rows))


@settings(deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(1, 30),
    st.integers(1, 8),
    st.lists(st.integers(0, 30), max_size=5),
)
def test_any_split_merges_to_the_whole(seed: int, n: int, dim: int, cuts: list[int]) -> None:
    rows = rows_of(seed, n, dim)
    bounds = [0, *sorted(min(cut, n) for cut in cuts), n]
    parts = [Moments.from_rows(rows[a:b]) for a, b in itertools.pairwise(bounds)]
    left = Moments.empty(dim)
    for part in parts:
        left = left.merge(part)
    right = Moments.empty(dim)
    for part in reversed(parts):
        right = part.merge(right)
    streamed = Moments.empty(dim)
    for a, b in itertools.pairwise(bounds):
        streamed.add(Moments.from_rows(rows[a:b]))
    for moments in (left, right, streamed):
        assert_same(moments, reference(rows))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_a_gram_matrix_knows_the_mean_of_the_rows_that_stay(offset: float) -> None:
    rows = (np.random.default_rng(5).normal(size=(9, 30)) + offset).astype(np.float32)
    kept = np.array([True, False, True, True, False, True, True, True, False])
    gram = Gram.from_rows(rows)
    for found, some in ((gram, rows), (gram.only(kept), rows[kept])):
        np.testing.assert_allclose(found.mean, some.astype(np.float64).mean(axis=0), atol=1e-11)
    assert not gram.only(np.zeros(9, dtype=bool)).mean.any()


def test_merge_leaves_its_operands_alone_and_add_does_not() -> None:
    a, b = Moments.from_rows(rows_of(1, 5, 3)), Moments.from_rows(rows_of(2, 4, 3))
    before = a.scatter.copy()
    a.merge(b)
    assert (a.scatter == before).all()
    a.add(b)
    assert a.n == 9


def test_a_mean_of_a_million_keeps_the_small_digits() -> None:
    rows = (np.arange(6, dtype=np.float32)[:, None] + np.float32(2**20)) * np.ones(
        2, dtype=np.float32
    )
    moments = Moments.from_rows(rows)
    assert moments.scatter.tolist() == [[17.5, 17.5], [17.5, 17.5]]


def test_z_scores_raise_the_bound_on_rounding_by_their_largest_scale_squared() -> None:
    wide = Moments(5, np.ones(2), np.diag([16.0, 1.0]), noise=1e-12)  # variances 4 and 1/4
    found = standardised(wide)
    assert found.matrix.tolist() == [[4, 0], [0, 4]]
    assert isinstance(found, Moments)
    assert found.noise == pytest.approx(4e-12)
