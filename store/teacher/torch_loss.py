"""KL divergence between a stored teacher and a student in torch, some tokens at a time.

The gradient is computed with the loss, tile by tile, as fused losses do (Hsu et al. 2024, Liger
Kernel, arXiv 2410.10989): the logits of a tile are freed before those of the next are made.
Products are in the dtype of each model, as the model itself computes them, all else in float32.
"""

from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lpp.store.errors import InputError
from lpp.store.shared.logits import Head

LOGITS_BYTES: Final = 64 << 20
"""Bytes of the logits of a tile in float32; five such tensors exist at a time at most."""

_DTYPE: Final = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


class DeviceHead:
    """The head of a teacher on a device. Products are those of the model itself: torch's own
    kernels, in the dtype of the head.
    """

    def __init__(self, head: Head, device: torch.device) -> None:
        self.vocabulary, self.width = head.vocabulary, head.width
        self._dtype, self._steps = _DTYPE[head.dtype], head.steps
        weight = head.weight
        bits = weight.view(np.int16) if weight.dtype == np.uint16 else weight
        tensor = torch.from_numpy(bits)
        held = tensor.view(torch.bfloat16) if weight.dtype == np.uint16 else tensor
        self._weight = held.to(device, self._dtype)
        self._bias = (
            None if head.bias is None else torch.from_numpy(head.bias).to(device, self._dtype)
        )

    def logits(self, final: Tensor) -> Tensor:
        """(m, V) float32 of (m, d) rows."""
        logits = functional.linear(final.to(self._dtype), self._weight, self._bias)
        self._steps.take(logits)
        return logits.float()


class _TiledKL(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 (autograd passes arguments by position)
        ctx: Any,
        teacher: DeviceHead,
        final: Tensor,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        reverse: bool,
        temperature: float,
        mask: Tensor,
    ) -> Tensor:
        head_learns = ctx.needs_input_grad[3]
        grad_hidden = torch.zeros_like(hidden)
        grad_weight = torch.zeros_like(weight).float() if head_learns else None
        grad_bias = None if bias is None else torch.zeros_like(bias).float()
        dtype = hidden.dtype  # of the student's own products
        own_weight = weight.to(dtype)
        own_bias = None if bias is None else bias.to(dtype)
        total, loss = mask.sum(), torch.zeros((), dtype=torch.float64, device=hidden.device)
        step = max(1, LOGITS_BYTES // (4 * weight.shape[0]))
        for start in range(0, len(hidden), step):
            tile = slice(start, start + step)
            rows = hidden[tile]
            logits = functional.linear(rows, own_weight, own_bias).float()
            per_token, slope = _divergence(
                teacher.logits(final[tile]), logits, reverse, temperature
            )
            share = mask[tile] / total
            loss += (per_token.double() * share).sum()
            scale, slope = (share / temperature)[:, None], slope.to(dtype)
            grad_hidden[tile] = ((slope @ own_weight) * scale).to(dtype)
            if grad_weight is not None:
                grad_weight += slope.T @ (rows * scale).to(dtype)
            if grad_bias is not None:
                grad_bias += (slope.T @ scale.to(dtype))[:, 0]
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
        of_weight = None if grad_weight is None else (grad_weight * upstream).to(weight_dtype)
        return None, None, of_hidden, of_weight, of_bias, None, None, None


def _divergence(
    theirs: Tensor, ours: Tensor, reverse: bool, temperature: float
) -> tuple[Tensor, Tensor]:
    """KL divergence of each token, (m,), and its slope times the temperature, (m, V).

    theirs, ours: (m, V) float32 logits. Few passes over V values: log_softmax is one of rows that
    stay in the cache, the rest is in place.
    """
    if temperature != 1:
        theirs, ours = theirs / temperature, ours / temperature
    gap, ours = torch.log_softmax(theirs, dim=1), torch.log_softmax(ours, dim=1)
    if reverse:
        gap = gap.neg_().add_(ours)
        q = ours.exp_()
        per_token = torch.linalg.vecdot(q, gap)
        return per_token, gap.sub_(per_token[:, None]).mul_(q)
    p = gap.exp()
    gap.sub_(ours)
    return torch.linalg.vecdot(p, gap), ours.exp_().sub_(p)


def kl_divergence(
    head: DeviceHead,
    final: Any,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    reverse: bool,
    temperature: float,
    mask: Tensor | None,
) -> Tensor:
    """`Teacher.loss`."""
    n, width = hidden.shape
    if tuple(final.shape) != (n, head.width) or tuple(weight.shape) != (head.vocabulary, width):
        raise InputError(
            f"final {tuple(final.shape)}, hidden {tuple(hidden.shape)} and weight "
            f"{tuple(weight.shape)}, should be (n, {head.width}), (n, d) and "
            f"({head.vocabulary}, d)."
        )
    rows = final if isinstance(final, Tensor) else torch.from_numpy(final)
    weights = torch.ones(n) if mask is None else mask.float()
    if tuple(weights.shape) != (n,) or not 0 < float(weights.sum()) < float("inf"):
        raise InputError(
            f"{n} rows, and a mask of shape {tuple(weights.shape)} whose sum is "
            f"{float(weights.sum())}: there is no mean over no row. Leave such a batch out."
        )
    device = hidden.device
    if torch.is_autocast_enabled(device.type):  # the student's own products would be in that dtype
        hidden = hidden.to(torch.get_autocast_dtype(device.type))
    with torch.autocast(device.type, enabled=False):
        loss: Tensor = _TiledKL.apply(  # type: ignore[no-untyped-call]
            head,
            rows.to(device),
            hidden,
            weight,
            bias,
            reverse,
            temperature,
            weights.to(device),
        )
    return loss
