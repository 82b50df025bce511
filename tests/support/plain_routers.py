"""What routers of mixtures of experts choose, computed plainly from their input in float64."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

Choices = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""(n, k) experts of each token and their weights."""


def largest(scores: npt.NDArray[Any], k: int) -> npt.NDArray[Any]:
    """(n, k) the places of the k largest scores of each row, the largest first."""
    return np.argsort(-scores, axis=1)[:, :k]


def softmax(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    shares: npt.NDArray[Any] = exponentials / exponentials.sum(1, keepdims=True)
    return shares


def of_all(gate: Any, states: npt.NDArray[Any], *, sums_to_1: bool) -> Choices:
    """A softmax over all experts, of which the k largest are taken."""
    shares = softmax(states @ gate.weight.double().numpy().T)
    chosen = largest(shares, gate.top_k)
    weights = np.take_along_axis(shares, chosen, 1)
    return chosen, weights / weights.sum(1, keepdims=True) if sums_to_1 else weights


def of_chosen(gate: Any, states: npt.NDArray[Any]) -> Choices:
    """The k largest logits, and a softmax over these."""
    logits = states @ gate.weight.double().numpy().T
    if hasattr(gate, "bias"):
        logits += gate.bias.double().numpy()
    chosen = largest(logits, gate.top_k)
    return chosen, softmax(np.take_along_axis(logits, chosen, 1))


def of_groups(gate: Any, states: npt.NDArray[Any]) -> Choices:
    """Sigmoids. With a correction for each expert, the best groups by their two best experts are
    chosen, and experts in these; weights are without the correction.
    """
    sigmoids = 1 / (1 + np.exp(-states @ gate.weight.double().numpy().T))
    scores = sigmoids + gate.e_score_correction_bias.double().numpy()
    in_groups = scores.reshape(len(scores), gate.num_group, -1)
    of_group = np.sort(in_groups, axis=2)[:, :, -2:].sum(2)
    allowed = np.zeros_like(in_groups, bool)
    np.put_along_axis(allowed, largest(of_group, gate.topk_group)[:, :, None], True, 1)
    chosen = largest(np.where(allowed.reshape(scores.shape), scores, -np.inf), gate.top_k)
    weights = np.take_along_axis(sigmoids, chosen, 1)
    if gate.norm_topk_prob:
        weights = weights / weights.sum(1, keepdims=True)
    return chosen, weights * gate.routed_scaling_factor


RULES: Final[dict[str, Callable[..., Choices]]] = {
    "mixtral": partial(of_all, sums_to_1=True),
    "qwen3_moe": partial(of_all, sums_to_1=False),
    "olmoe": partial(of_all, sums_to_1=False),
    "gpt_oss": of_chosen,
    "granitemoe": of_chosen,
    "deepseek_v3": of_groups,
    "glm4_moe": of_groups,
}


def gates(model: Any) -> dict[int, Any]:
    """The router of each block that has one, by its number from 1."""
    found = {}
    for number, block in enumerate(model.model.layers, 1):
        parts = dict(block.named_modules())
        for name in ("mlp.gate", "mlp.router", "block_sparse_moe.router"):
            if hasattr(parts.get(name), "top_k"):
                found[number] = parts[name]
    return found


@contextmanager
def inputs_of(modules: Mapping[int, Any]) -> Iterator[dict[int, list[npt.NDArray[Any]]]]:
    """While open, collects the states that each module is called on, (n, d) float64 a call."""
    seen: dict[int, list[npt.NDArray[Any]]] = {number: [] for number in modules}

    def keep(number: int, module: Any, args: Any) -> None:
        seen[number].append(args[0].detach().reshape(-1, args[0].shape[-1]).double().numpy())

    handles = [
        module.register_forward_pre_hook(partial(keep, number))
        for number, module in modules.items()
    ]
    yield seen
    for handle in handles:
        handle.remove()


@torch.inference_mode()
def recomputed(model: Any, rule: Callable[..., Choices], prompts: Sequence[Any]) -> dict[str, Any]:
    """Site -> rows of each prompt alone, one after the other, by plain code."""
    with inputs_of(gates(model)) as seen:
        for ids in prompts:
            model(torch.tensor([[*map(int, ids)]]), use_cache=False)
    rows: dict[str, Any] = {}
    for number, gate in gates(model).items():
        chosen, weights = rule(gate, np.concatenate(seen[number]))
        rows |= {f"router.{number}": chosen, f"router.{number}.weight": weights}
    return rows
