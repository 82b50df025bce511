"""AUROC: hand values, a pair-by-pair reference, coverage of the interval, groups, controls."""

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from lpp.analyze.numerics.statistics.auroc import auroc, gain, residual_ranks, shuffled, tied_share

Floats = npt.NDArray[np.float64]


def pair_by_pair(
    values: Floats, right: npt.NDArray[np.bool_], groups: npt.NDArray[Any] | None = None
) -> tuple[float, float]:
    """AUROC and DeLong's standard error from the matrix of pairs of each group."""
    groups = np.zeros(len(values)) if groups is None else groups
    found = []
    for group in np.unique(groups):
        here = groups == group
        wins = np.array(
            [
                [1.0 if x > y else 0.5 if x == y else 0.0 for y in values[here & ~right]]
                for x in values[here & right]
            ]
        )
        if min(wins.shape) >= 2:
            over_right = wins.mean(axis=1).var(ddof=1) / wins.shape[0]
            over_wrong = wins.mean(axis=0).var(ddof=1) / wins.shape[1]
            found.append((wins.size, wins.mean(), over_right + over_wrong))
    pairs = sum(size for size, _, _ in found)
    value = sum(size * mean for size, mean, _ in found) / pairs
    return value, np.sqrt(sum(size**2 * variance for size, _, variance in found)) / pairs


def test_a_value_by_hand() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    right = np.array([False, True, False, True, True])
    found = auroc(values, right)
    assert found is not None
    assert found.value == pytest.approx(5 / 6)  # of 3 x 2 pairs only 2 < 3 is lost
    # right: 1/2, 1, 1 (variance 1/12, over 3); wrong: 1, 2/3 (variance 1/18, over 2)
    assert found.stderr == pytest.approx(np.sqrt(1 / 36 + 1 / 36))
    assert found.n_groups == 1


@pytest.mark.parametrize("levels", [3, 1000])
@pytest.mark.parametrize("n_groups", [0, 4])
def test_the_same_as_pair_by_pair(levels: int, n_groups: int) -> None:
    rng = np.random.default_rng(levels + n_groups)
    values = rng.integers(0, levels, 80).astype(float)
    right = rng.random(80) < 0.6
    groups = rng.integers(0, n_groups, 80) if n_groups else None
    found = auroc(values, right, groups)
    assert found is not None
    assert (found.value, found.stderr) == pytest.approx(pair_by_pair(values, right, groups))
    turned = auroc(-values, right, groups)
    assert turned is not None
    assert turned.value == pytest.approx(1 - found.value)
    assert turned.p_value == pytest.approx(found.p_value)
    cubed = auroc(values**3 + 1, right, groups)  # ranks alone count
    assert cubed == found


def test_p_is_that_of_mann_and_whitney() -> None:
    rng = np.random.default_rng(1)
    values, right = rng.integers(0, 6, 70).astype(float), rng.random(70) < 0.4
    found = auroc(values, right)
    assert found is not None
    expected = stats.mannwhitneyu(
        values[right], values[~right], method="asymptotic", use_continuity=False
    )
    assert found.p_value == pytest.approx(expected.pvalue)


@pytest.mark.slow
def test_shuffled_labels_are_within_the_interval() -> None:
    rng = np.random.default_rng(7)
    values, right = rng.normal(size=120), np.arange(120) < 40
    groups = np.arange(120) % 3
    inside = np.zeros(2)
    below = 0
    for _ in range(500):
        labels = rng.permutation(right)
        for k, found in enumerate((auroc(values, labels), auroc(values, labels, groups))):
            assert found is not None
            assert found.interval is not None
            inside[k] += found.interval[0] <= 0.5 <= found.interval[1]
            below += found.p_value < 0.05
    assert (inside / 500 >= 0.93).all()
    assert (inside / 500 <= 0.97).all()
    assert 0.03 <= below / 1000 <= 0.07


def test_the_interval_holds_a_known_effect() -> None:
    rng = np.random.default_rng(0)
    right = np.arange(150) < 100
    truth = stats.norm.cdf(1 / np.sqrt(2))  # normals one apart
    inside = 0
    for _ in range(1000):
        found = auroc(rng.normal(size=150) + right, right)
        assert found is not None
        assert found.interval is not None
        inside += found.interval[0] <= truth <= found.interval[1]
    assert 0.93 <= inside / 1000 <= 0.97


