"""The order in which samples of a store are read: groups that are mixed."""

import numpy as np
import pytest

from lpp.store.exchange.sample_order import mixed_batches


@pytest.mark.parametrize(("lanes", "at_once"), [(1, 1), (1, 8), (12, 8), (30, 1000)])
def test_each_sample_comes_once_and_lanes_have_groups_of_their_own(
    lanes: int, at_once: int
) -> None:
    rng = np.random.default_rng(0)
    groups, lengths = np.arange(4000) // 10, rng.integers(1, 400, 4000)
    batches = mixed_batches(groups, lengths, 2000, at_once=at_once, lanes=lanes, rng=rng)
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(4000))
    tokens = np.array([lengths[batch].sum() for batch in batches])
    assert tokens.max() <= 2000
    assert np.sort(tokens)[lanes:].min() > 1600  # all but the last of each lane are full
    numbers = [[k for k, batch in enumerate(batches) if g in groups[batch]] for g in range(400)]
    own = [of_group for of_group in numbers if len({k % lanes for k in of_group}) == 1]
    assert len(own) > 300
    # a worker keeps few groups: one is done soon after it was begun
    assert np.median([max(of_group) - min(of_group) for of_group in own]) <= lanes * (at_once + 1)


def test_neighbours_are_as_far_apart_as_in_a_permutation_once_groups_are_mixed() -> None:
    groups, lengths = np.arange(8000) // 10, np.full(8000, 100)
    pairs = {}
    for at_once in (1, 40, 800):
        rng = np.random.default_rng(1)
        batches = mixed_batches(groups, lengths, 4000, at_once=at_once, lanes=2, rng=rng)
        pairs[at_once] = np.mean([len(np.unique(groups[batch])) for batch in batches])
    uniform = 800 * (1 - (1 - 1 / 800) ** 40)
    assert pairs[1] < 6
    assert pairs[40] > 0.6 * uniform
    assert pairs[800] > 0.97 * uniform


def test_samples_that_are_longer_than_a_batch_and_no_samples() -> None:
    rng = np.random.default_rng(0)
    long = mixed_batches(np.arange(5), np.full(5, 30), 20, at_once=2, lanes=2, rng=rng)
    assert sorted(np.concatenate(long).tolist()) == [0, 1, 2, 3, 4]
    assert {len(batch) for batch in long} == {1}
    none = np.zeros(0, np.int64)
    assert mixed_batches(none, none, 20, at_once=2, lanes=2, rng=rng) == []
