"""Numbers of many columns of rows: AUROCs, recall at 1 % false alarms, distances out of fold."""

import numpy as np
import pytest

from lpp.analyze.numerics.distance import distances, folds, shrinkage
from lpp.analyze.numerics.statistics.auroc import auroc, gain
from lpp.analyze.numerics.statistics.auroc_columns import auroc_columns
from lpp.analyze.numerics.statistics.recall import recall_at_false_alarms


@pytest.mark.parametrize("size", [1, 3])
def test_columns_are_those_of_one_auroc(size: int) -> None:
    rng = np.random.default_rng(size)
    n = 240
    clusters, groups = np.arange(n) // size, np.arange(n) // (20 * size) % 4
    scores = rng.normal(size=(n, 6)).round(1)  # ties
    right = rng.random((n, 6)) < 0.4
    right[:, 1] = right[:, 0]
    right[:, 5] = False
    values, parts = auroc_columns(scores, right, groups, clusters)
    for k in range(5):
        one = auroc(scores[:, k], right[:, k], groups, clusters)
        assert one is not None
        assert values[k] == pytest.approx(one.value)
        # clusters of several items: factors for their number differ where two placements meet
        ours = np.sqrt(parts[:, k] @ parts[:, k])
        assert ours == pytest.approx(one.stderr, rel=1e-9 if size == 1 else 0.02)
    assert np.isnan(values[5])
    pair = gain(scores[:, 0], scores[:, 1], right[:, 0], groups, clusters, either_side=False)
    assert pair is not None
    away = parts[:, 0] - parts[:, 1]
    assert values[0] - values[1] == pytest.approx(pair.value)
    assert np.sqrt(away @ away) == pytest.approx(pair.stderr, rel=1e-9 if size == 1 else 0.02)


def test_a_group_with_one_cluster_of_a_kind_does_not_count() -> None:
    clusters, groups = np.repeat(np.arange(8), 2), np.repeat([0, 1], 8)
    right = (np.arange(16) % 4 < 2)[:, None]
    right[8:, 0] = [True, True, False, False, False, False, False, False]
    scores = np.random.default_rng(0).normal(size=(16, 1))
    value, parts = auroc_columns(scores, right, groups, clusters)
    alone, _ = auroc_columns(scores[:8], right[:8], groups[:8], clusters[:8])
    assert value[0] == alone[0]
    assert not parts[4:].any()


def test_recall_is_that_of_the_slow_threshold() -> None:
    rng = np.random.default_rng(1)
    right = rng.random(900) < 0.3
    scores = (rng.normal(size=900) + 2 * right).round(1)
    found = recall_at_false_alarms(scores, right, np.arange(900) // 3)
    others = scores[~right]
    threshold = min(t for t in others if (others > t).mean() <= 0.01)
    assert found is not None
    assert found.value == pytest.approx((scores[right] > threshold).mean())
    assert found.interval[0] < found.value < found.interval[1]
    order = rng.permutation(900)
    again = recall_at_false_alarms(scores[order], right[order], (np.arange(900) // 3)[order])
    assert again == found
    few = np.arange(900) < 801
    assert recall_at_false_alarms(scores, few, np.arange(900)) is None  # 99 others


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
