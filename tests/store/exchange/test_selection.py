"""What an export takes of a run, and in which order samples of a store are read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_capture import make_capture
from written_run import write_run

from lpp.store.errors import InputError
from lpp.store.exchange.export import export
from lpp.store.exchange.sample_order import mixed_batches
from lpp.store.exchange.selection import Exported
from lpp.store.format.plan import SiteSpec


@pytest.mark.parametrize("given", [[2, 2, 2], []])
def test_the_loss_mask_is_of_written_tokens(tmp_path: Path, given: list[int]) -> None:
    lengths = (3, 4, 4)
    run = write_run(tmp_path / "store", shards=[lengths[:2], lengths[2:]], given=given).run
    selection = Exported(run=run, sites=("final",))
    mask = [value for part in selection.parts() for value in part.loss_mask.tolist()]
    first = given or [0, 0, 0]
    assert mask == [t >= g for n, g in zip(lengths, first, strict=True) for t in range(n)]


def test_the_loss_mask_is_without_prompts_set_aside(tmp_path: Path) -> None:
    made = write_run(tmp_path / "store", shards=[[3, 4], [4]], given=[2, 2, 2], quarantined=[1])
    (part,) = Exported(run=made.run, sites=("final",)).parts()
    assert part.loss_mask.tolist() == [False, False, True, False, False, True, True]


def test_speculators_take_rows_of_one_type(tmp_path: Path) -> None:
    """Its files have one: the bits of one site would be read as numbers of another type."""
    hidden: dict[str, np.ndarray] = {
        "embed": np.ones((21, 4), np.uint16),
        "block.1": np.ones((21, 4), np.float32),
    }
    sites = (
        SiteSpec(name="embed", convention="residual", width=4),
        SiteSpec(name="block.1", convention="residual", width=4, dtype="float32"),
    )
    capture = make_capture(hidden=hidden)
    run = replace(capture, plan=replace(capture.plan, sites=sites)).write(tmp_path / "store")
    with pytest.raises(InputError, match=r"embed is bfloat16, block.1 is float32"):
        export(run, "speculators", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export(run, "speculators", tmp_path / "out", sites=["block.1"])
    export(run, "safetensors", tmp_path / "each")


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
