"""KL divergence between a stored teacher and a student in torch, some tokens at a time.

The gradient is computed with the loss, tile by tile, as fused losses do (Hsu et al. 2024, Liger
Kernel, arXiv 2410.10989): the logits of a tile are freed before those of the next are made.
"""

from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from lpp.store.shared.logits import Head

LOGITS_BYTES: Final = 64 << 20
"""Bytes of the logits of a tile in float32; five such tensors exist at a time."""

_DTYPE: Final = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


class _Teacher:
    """The head of a teacher on a device."""

    def __init__(self, head: Head, device: torch.device) -> None:
        weight = head.weight
        bits = weight.view(np.int16) if weight.dtype == np.uint16 else weight
        tensor = torch.from_numpy(bits).to(device)
        self._weight = tensor.view(torch.bfloat16) if weight.dtype == np.uint16 else tensor
        self._bias = None if head.bias is None else torch.from_numpy(head.bias).to(device)
        self._dtype, self._operations = _DTYPE[head.dtype], head.steps.operations

    def logits(self, final: Tensor) -> Tensor:
        """(m, V) float32 of (m, d) rows, rounded to the dtype of the head as the model does."""
        logits = final.float() @ self._weight.float().T
        if self._bias is not None:
            logits += self._bias
        logits = self._rounded(logits)
        for name, constants in self._operations:
            getattr(logits, f"{name}_")(*constants)
            logits = self._rounded(logits)
        return logits

    def _rounded(self, logits: Tensor) -> Tensor:
        return logits if self._dtype == torch.float32 else logits.to(self._dtype).float()


class _TiledKL(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 (autograd passes arguments by position)
        ctx: Any,
        teacher: _Teacher,
        final: Tensor,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        reverse: bool,
        temperature: float,
        mask: Tensor,
    ) -> Tensor:
        grad_hidden, grad_weight = torch.zeros_like(hidden), torch.zeros_like(weight).float()
        grad_bias = None if bias is None else torch.zeros_like(bias).float()
        wide = weight.float()
        total, loss = mask.sum(), torch.zeros((), dtype=torch.float64, device=hidden.device)
        step = max(1, LOGITS_BYTES // (4 * weight.shape[0]))
        for start in range(0, len(hidden), step):
            tile = slice(start, start + step)
            rows = hidden[tile].float()
            logits = rows @ wide.T
            if bias is not None:
                logits += bias.float()
            theirs = torch.log_softmax(teacher.logits(final[tile]) / temperature, dim=1)
            ours = torch.log_softmax(logits / temperature, dim=1)
            if reverse:
                p, gap = ours.exp(), ours - theirs
                per_token = (p * gap).sum(dim=1)
                slope = p * (gap - per_token[:, None])
            else:
                p = theirs.exp()
                per_token = (p * (theirs - ours)).sum(dim=1)
                slope = ours.exp() - p
            share = mask[tile] / total
            loss += (per_token.double() * share).sum()
            slope *= (share / temperature)[:, None]
            grad_hidden[tile] = (slope @ wide).to(hidden.dtype)
            grad_weight += slope.T @ rows
            if grad_bias is not None:
                grad_bias += slope.sum(dim=0)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        return loss.to(torch.float32)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (upstream,) = grads
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        of_bias = None if grad_bias is None else (grad_bias * upstream).to(bias_dtype)
        of_hidden = (grad_hidden * upstream).to(grad_hidden.dtype)
        of_weight = (grad_weight * upstream).to(weight_dtype)
        return None, None, of_hidden, of_weight, of_bias, None, None, None


def kl_divergence(
    head: Head,
    final: Any,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    reverse: bool,
    temperature: float,
    mask: Tensor | None,
) -> Tensor:
    """`Teacher.loss`. ValueError for shapes that do not fit."""
    n, width = hidden.shape
    if tuple(final.shape) != (n, head.width) or tuple(weight.shape) != (head.vocabulary, width):
        raise ValueError(
            f"final {tuple(final.shape)}, hidden {tuple(hidden.shape)} and weight "
            f"{tuple(weight.shape)}, should be (n, {head.width}), (n, d) and "
            f"({head.vocabulary}, d)"
        )
    rows = final if isinstance(final, Tensor) else torch.from_numpy(final)
    weights = torch.ones(n) if mask is None else mask.float()
    loss: Tensor = _TiledKL.apply(  # type: ignore[no-untyped-call]
        _Teacher(head, hidden.device),
        rows.to(hidden.device),
        hidden,
        weight,
        bias,
        reverse,
        temperature,
        weights.to(hidden.device),
    )
    return loss
