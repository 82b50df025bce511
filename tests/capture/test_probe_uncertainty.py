"""Standard errors and intervals of scores."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpp.capture.probes.scoring import interval, standard_error


def test_single_items_give_the_textbook_error() -> None:
    values = [0.0, 1.0, 1.0, 0.25]
    expected = statistics.stdev(values) / math.sqrt(4)
    assert standard_error(values, range(4)) == pytest.approx(expected)


def test_items_that_repeat_each_other_count_once() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    doubled = [value for value in values for _ in range(2)]
    clusters = [i for i in range(5) for _ in range(2)]
    alone = standard_error(values, range(5))
    assert standard_error(doubled, clusters) == pytest.approx(alone)


def test_items_that_balance_each_other_keep_their_own_error() -> None:
    values = [0.0, 1.0] * 6  # one right in each scene, as a constant answer is
    assert standard_error(values, [i // 2 for i in range(12)]) == standard_error(values, range(12))


def test_one_cluster_says_nothing() -> None:
    assert standard_error([1.0, 0.0], ["scene", "scene"]) is None
    assert interval(0.5, None, 1)[0] < 0.1


@pytest.mark.parametrize("right", [0, 1, 7, 10])
def test_interval_is_wilsons(right: int) -> None:
    from scipy.stats import binomtest

    p, n = right / 10, 10
    stderr = math.sqrt(p * (1 - p) / n)
    wilson = binomtest(right, n).proportion_ci(method="wilson")
    assert interval(p, stderr, n) == pytest.approx((wilson.low, wilson.high), abs=1e-6)


@given(st.floats(0, 1), st.just(0.0) | st.floats(1e-4, 0.5), st.integers(1, 500))
def test_interval_holds_the_score_and_stays_within_bounds(
    score: float, stderr: float, clusters: int
) -> None:
    low, high = interval(score, stderr, clusters)
    assert 0 <= low <= score + 1e-12
    assert score - 1e-12 <= high <= 1
