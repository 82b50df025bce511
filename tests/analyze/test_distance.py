"""Mahalanobis distance out of fold: a slow reference, either side of n = d, degenerate rows."""

import numpy as np
import pytest

from lpp.analyze.numerics.distance import distances, folds, shrinkage


def slow_shrinkage(rows: np.ndarray) -> tuple[float, float]:
    """As Ledoit and Wolf 2004 write it, row by row."""
    n, d = rows.shape
    covariance = rows.T @ rows / n
    mean = np.trace(covariance) / d
    spread = ((covariance - mean * np.eye(d)) ** 2).sum() / d
    error = sum(((np.outer(x, x) - covariance) ** 2).sum() / d for x in rows) / n**2
    return min(error, spread) / spread, mean


@pytest.mark.parametrize("shape", [(40, 5), (20, 30)])
def test_the_same_as_row_by_row(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=shape) @ rng.normal(size=(shape[1], shape[1])) + 3
    fold = folds(shape[0], seed=1)
    expected = np.empty(shape[0])
    for k, row in enumerate(rows):
        others = rows[fold != fold[k]]
        centred = others - others.mean(axis=0)
        a, m = slow_shrinkage(centred)
        for products in (centred.T @ centred, centred @ centred.T):
            assert shrinkage(centred, products) == pytest.approx((a, m))
        matrix = (1 - a) * centred.T @ centred / len(others) + a * m * np.eye(shape[1])
        away = row - others.mean(axis=0)
        expected[k] = np.sqrt(away @ np.linalg.inv(matrix) @ away)
    assert distances(rows, fold) == pytest.approx(expected, rel=1e-9)


def test_no_row_is_among_those_that_it_is_compared_with() -> None:
    rng = np.random.default_rng(1)
    rows, fold = rng.normal(size=(30, 4)), folds(30)
    far = rows.copy()
    far[7] += 1000
    others = fold == fold[7]
    others[7] = False  # fitted without the row, so the others of its fold do not see it move
    assert distances(far, fold)[others] == pytest.approx(distances(rows, fold)[others])
    assert distances(far, fold)[7] > 100


def test_folds_are_even_and_seeded() -> None:
    assert sorted(np.bincount(folds(52)).tolist()) == [10, 10, 10, 11, 11]
    assert (folds(52) == folds(52)).all()
    assert (folds(52) != folds(52, seed=1)).any()


def test_rows_that_do_not_vary_have_no_distance() -> None:
    assert np.isnan(distances(np.ones((10, 3)), folds(10))).all()
    assert np.isnan(distances(np.ones((1, 3)), folds(1))).all()
    two = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 2.0], [3.0, 0.0, 0.0]])
    assert np.isfinite(distances(two, np.array([0, 0, 1]))[2])
