"""Weights rounded to a few bits, the simplest quantisation: a controlled change of a model.

Round to nearest on a symmetric grid for each output channel, the usual baseline of weight
quantisation (Frantar et al. 2023, arXiv 2210.17323, section 5). The rounded weights keep their
dtype, so the model runs as before, neither smaller nor faster.
"""

from typing import Final

import torch
from torch import nn

from lpp.capture.models.structure.anatomy import unmapped
from lpp.capture.models.structure.find_sites import find_sites
from lpp.store.errors import InputError

LEAST_BITS: Final = 2
"""Fewest bits of a symmetric grid: one bit has only the value 0."""


@torch.no_grad()
def round_blocks(model: nn.Module, bits: int) -> None:
    """Round the weights of every linear layer inside the blocks of `model`, in place.

    The embedding, the head, norms and biases stay as they are. Costs a forward pass of a few tokens
    to find the blocks, and one matrix in float32 at a time. Raises InputError for fewer than 2 bits
    and for a model whose blocks hold no linear layer.
    """
    blocks = find_sites(model).blocks
    layers = [part for block in blocks for part in block.modules() if isinstance(part, nn.Linear)]
    if not layers:
        raise unmapped(model, "its blocks have no linear layer whose weights could be rounded")
    for layer in layers:
        layer.weight.copy_(round_to_nearest(layer.weight, bits))


def round_to_nearest(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """(outputs, inputs) `weight` with each value at the nearest of the 2^bits - 1 of its row.

    The values of a row are k s, where k goes from -(2^(bits - 1) - 1) to 2^(bits - 1) - 1 and the
    largest k s is the largest |value| of the row. Computed in float32, then cast to the dtype of
    `weight`; a value halfway between two steps goes to the even k. Raises InputError for fewer than
    2 bits.

    >>> round_to_nearest(torch.tensor([[7.0, -3.4, 0.6], [0.0, 0.0, 0.0]]), 4).tolist()
    [[7.0, -3.0, 1.0], [0.0, 0.0, 0.0]]
    """
    if bits < LEAST_BITS:
        raise InputError(
            f"{bits} bits: a symmetric grid takes at least {LEAST_BITS}. Ask for more."
        )
    wide = weight.float()
    most = 2 ** (bits - 1) - 1
    step = wide.abs().amax(dim=1, keepdim=True) / most
    steps = torch.where(step > 0, wide / step, 0.0).round()
    rounded: torch.Tensor = (steps * step).to(weight.dtype)
    return rounded
