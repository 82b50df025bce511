"""The study of detection on a tiny model: damage by value, and the command from end to end."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.detection.damage import (
    GROUP,
    Dose,
    doses,
    linear_layers,
    noisy,
    pruned,
    rounded,
)
from benchmarks.detection.measure import (
    OF_SITES,
    base_of,
    floor_of,
    key,
    on_all_draws,
    over_all,
)
from benchmarks.detection.power import shown
from benchmarks.detection.runs import captured, changed_model
from benchmarks.detection.setting import DRAWN, Setting
from lpp.analyze import scan_entropy
from lpp.analyze.drift.pair import pair_of
from lpp.analyze.drift.predictions import token_drift

BLOCKS = 3
NULL = "null-batches-of-512-tokens"


def by_name(name: str, n_blocks: int = BLOCKS) -> Dose:
    return next(dose for dose in doses(n_blocks) if dose.name == name)


@pytest.fixture
def setting(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Setting:
    return Setting(
        model=tiny_folder("llama"),
        n_blocks=BLOCKS,
        root=tmp_path,
        prompts=12,
        context=16,
        n_sites=3,
        sizes=(6, 10),
        draws=5,
    )


WEIGHT = torch.randn((7, 150), generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("bits", [8, 4, 3])
@pytest.mark.parametrize("group", [None, GROUP])
def test_no_weight_moves_by_more_than_half_a_step(bits: int, group: int | None) -> None:
    found = rounded(WEIGHT, bits, group)
    for part, new in zip(WEIGHT.split(group or 150, 1), found.split(group or 150, 1), strict=True):
        step = part.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert ((part - new).abs() <= step / 2 * (1 + 1e-12)).all()
        assert torch.allclose((new / step).round(), new / step, atol=1e-9)
        assert len(new[0].unique()) <= 2**bits - 1
    assert not found.equal(WEIGHT)


def test_pruning_takes_the_smallest_and_no_more_than_its_share() -> None:
    found = pruned(WEIGHT, 0.3)
    gone = found == 0
    assert gone.sum() == 315
    assert WEIGHT[gone].abs().max() <= WEIGHT[~gone].abs().min()
    assert found[~gone].equal(WEIGHT[~gone])
    assert (pruned(torch.ones(10), 0.5) == 0).tolist() == [True] * 5 + [False] * 5


def test_noise_has_its_size_and_a_seed() -> None:
    large = WEIGHT.float().repeat(20, 20)
    moved = noisy(large, 0.1, 3) - large
    share = (moved.square().mean() / large.square().mean()).sqrt()
    assert float(share) == pytest.approx(0.1, rel=0.01)
    assert noisy(large, 0.1, 3).equal(noisy(large, 0.1, 3))
    assert not noisy(large, 0.1, 4).equal(noisy(large, 0.1, 3))


def hidden(model: Any) -> list[torch.Tensor]:
    ids = torch.arange(5, 17)[None]
    with torch.no_grad():
        return list(model(input_ids=ids, output_hidden_states=True).hidden_states)


def test_a_block_that_is_left_out_is_the_identity(setting: Setting) -> None:
    dose = next(dose for dose in doses(BLOCKS) if dose.kind == "block" and dose.amount == 2)
    before, after = (hidden(changed_model(setting, one)[0]) for one in (by_name(NULL), dose))
    assert after[2].equal(after[1])
    assert after[1].equal(before[1])
    assert not before[2].equal(before[1])


def test_units_in_another_order_compute_the_same(setting: Setting) -> None:
    dose = by_name("null-mlp-units-in-another-order-seed-1")
    base, other = (changed_model(setting, one)[0] for one in (by_name(NULL), dose))
    first = [next(linear_layers(model)).weight for model in (base, other)]
    assert first[0].equal(first[1])  # attention stays
    up = [model.model.layers[0].mlp.up_proj.weight for model in (base, other)]
    assert not up[0].equal(up[1])
    assert up[0].sort(dim=0).values.equal(up[1].sort(dim=0).values)
    for before, after in zip(hidden(base), hidden(other), strict=True):
        assert torch.allclose(before, after, atol=1e-5)


def test_numbers_on_draws_are_those_of_the_package(setting: Setting) -> None:
    setting = dataclasses.replace(setting, sizes=(12,), draws=1)  # a draw of all prompts
    pair = pair_of(base_of(setting).run, captured(setting, by_name("noise-0.1")))
    frame = token_drift(pair)
    points = over_all(setting, pair, frame, DRAWN)
    found = on_all_draws(setting, pair, frame)
    numbers = shown(setting.middle)
    assert found.keys() == {key(one.of, one.site) for one in numbers}
    for one in numbers:
        own = points["sites"][one.site] if one.of in OF_SITES else points
        value = found[key(one.of, one.site)]
        assert value.shape == (1, 1)
        assert value[0, 0] == pytest.approx(own[one.of][0], rel=1e-5, abs=1e-9), one.name


def test_entropies_after_prefixes_are_those_of_the_profile(setting: Setting) -> None:
    run = base_of(setting).run
    floor = floor_of(pair_of(run, run))
    profile = scan_entropy(setting.store("base")).filter(context=16, n_prompts=12).collect()
    assert floor.a.mean(axis=0) == pytest.approx(profile.sort("prefix")["entropy_norm"].to_list())
    assert floor(np.ones((1, 12))) == 0