def test_groups_take_out_what_only_tells_groups_apart() -> None:
    rng = np.random.default_rng(5)
    groups = np.arange(400) % 2
    right = rng.random(400) < np.where(groups, 0.85, 0.3)
    values = groups + 0.01 * rng.normal(size=400)
    pooled, within = auroc(values, right), auroc(values, right, groups)
    assert pooled is not None
    assert within is not None
    assert within.interval is not None
    assert pooled.value > 0.7
    assert within.interval[0] < 0.5 < within.interval[1]
    control = shuffled(values, right, groups)
    assert control is not None
    assert control.low < 0.5 < control.high


@pytest.mark.parametrize(
    ("values", "right"),
    [
        ([], []),
        ([1, 1, 1, 1], [1, 1, 0, 0]),
        ([1, 2, 3], [1, 1, 1]),
        ([1, 2, 3], [1, 1, 0]),
    ],
)
def test_nothing_to_compare(values: list[float], right: list[int]) -> None:
    some, labels = np.array(values, dtype=float), np.array(right, dtype=bool)
    assert auroc(some, labels) is None
    assert shuffled(some, labels) is None


def test_perfect_separation_has_no_interval() -> None:
    found = auroc(np.arange(40.0), np.arange(40) >= 20)
    assert found is not None
    assert (found.value, found.stderr, found.interval) == (1.0, 0.0, None)
    assert found.p_value < 1e-6


def test_the_control_is_what_shuffling_gives() -> None:
    rng = np.random.default_rng(2)
    values, right = rng.integers(0, 9, 60).astype(float), np.arange(60) < 20
    control = shuffled(values, right, draws=2000)
    assert control is not None
    drawn = [pair_by_pair(values, rng.permutation(right))[0] for _ in range(300)]
    assert control.mean == pytest.approx(0.5, abs=0.01)
    assert (control.low, control.high) == pytest.approx(
        np.quantile(drawn, [0.025, 0.975]), abs=0.03
    )
    assert control == shuffled(values, right, draws=2000)
    assert control != shuffled(values, right, draws=2000, seed=1)


def test_residual_ranks_take_out_a_covariate() -> None:
    rng = np.random.default_rng(4)
    length = rng.normal(size=500)
    right = length + rng.normal(size=500) > 0
    by_length = length + 0.5 * rng.normal(size=500)  # knows of right what length knows
    before, rest = auroc(by_length, right), residual_ranks(by_length, length[:, None])
    assert before is not None
    assert before.value > 0.7
    assert rest is not None
    after = auroc(rest, right)
    assert after is not None
    assert after.interval is not None
    assert after.interval[0] < 0.5 < after.interval[1]
    more = residual_ranks(by_length + 2 * right, length[:, None])
    assert more is not None
    kept = auroc(more, right)
    assert kept is not None
    assert kept.value > 0.7


def test_residual_ranks_by_hand_and_degenerate() -> None:
    values = np.array([10.0, 30.0, 20.0, 40.0])
    covariate = np.array([[1.0], [2.0], [3.0], [4.0]])
    found = residual_ranks(values, covariate)  # ranks 1 3 2 4 on 1 2 3 4: slope 0.8, intercept 0.5
    assert found is not None
    assert found.tolist() == pytest.approx([-0.3, 0.9, -0.9, 0.3])
    constant = residual_ranks(values, np.ones((4, 1)))
    assert constant is not None
    assert constant.tolist() == pytest.approx([-1.5, 0.5, -0.5, 1.5])
    assert residual_ranks(np.ones(4), covariate) is None


def test_residual_ranks_within_groups_order_nothing_by_the_group() -> None:
    rng = np.random.default_rng(6)
    groups = np.arange(300) % 3
    covariate = groups + 0.3 * rng.normal(size=300)  # differs between groups
    assert residual_ranks(groups.astype(float), covariate[:, None], groups) is None
    right = rng.random(300) < 1 / (1 + np.exp(-4 * (covariate - groups)))
    values = groups + 0.01 * rng.normal(size=300)  # tells groups apart, and nothing within
    rest = residual_ranks(values, covariate[:, None], groups)
    assert rest is not None
    within = auroc(rest, right, groups)
    assert within is not None
    assert within.interval is not None
    assert within.interval[0] < 0.5 < within.interval[1]
    for group in range(3):  # the slope is common to the groups, ranks are their own
        assert rest[groups == group].mean() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
def test_tied_pairs_are_those_of_equal_values(levels: int) -> None:
    rng = np.random.default_rng(levels)
    values = rng.integers(0, levels, 60).astype(np.float64)
    right = rng.random(60) < 0.4
    equal = values[right][:, None] == values[~right]
    assert tied_share(values, right) == pytest.approx(equal.mean())


