"""Two accuracies over the same items: published and hand values, identities, coverage."""

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from lpp.analyze.numerics.statistics.paired import PairedDifference, paired_difference


def of_counts(both: int, first: int, second: int, neither: int) -> PairedDifference:
    """Items with the property in both, in the first alone, in the second alone, in neither."""
    counts = [both, first, second, neither]
    return paired_difference(
        np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)
    )


def test_a_published_interval() -> None:
    found = of_counts(36, 12, 2, 0)  # Newcombe 1998: 12 and 2 of 50 differ
    assert (found.n, found.first, found.second) == (50, 0.96, 0.76)
    assert found.interval == pytest.approx((-0.3404, -0.0569), abs=5e-5)


def test_the_interval_of_positive_correlation_by_hand() -> None:
    found = of_counts(40, 12, 2, 46)

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
    assert of_counts(7, first, second, 4).p_value == pytest.approx(p)


@pytest.mark.parametrize("counts", [(36, 12, 2, 0), (5, 0, 0, 0), (0, 5, 0, 0), (0, 0, 3, 7)])
def test_exchanged_runs_give_the_opposite_difference(counts: tuple[int, int, int, int]) -> None:
    both, first, second, neither = counts
    found, other = of_counts(*counts), of_counts(both, second, first, neither)
    assert found.difference == -other.difference
    assert found.interval == pytest.approx(tuple(-end for end in reversed(other.interval)))
    assert found.p_value == other.p_value
    assert -1 <= found.interval[0] <= found.difference <= found.interval[1] <= 1


def test_the_interval_holds_the_true_difference() -> None:
    shares = (0.55, 0.2, 0.1, 0.15)
    drawn = np.random.default_rng(0).multinomial(60, shares, size=300)
    ends = [of_counts(*map(int, counts)).interval for counts in drawn]
    held = np.mean([low <= -0.1 <= high for low, high in ends])
    assert 0.92 < held < 0.98


def test_no_items_are_refused() -> None:
    with pytest.raises(ValueError, match="n = 0"):
        of_counts(0, 0, 0, 0)


def exchanged_in_whole_clusters(
    first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_], codes: npt.NDArray[np.int64]
) -> float:
    """P by every exchange of the two in whole clusters, of the sum of the clusters' means."""
    away = second.astype(float) - first
    means = [away[codes == code].mean() for code in range(codes.max() + 1)]
    every = [abs(np.dot(signs, means)) for signs in itertools.product((-1, 1), repeat=len(means))]
    return float(np.mean(np.array(every) >= abs(sum(means)) - 1e-9))


@pytest.mark.parametrize("sizes", [[4] * 9, [1, 2, 3, 4, 6, 6, 2, 1], [1] * 10])
def test_p_is_that_of_every_exchange_of_whole_clusters(sizes: list[int]) -> None:
    rng = np.random.default_rng(len(sizes))
    codes = np.repeat(np.arange(len(sizes)), sizes)
    for share in (0.5, 0.7, 0.95):
        first, second = rng.random(len(codes)) < 0.5, rng.random(len(codes)) < share
        found = paired_difference(first, second, codes)
        assert found.p_value == pytest.approx(
            exchanged_in_whole_clusters(first, second, codes), rel=1e-12
        )


def test_the_statistic_is_durkalskis_where_exchanges_are_not_counted() -> None:
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 24, 40)  # their least common multiple is 232,792,560 or so
    codes = np.repeat(np.arange(40), sizes)
    first, second = rng.random(len(codes)) < 0.5, rng.random(len(codes)) < 0.55
    means = [
        (second[codes == k].sum() - first[codes == k].sum()) / sizes[k].item() for k in range(40)
    ]
    square = sum(means) ** 2 / sum(mean**2 for mean in means)
    found = paired_difference(first, second, codes)
    assert found.p_value == pytest.approx(stats.chi2.sf(square, 1), rel=1e-9)


def test_clusters_of_one_item_change_nothing() -> None:
    rng = np.random.default_rng(4)
    for n in (1, 7, 90):
        first, second = rng.random(n) < 0.6, rng.random(n) < 0.5
        counts = [
            int(some.sum())
            for some in (first & second, first & ~second, ~first & second, ~first & ~second)
        ]
        plain, found = of_counts(*counts), paired_difference(first, second, np.arange(n))
        assert found.p_value == pytest.approx(plain.p_value, rel=1e-12)
        assert found.interval == pytest.approx(plain.interval, abs=1e-12)
        assert found.interval == pytest.approx(newcombe(*counts), abs=1e-12)


def newcombe(both: int, first: int, second: int, neither: int) -> tuple[float, float]:
    """Method 10 of Newcombe 1998 from the four counts, as printed there."""
    n = both + first + second + neither
    p, q = (both + first) / n, (both + second) / n
    (low, high), (other_low, other_high) = (
        stats.binomtest(round(share * n), n).proportion_ci(method="wilson") for share in (p, q)
    )
    product = float(both * neither - first * second)
    product = max(product - n / 2, 0) if product > 0 else product
    margins = p * (1 - p) * q * (1 - q) * n**4
    phi = product / math.sqrt(margins) if margins else 0.0

    def joined(one: float, other: float) -> float:
        return math.sqrt(one**2 - 2 * phi * one * other + other**2)

    down, up = joined(q - other_low, high - p), joined(other_high - q, p - low)
    return q - p - down, q - p + up


def test_items_that_repeat_each_other_count_once() -> None:
    rng = np.random.default_rng(5)
    first, second = rng.random(40) < 0.7, rng.random(40) < 0.5
    alone = paired_difference(first, second)
    codes = np.repeat(np.arange(40), 3)
    found = paired_difference(np.repeat(first, 3), np.repeat(second, 3), codes)
    assert found.p_value == pytest.approx(alone.p_value, rel=1e-12)
    assert found.interval == pytest.approx(alone.interval, abs=1e-9)


def test_all_right_in_both_has_wilsons_width_by_clusters() -> None:
    every = np.ones(12, dtype=bool)
    found = paired_difference(every, every, np.repeat(np.arange(3), 4))
    low = stats.binomtest(3, 3).proportion_ci(method="wilson").low
    assert found.interval == pytest.approx((low - 1, 1 - low), abs=1e-9)
    assert found.p_value == 1


@pytest.mark.slow
def test_on_noise_of_clusters_p_and_the_interval_hold() -> None:
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(30), 4)

    def right() -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_] = rng.normal(size=30)[codes] + rng.normal(size=120) > 0
        return found

    below, inside = np.zeros(2), np.zeros(2)
    for _ in range(1000):
        first, second = right(), right()
        for k, some in enumerate((codes, None)):
            found = paired_difference(first, second, some)
            below[k] += found.p_value < 0.05
            inside[k] += found.interval[0] <= 0 <= found.interval[1]
    assert 0.03 <= below[0] / 1000 <= 0.07
    assert 0.93 <= inside[0] / 1000 <= 0.97
    assert below[1] / 1000 > 0.12  # items taken as independent
    assert inside[1] / 1000 < 0.87
