"""Two accuracies over the same items: published and hand values, identities, coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from lpp.analyze.numerics.paired import paired_difference


def test_a_published_interval() -> None:
    found = paired_difference(36, 12, 2, 0)  # Newcombe 1998: 12 and 2 of 50 differ
    assert (found.n, found.first, found.second) == (50, 0.96, 0.76)
    assert found.interval == pytest.approx((-0.3404, -0.0569), abs=5e-5)


def test_the_interval_of_positive_correlation_by_hand() -> None:
    found = paired_difference(40, 12, 2, 46)

    def wilson(count: int, n: int) -> tuple[float, float]:
        z, p = stats.norm.ppf(0.975), count / n
        half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        middle, scale = p + z**2 / (2 * n), 1 + z**2 / n
        return (middle - half) / scale, (middle + half) / scale

    phi = (40 * 46 - 12 * 2 - 100 / 2) / math.sqrt(52 * 48 * 42 * 58)
    (low, high), (other_low, other_high) = wilson(52, 100), wilson(42, 100)
    down, up = 0.42 - other_low, high - 0.52
    assert found.interval[0] == pytest.approx(
        -0.10 - math.sqrt(down**2 - 2 * phi * down * up + up**2)
    )
    down, up = 0.52 - low, other_high - 0.42
    assert found.interval[1] == pytest.approx(
        -0.10 + math.sqrt(down**2 - 2 * phi * down * up + up**2)
    )


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [(12, 2, 2 * (1 + 14 + 91) / 2**14), (1, 0, 1.0), (0, 0, 1.0), (5, 5, 1.0), (0, 6, 2 / 2**6)],
)
def test_mcnemar_by_hand(first: int, second: int, p: float) -> None:
    assert paired_difference(7, first, second, 4).p_value == pytest.approx(p)


@pytest.mark.parametrize("counts", [(36, 12, 2, 0), (5, 0, 0, 0), (0, 5, 0, 0), (0, 0, 3, 7)])
def test_exchanged_runs_give_the_opposite_difference(counts: tuple[int, int, int, int]) -> None:
    both, first, second, neither = counts
    found, other = paired_difference(*counts), paired_difference(both, second, first, neither)
    assert found.difference == -other.difference
    assert found.interval == pytest.approx(tuple(-end for end in reversed(other.interval)))
    assert found.p_value == other.p_value
    assert -1 <= found.interval[0] <= found.difference <= found.interval[1] <= 1


def test_the_interval_holds_the_true_difference() -> None:
    shares = (0.55, 0.2, 0.1, 0.15)
    drawn = np.random.default_rng(0).multinomial(60, shares, size=300)
    ends = [paired_difference(*map(int, counts)).interval for counts in drawn]
    held = np.mean([low <= -0.1 <= high for low, high in ends])
    assert 0.92 < held < 0.98


@pytest.mark.parametrize("counts", [(0, 0, 0, 0), (3, -1, 2, 2)])
def test_impossible_counts_are_refused(counts: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="counts"):
        paired_difference(*counts)