def test_many_ties_take_the_order_of_the_covariate() -> None:
    """A feature of two values says nothing here, and what a regression leaves seems to."""
    rng = np.random.default_rng(0)
    covariate = rng.normal(size=400)
    right = covariate + rng.normal(size=400) > 0.5
    outside = {2: 0, 1000: 0}
    for levels in outside:
        for _ in range(20):
            values = rng.integers(0, levels, 400).astype(np.float64)
            rest = residual_ranks(values, covariate[:, None])
            assert rest is not None
            found = auroc(rest, right)
            assert found is not None
            assert found.interval is not None
            outside[levels] += not found.interval[0] < 0.5 < found.interval[1]
    assert outside[2] > 8
    assert outside[1000] < 5


def by_clusters(
    values: Floats,
    right: npt.NDArray[np.bool_],
    clusters: npt.NDArray[Any],
    groups: npt.NDArray[Any] | None = None,
    other: Floats | None = None,
) -> tuple[float, float]:
    """AUROC and Obuchowski's standard error from the pairs; with `other` of the difference."""
    groups = np.zeros(len(values)) if groups is None else groups
    names = np.unique(clusters)
    parts, counts, found, weights = [], [], [], []
    for group in np.unique(groups):
        here = groups == group
        x, y = here & right, here & ~right
        wins = np.zeros((x.sum(), y.sum()))
        for sign, some in ((1, values), (-1, other)):
            if some is not None:
                pairs = some[x][:, None], some[y][None, :]
                wins += sign * ((pairs[0] > pairs[1]) + 0.5 * (pairs[0] == pairs[1]))
        weights.append(wins.size)
        found.append(wins.mean())
        for kind, placed in ((x, wins.mean(axis=1)), (y, wins.mean(axis=0))):
            away = (placed - wins.mean()) * wins.size / len(placed)
            parts.append([away[clusters[kind] == name].sum() for name in names])
            counts.append(len(np.unique(clusters[kind])))
    variance = 0.0
    for i, one in enumerate(parts):
        for j, two in enumerate(parts):
            k = counts[i] if i == j else len(names)
            variance += k / (k - 1) * np.dot(one, two)
    return np.average(found, weights=weights), np.sqrt(variance) / sum(weights)


@pytest.mark.parametrize("levels", [3, 1000])
@pytest.mark.parametrize("n_groups", [0, 3])
def test_clusters_are_those_of_obuchowski(levels: int, n_groups: int) -> None:
    rng = np.random.default_rng(levels + n_groups)
    clusters = rng.integers(0, 25, 120)
    values = rng.integers(0, levels, 120) + (clusters % 3).astype(float)
    right = rng.random(120) < np.where(clusters % 2, 0.7, 0.4)
    values += (levels // 2) * right.astype(float)
    groups = rng.integers(0, n_groups, 120) if n_groups else None
    found = auroc(values, right, groups, clusters)
    assert found is not None
    assert (found.value, found.stderr) == pytest.approx(
        by_clusters(values, right, clusters, groups), rel=1e-12
    )
    alone = auroc(values, right, groups)
    assert alone is not None
    assert found.stderr != pytest.approx(alone.stderr, rel=1e-3)
    other = rng.normal(size=120) - right
    paired = gain(values, other, right, groups, clusters)
    assert paired is not None
    below = auroc(other, right, groups)
    assert below is not None
    assert below.value < 0.5
    difference = by_clusters(values, right, clusters, groups, -other)
    assert paired.value == pytest.approx(difference[0], abs=1e-12)
    assert paired.interval[1] - paired.value == pytest.approx(1.959964 * difference[1], rel=1e-6)
    assert paired.p_value == pytest.approx(
        2 * stats.norm.sf(abs(difference[0]) / difference[1]), rel=1e-9
    )


@pytest.mark.parametrize("n_groups", [0, 3])
def test_clusters_of_one_item_change_nothing(n_groups: int) -> None:
    rng = np.random.default_rng(n_groups)
    values, right = rng.integers(0, 20, 90).astype(float), rng.random(90) < 0.6
    groups = rng.integers(0, n_groups, 90) if n_groups else None
    alone, found = auroc(values, right, groups), auroc(values, right, groups, rng.permutation(90))
    assert alone is not None
    assert found is not None
    assert found.stderr == pytest.approx(alone.stderr, abs=1e-12)
    assert found.interval == pytest.approx(alone.interval, abs=1e-12)
    assert found.p_value == pytest.approx(alone.p_value, abs=1e-12)
    assert (found.stderr, found.value) == pytest.approx(
        pair_by_pair(values, right, groups)[::-1], abs=1e-12
    )
    assert shuffled(values, right, groups, np.arange(90)) == shuffled(values, right, groups)


@pytest.mark.slow
def test_p_is_that_of_every_exchange_of_the_labels_of_clusters() -> None:
    """Labels of whole clusters go to other clusters, and in every order inside."""
    rng = np.random.default_rng(8)
    values, right = rng.integers(0, 5, 12).astype(float), rng.random(12) < 0.5
    clusters = np.repeat(np.arange(4), 3)
    drawn = []
    for order in itertools.permutations(range(4)):
        blocks = [right[3 * k : 3 * k + 3] for k in order]
        for inside in itertools.product(itertools.permutations(range(3)), repeat=4):
            labels = np.concatenate([b[list(i)] for b, i in zip(blocks, inside, strict=True)])
            drawn.append(stats.rankdata(values)[labels].sum())
    pairs = int(right.sum() * (~right).sum())
    found = auroc(values, right, None, clusters)
    assert found is not None
    z = abs(found.value - 0.5) / (np.std(drawn) / pairs)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(z), rel=1e-9)
    control = shuffled(values, right, None, clusters, draws=20000)
    assert control is not None
    lowest = int(right.sum()) * (int(right.sum()) + 1) / 2
    assert (control.low, control.high) == pytest.approx(
        np.quantile((np.array(drawn) - lowest) / pairs, [0.025, 0.975]), abs=0.015
    )


