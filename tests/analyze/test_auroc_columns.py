"""AUROCs of many columns against those of one; recall at 1 % false alarms against a slow one."""

import numpy as np
import pytest

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
