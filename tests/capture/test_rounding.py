"""Rounding to nearest: by hand, against a plain loop, and which weights of a model it changes."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lpp.capture.models.structure.rounding import round_blocks, round_to_nearest
from lpp.store.errors import InputError

WEIGHT = torch.randn(7, 40, generator=torch.Generator().manual_seed(0))


def plain(weight: torch.Tensor, bits: int) -> list[list[float]]:
    """One value at a time, in float64: the nearest of all that a row may take."""
    rounded = []
    for row in weight.double().tolist():
        most = 2 ** (bits - 1) - 1
        step = max(abs(value) for value in row) / most
        grid = [k * step for k in range(-most, most + 1)]
        rounded.append([min(grid, key=lambda one: abs(one - value)) for value in row])
    return rounded


def test_by_hand_at_three_bits() -> None:
    weight = torch.tensor([[3.0, 1.4, -0.4, -1.6], [-0.3, 0.1, 0.04, 0.16]])
    found = round_to_nearest(weight, 3)  # seven values: steps of 1 and of 0.1
    np.testing.assert_allclose(found, [[3.0, 1.0, 0.0, -2.0], [-0.3, 0.1, 0.0, 0.2]], rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_equals_a_plain_loop(bits: int) -> None:
    found = round_to_nearest(WEIGHT, bits)
    np.testing.assert_allclose(found, plain(WEIGHT, bits), rtol=1e-5)
    assert max(len(row.unique()) for row in found) <= 2**bits - 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_twice_changes_nothing_more(dtype: torch.dtype) -> None:
    once = round_to_nearest(WEIGHT.to(dtype), 4)
    assert once.dtype == dtype
    assert torch.equal(round_to_nearest(once, 4), once)


def test_fewer_bits_lie_further_away() -> None:
    errors = [float((round_to_nearest(WEIGHT, bits) - WEIGHT).norm()) for bits in (8, 6, 4, 3, 2)]
    assert errors == sorted(errors)
    assert errors[0] > 0


def test_a_row_of_zeros_stays() -> None:
    assert round_to_nearest(torch.zeros(2, 3), 4).tolist() == [[0.0] * 3] * 2


def test_one_bit_is_refused() -> None:
    with pytest.raises(InputError, match="at least 2"):
        round_to_nearest(WEIGHT, 1)


def test_only_linear_weights_of_blocks_change(tiny_model: Callable[[str], Any]) -> None:
    model = copy.deepcopy(tiny_model("qwen2"))  # has biases
    before = copy.deepcopy(model.state_dict())
    round_blocks(model, 4)
    changed = {
        name for name, weight in model.state_dict().items() if not weight.equal(before[name])
    }
    linear = {name for name in before if "proj" in name and name.endswith("weight")}
    assert len(linear) == 3 * 7
    assert changed == linear
    for name in linear:
        assert model.state_dict()[name].equal(round_to_nearest(before[name], 4))


def test_a_model_without_linear_layers_in_its_blocks_is_refused(
    tiny_model: Callable[[str], Any],
) -> None:
    with pytest.raises(InputError, match="linear layer"):
        round_blocks(copy.deepcopy(tiny_model("gpt2")), 4)  # its Conv1D is the transpose of one