def test_p_by_clusters_in_groups_is_that_of_shuffles() -> None:
    rng = np.random.default_rng(9)
    clusters, groups = np.repeat(np.arange(40), 4), np.tile([0, 0, 1, 1], 40)
    right = rng.normal(size=40)[clusters] + 0.5 * rng.normal(size=160) > 0
    values = rng.normal(size=40)[clusters] + 0.3 * rng.normal(size=160)
    found = auroc(values, right, groups, clusters)
    control = shuffled(values, right, groups, clusters, draws=4000)
    assert found is not None
    assert control is not None
    spread = (control.high - control.low) / (2 * stats.norm.ppf(0.975))
    z = stats.norm.isf(found.p_value / 2)
    assert abs(found.value - 0.5) / z == pytest.approx(spread, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("n_groups", [0, 2])
def test_on_noise_of_clusters_p_and_the_interval_hold(n_groups: int) -> None:
    rng = np.random.default_rng(n_groups)
    clusters = np.repeat(np.arange(30), 4)
    groups = np.tile(np.arange(4) % n_groups, 30) if n_groups else None

    def shared(share: float) -> Floats:
        of_cluster = rng.normal(size=30)[clusters]
        found: Floats = np.sqrt(share) * of_cluster + np.sqrt(1 - share) * rng.normal(size=120)
        return found

    below, inside = np.zeros(2), np.zeros(2)
    for _ in range(1000):
        values, right = shared(0.9), shared(0.5) > 0
        for k, some in enumerate((clusters, None)):
            found = auroc(values, right, groups, some)
            assert found is not None
            assert found.interval is not None
            below[k] += found.p_value < 0.05
            inside[k] += found.interval[0] <= 0.5 <= found.interval[1]
    assert 0.03 <= below[0] / 1000 <= 0.07
    assert 0.93 <= inside[0] / 1000 <= 0.97
    assert below[1] / 1000 > 0.12  # items taken as independent
    assert inside[1] / 1000 < 0.89


@pytest.mark.slow
def test_two_features_that_tell_alike_have_no_gain() -> None:
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(40), 4)
    below = 0
    for _ in range(600):
        right = rng.normal(size=40)[clusters] + rng.normal(size=160) > 0
        common = right + rng.normal(size=40)[clusters] + rng.normal(size=160)
        one, two = (common + 0.7 * rng.normal(size=160) for _ in range(2))
        found = gain(one, -two, right, None, clusters)
        assert found is not None
        below += found.p_value < 0.05
    assert 0.03 <= below / 600 <= 0.07


def test_items_of_one_cluster_cannot_be_compared() -> None:
    rng = np.random.default_rng(2)
    values, right = rng.normal(size=60), np.arange(60) < 30
    assert auroc(values, right, None, np.zeros(60, dtype=np.int64)) is None
    assert auroc(values, right, None, np.where(right, 0, np.arange(60))) is None
