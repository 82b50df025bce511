"""The head of a loaded model, to be stored: its matrix and the steps after the product.

A plain linear layer is used as it is. For any other layer (quantised, offloaded, with an adapter)
the columns of its matrix are computed from unit vectors: the output for the unit vector of feature
j is column j, whatever the layer does. This is correct only if the layer is linear and rounds
nothing in between, so such a matrix is stored only if it gives the model's own logits on a few
tokens.
"""

from typing import Any, Final, TypeGuard

import numpy as np
import torch
from torch import nn

from lpp.capture.models.structure.unembedding import Unembedding
from lpp.store.arrays.layout import Rows
from lpp.store.format.plan import StoredDtype
from lpp.store.shared.logits import Head, HeadContent, entropy_and_log_z
from lpp.store.shared.logits_proof import Stored, compare_logits
from lpp.store.shared.matrices import Matrix

DTYPES: Final[dict[torch.dtype, StoredDtype]] = {
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.float32: "float32",
}
"""Dtypes of matrices that can be stored."""

UNIT_VECTORS: Final = 256
"""Columns of a matrix that are computed at once."""


@torch.inference_mode()
def head_content(unembedding: Unembedding) -> HeadContent | str:
    """The head of `unembedding` in host memory, or a short reason why it cannot be stored.

    Shares the memory of a matrix that is on the CPU. A matrix that is computed from unit vectors
    costs d rows through its layer.
    """
    module, steps = unembedding.module, unembedding.steps
    weight = getattr(module, "weight", None)
    if type(module) is nn.Linear and is_plain(weight):
        return HeadContent(matrix=host_matrix(weight, module.bias), steps=steps)
    try:
        content = HeadContent(matrix=_asked_for(unembedding), steps=steps)
    except Exception as error:  # a custom layer may raise any error
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        return f"{type(module).__name__} gives no matrix: {why}"
    if not _reproduces(content, unembedding):
        return f"no plain matrix gives the logits of {type(module).__name__}"
    return content


def is_plain(weight: object) -> TypeGuard[torch.Tensor]:
    """Whether a weight is in memory as plain numbers, not quantised or offloaded."""
    return (
        isinstance(weight, torch.Tensor)
        and type(weight.data) is torch.Tensor
        and not weight.is_meta
        and weight.dtype in DTYPES
    )


def host_matrix(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Matrix:
    """A matrix in host memory, as a store has it. weight: (V, d). bias: (V,)."""
    return Matrix(
        dtype=DTYPES[weight.dtype],
        weight=_stored(weight),
        bias=None if bias is None else _stored(bias.to(weight.dtype)[:, None]),
    )


def _stored(values: torch.Tensor) -> Rows:
    values = values.detach().cpu().contiguous()
    if values.dtype == torch.bfloat16:
        bits: Rows = values.view(torch.int16).numpy().view(np.uint16)
        return bits
    rows: Rows = values.numpy()
    return rows


def _asked_for(unembedding: Unembedding) -> Matrix:
    """The matrix of a layer from its outputs for unit vectors, its bias from that for zeros."""
    probe = unembedding.probe
    if probe is None or unembedding.dtype not in DTYPES:
        raise ValueError(f"logits of {str(unembedding.dtype)[6:]}")
    width, device = probe.final.shape[-1], probe.final.device
    like: Any = {"dtype": probe.final.dtype, "device": device}
    bias = unembedding.module(torch.zeros(1, width, **like))[0]
    weight = torch.empty(unembedding.vocabulary, width, dtype=unembedding.dtype)
    for start in range(0, width, UNIT_VECTORS):
        count = min(UNIT_VECTORS, width - start)
        vectors = torch.zeros(count, width, **like)
        vectors[torch.arange(count), torch.arange(start, start + count)] = 1
        weight[:, start : start + count] = (unembedding.module(vectors) - bias).t()
    return host_matrix(weight, bias if bool(bias.any()) else None)


def _reproduces(content: HeadContent, unembedding: Unembedding) -> bool:
    """Whether a head gives the model's own logits on a few tokens."""
    probe = unembedding.probe
    assert probe is not None
    logits = probe.logits.float().cpu().numpy()
    entropy, log_z = entropy_and_log_z(logits)
    stored = Stored(entropy=entropy, log_z=log_z, top1_id=logits.argmax(axis=1).astype(np.int32))
    return not compare_logits(Head(content), probe.final.float().cpu().numpy(), stored).problem
