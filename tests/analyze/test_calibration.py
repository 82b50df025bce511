"""Calibration error and risk against coverage: hand values, slow references, what noise gives."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from lpp.analyze.numerics.statistics.calibration import (
    POINTS,
    calibration,
    mass_bins,
    proportion_interval,
    risk_coverage,
)

Floats = npt.NDArray[np.float64]


def slow_error(confidence: Floats, right: npt.NDArray[np.bool_], bins: int) -> float:
    total, n = 0.0, len(confidence)
    ranks = [
        sum(c < x for c in confidence) + sum(c == x for c in confidence) / 2 for x in confidence
    ]
    for b in range(bins):
        here = [k for k in range(n) if int(ranks[k] * bins / n) == b]
        if here:
            accuracy = sum(right[k] for k in here) / len(here)
            total += len(here) / n * abs(accuracy - sum(confidence[k] for k in here) / len(here))
    return total


def test_error_by_hand_and_slowly() -> None:
    confidence = np.array([0.1, 0.3, 0.6, 0.8])
    right = np.array([False, True, True, True])
    found = calibration(confidence, right, bins=2)
    assert found.ece == pytest.approx((abs(0.5 - 0.2) + abs(1 - 0.7)) / 2)
    assert [(row.n, row.accuracy) for row in found.reliability] == [(2, 0.5), (2, 1.0)]
    rng = np.random.default_rng(0)
    confidence, right = rng.integers(1, 30, 97) / 30, rng.random(97) < 0.5
    found = calibration(confidence, right)
    assert found.ece == pytest.approx(slow_error(confidence, right, 10))
    assert sum(row.n for row in found.reliability) == 97
    order = rng.permutation(97)
    assert calibration(confidence[order], right[order]).ece == pytest.approx(found.ece)


def test_bins_hold_equally_many_and_keep_ties_together() -> None:
    assert np.bincount(mass_bins(np.random.default_rng(1).random(100), 10)).tolist() == [10] * 10
    assert np.unique(mass_bins(np.full(8, 0.5), 10)).size == 1


@pytest.mark.slow
@pytest.mark.parametrize("too_high", [0.0, 0.2])
def test_the_interval_holds_the_true_error(too_high: float) -> None:
    rng = np.random.default_rng(2)
    held = above = 0
    for seed in range(30):
        confidence = rng.uniform(0.25, 1, 200)
        found = calibration(confidence, rng.random(200) < confidence - too_high, seed=seed)
        held += found.interval[0] <= too_high <= found.interval[1]
        above += found.ece > found.calibrated[1]
        assert found.interval[0] <= found.ece <= found.interval[1]
    assert held >= 26
    assert above <= 5 if too_high == 0 else above == 30


def test_draws_are_seeded() -> None:
    confidence, right = np.linspace(0.1, 1, 60), np.arange(60) % 3 > 0
    found = calibration(confidence, right)
    assert found == calibration(confidence, right)
    assert found.interval != calibration(confidence, right, seed=1).interval


def test_risk_by_hand() -> None:
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    right = np.array([1, 1, 0, 1, 1, 1, 0, 0, 1, 0], dtype=bool)
    found = risk_coverage(confidence, right)
    risks = [0, 0, 1 / 3, 1 / 4, 1 / 5, 1 / 6, 2 / 7, 3 / 8, 3 / 9, 4 / 10]
    assert [k for k, _ in found.curve] == list(range(1, 11))
    assert [risk for _, risk in found.curve] == pytest.approx(risks)
    assert found.area == pytest.approx(np.mean(risks))
    assert found.best == pytest.approx(sum((k - 6) / k for k in range(7, 11)) / 10)


def test_a_long_curve_is_thinned_at_even_distances() -> None:
    rng = np.random.default_rng(2)
    confidence, right = rng.random(5000), rng.random(5000) < 0.7
    curve = dict(risk_coverage(confidence, right).curve)
    assert len(curve) == POINTS
    assert (min(curve), max(curve)) == (1, 5000)
    assert set(np.diff(list(curve))) <= {25, 26}
    order = np.argsort(-confidence)
    for k, risk in curve.items():
        assert risk == pytest.approx(1 - right[order[:k]].mean())


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (3, 10), (205, 240)])
def test_interval_of_a_proportion_is_wilsons(successes: int, n: int) -> None:
    z, p = stats.norm.ppf(0.975), successes / n
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = proportion_interval(successes, n)
    assert (low, high) == pytest.approx((middle - half, middle + half), abs=1e-12)
    assert 0 <= low <= p <= high <= 1


def test_bins_have_the_interval_of_their_accuracy() -> None:
    confidence, right = np.linspace(0.1, 1, 60), np.arange(60) % 3 > 0
    for row in calibration(confidence, right).reliability:
        assert row.interval == proportion_interval(round(row.n * row.accuracy), row.n)


def test_ties_are_a_random_order_on_average() -> None:
    right = np.array([True, False, False, True, True])
    same = risk_coverage(np.ones(5), right)
    assert [risk for _, risk in same.curve] == pytest.approx([0.4] * 5)
    assert same.area == pytest.approx(0.4)
    rng = np.random.default_rng(3)
    tied = np.array([2.0, 2.0, 1.0, 1.0, 1.0])
    drawn = [risk_coverage(tied + 0.1 * rng.random(5), right).area for _ in range(4000)]
    assert risk_coverage(tied, right).area == pytest.approx(np.mean(drawn), abs=0.01)


def test_one_item() -> None:
    found = risk_coverage(np.array([0.5]), np.array([True]))
    assert (found.area, found.best) == (0.0, 0.0)
    assert calibration(np.array([0.5]), np.array([True])).ece == 0.5


def test_clusters_of_one_item_change_nothing() -> None:
    rng = np.random.default_rng(6)
    confidence = rng.random(60)
    right = rng.random(60) < confidence
    assert calibration(confidence, right, np.arange(60)) == calibration(confidence, right)


def test_clusters_widen_the_error_and_what_chance_gives() -> None:
    rng = np.random.default_rng(7)
    codes = np.repeat(np.arange(30), 10)
    confidence = np.full(300, 0.5) + 0.01 * rng.normal(size=300)
    right = rng.normal(size=30)[codes] + 0.3 * rng.normal(size=300) > 0
    alone, found = calibration(confidence, right), calibration(confidence, right, codes)
    assert found.ece == alone.ece
    assert found.calibrated[1] > 1.5 * alone.calibrated[1]
    assert found.interval[1] > alone.interval[1]
    for one, other in zip(found.reliability, alone.reliability, strict=True):
        assert one.interval[0] <= other.interval[0]


@pytest.mark.slow
def test_chance_by_clusters_is_what_a_calibrated_model_gives() -> None:
    rng = np.random.default_rng(8)
    codes, above = np.repeat(np.arange(60), 5), 0
    for _ in range(200):
        confidence = np.clip(0.6 + 0.1 * rng.normal(size=300), 0, 1)
        own = rng.random(300) > 0.6
        right = np.where(own, rng.random(300), rng.random(60)[codes]) < confidence
        found = calibration(confidence, right, codes)
        above += found.ece > found.calibrated[1]
    assert 0.02 <= above / 200 <= 0.09
