"""Damage to a model, in declared doses, and nulls, which change rounding and nothing else.

Every kind changes the weights of the linear layers inside the blocks. Embeddings, norms and the
unembedding stay, so the logits of all models are made with one matrix. Weights are computed in
float32 and end in the model's dtype. The same dose gives the same weights on every call: what is
random has a seed.

The packaged model was quantised once already (GGUF Q4_1: 4 bits in groups of 32 along the input),
so its weights lie on that grid. Rounding in those groups would cost next to nothing. The groups
here have 64 weights, or all of an output channel, and so a step of their own.
"""

import copy
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

GROUP: Final = 64
"""Weights that share a step, along the input."""

SEEDS: Final = 3
"""Realisations of every random dose: other noise, other texts."""

BATCH: Final = 4
"""Texts of a step of fine-tuning."""

LENGTH: Final = 128
"""Tokens of a text of fine-tuning."""

RATE: Final = 2e-5
"""Learning rate of fine-tuning, AdamW: usual for a model of this size."""

Change = Callable[[nn.Module, Any], None]
"""Changes a model in place; the second argument is its tokenizer."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One way to change a model."""

    title: str
    unit: str
    """Of the dose."""
    why: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Dose:
    """One changed model."""

    name: str
    kind: str
    """A key of `KINDS`."""
    amount: float
    label: str
    seed: int = 0
    """Number of the realisation, where the damage is random."""
    change: Change | None = None
    """None: the weights stay."""
    loading: dict[str, Any] = field(default_factory=dict)
    """Options of `from_pretrained`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of `capture`."""


NULL: Final = "null"

KINDS: Final[dict[str, Kind]] = {
    NULL: Kind(
        title="null",
        unit="",
        why="the same function with other rounding: what a number says where nothing changed",
        source="none",
    ),
    "round-channel": Kind(
        title="rounded, a step per channel",
        unit="bits",
        why="round to nearest, symmetric, the largest weight of an output channel at the end of "
        "the scale: the plainest quantisation",
        source="the baseline of GPTQ, arXiv 2210.17323",
    ),
    "round-group": Kind(
        title=f"rounded, a step per {GROUP} weights",
        unit="bits",
        why="as above with a step for each group: what 4-bit formats do",
        source="arXiv 2210.17323, section 4",
    ),
    "prune": Kind(
        title="pruned by magnitude",
        unit="% of the weights",
        why="the smallest weights of each matrix become 0",
        source="Han et al. 2015, arXiv 1506.02626",
    ),
    "noise": Kind(
        title="noise on the weights",
        unit="of each matrix's root mean square",
        why="independent Gaussian noise: damage without structure, as of analog hardware",
        source="Joshi et al. 2020, arXiv 1906.03138",
    ),
    "block": Kind(
        title="one block left out",
        unit="block",
        why="a block adds nothing to the residual stream",
        source="ShortGPT, arXiv 2403.03853",
    ),
    "tune": Kind(
        title="fine-tuned on source code",
        unit="steps",
        why=f"AdamW at {RATE:g}, {BATCH} texts of {LENGTH} tokens of Python's standard library a "
        "step: a change that is meant",
        source="Loshchilov and Hutter 2019, arXiv 1711.05101",
    ),
}
"""Why each damage is here, and whose it is."""


def doses(n_blocks: int) -> list[Dose]:
    """Every null and every dose, weakest first within its kind. n_blocks: of the model."""
    found = [
        _null("batches of 512 tokens", options={"batch_tokens": 512}),
        _null("eager attention", loading={"attn_implementation": "eager"}),
        *(
            _null(f"MLP units in another order, seed {seed}", change=_reordered(seed))
            for seed in range(3)
        ),
    ]
    for kind, group in (("round-channel", None), ("round-group", GROUP)):
        found += [
            _dose(kind, bits, f"{bits} bits", _each(_rounding(bits, group)))
            for bits in (8, 6, 5, 4, 3)
        ]
    found += [
        _dose("prune", share, f"{share} %", _each(_pruning(share / 100)))
        for share in (5, 10, 20, 30, 50)
    ]
    found += [
        _dose("noise", sigma, f"{sigma:g}", _each(_noise(sigma, seed)), seed)
        for sigma in (0.003, 0.01, 0.03, 0.1)
        for seed in range(SEEDS)
    ]
    for share in (1 / 8, 1 / 2, 7 / 8):
        block = max(1, round(n_blocks * share))
        found.append(_dose("block", block, f"block {block}", _leaving_out(block)))
    for steps in (1, 4, 16):
        label = f"{steps} step" + ("s" if steps > 1 else "")
        found += [_dose("tune", steps, label, _tuning(steps, seed), seed) for seed in range(SEEDS)]
    return list({dose.name: dose for dose in found}.values())


def _null(label: str, **more: Any) -> Dose:
    name = "null-" + "-".join(label.lower().replace(",", "").split())
    return Dose(name=name, kind=NULL, amount=0, label=label, **more)


def _dose(kind: str, amount: float, label: str, change: Change, seed: int = 0) -> Dose:
    name = f"{kind}-{amount:g}" + (f"-seed-{seed}" if seed else "")
    return Dose(name=name, kind=kind, amount=amount, label=label, change=change, seed=seed)


# weights


def rounded(weight: torch.Tensor, bits: int, group: int | None = None) -> torch.Tensor:
    """(out, in) weights on a symmetric grid of 2^bits - 1 values, rounded to the nearest.

    group: weights along the input that share a step, the last group shorter; all of a row by
    default. The largest |weight| of a group is the last value of its grid, so no weight moves by
    more than half a step, max / (2^bits - 2).

    >>> rounded(torch.tensor([[1.0, 0.4, -0.2, 0.0]]), 2).tolist()
    [[1.0, 0.0, 0.0, 0.0]]
    """
    last = 2 ** (bits - 1) - 1
    size = group or weight.shape[1]
    parts = []
    for part in torch.split(weight, size, dim=1):
        step = part.abs().amax(dim=1, keepdim=True) / last
        grid = torch.round(part / step).clamp(-last, last) * step
        parts.append(torch.where(step > 0, grid, part))
    return torch.cat(parts, dim=1)


def pruned(weight: torch.Tensor, share: float) -> torch.Tensor:
    """Weights of any shape, of which the `share` smallest in magnitude, rounded down, are 0.

    Of equal magnitudes the first go, in the order of memory.

    >>> pruned(torch.tensor([[3.0, -1.0], [2.0, -4.0]]), 0.5).tolist()
    [[3.0, 0.0], [0.0, -4.0]]
    """
    count = math.floor(share * weight.numel() + 1e-9)
    flat = weight.flatten().clone()
    flat[flat.abs().argsort(stable=True)[:count]] = 0
    return flat.view_as(weight)


def noisy(weight: torch.Tensor, sigma: float, seed: int) -> torch.Tensor:
    """Weights plus Gaussian noise of `sigma` times their root mean square."""
    generator = torch.Generator().manual_seed(seed)
    scale = sigma * weight.square().mean().sqrt()
    return weight + scale * torch.randn(weight.shape, generator=generator)


def blocks(model: nn.Module) -> nn.ModuleList:
    """The blocks of a model of the Llama family."""
    found = model.get_submodule("model.layers")
    assert isinstance(found, nn.ModuleList)
    return found


def linear_layers(model: nn.Module) -> Iterator[nn.Linear]:
    """The linear layers inside the blocks, in order."""
    for module in blocks(model).modules():
        if isinstance(module, nn.Linear):
            yield module


def _each(change: Callable[[torch.Tensor, int], torch.Tensor]) -> Change:
    """Every linear layer's weight, in float32; `change` gets the place of the layer too."""

    def apply(model: nn.Module, _: Any) -> None:
        with torch.no_grad():
            for place, layer in enumerate(linear_layers(model)):
                layer.weight.copy_(change(layer.weight.float(), place))

    return apply


def _rounding(bits: int, group: int | None) -> Callable[[torch.Tensor, int], torch.Tensor]:
    return lambda weight, _: rounded(weight, bits, group)


def _pruning(share: float) -> Callable[[torch.Tensor, int], torch.Tensor]:
    return lambda weight, _: pruned(weight, share)


def _noise(sigma: float, seed: int) -> Callable[[torch.Tensor, int], torch.Tensor]:
    # places of layers stay below 10,000, so no two realisations share a generator's seed
    return lambda weight, place: noisy(weight, sigma, 10_000 * seed + place)


def _leaving_out(block: int) -> Change:
    """Block number `block`, from 1, becomes the identity: both its last matrices are 0."""

    def apply(model: nn.Module, _: Any) -> None:
        with torch.no_grad():
            for name in ("self_attn.o_proj", "mlp.down_proj"):
                last = blocks(model)[block - 1].get_submodule(name)
                assert isinstance(last, nn.Linear)
                last.weight.zero_()

    return apply


def _reordered(seed: int) -> Change:
    """The hidden units of every MLP in another order: the same sums, added up otherwise."""

    def apply(model: nn.Module, _: Any) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for block in blocks(model):
                up, gate, down = (
                    block.get_parameter(f"mlp.{name}_proj.weight")
                    for name in ("up", "gate", "down")
                )
                order = torch.randperm(down.shape[1], generator=generator)
                up.copy_(up[order])
                gate.copy_(gate[order])
                down.copy_(down[:, order])

    return apply


# fine-tuning


def _tuning(steps: int, seed: int) -> Change:
    """`steps` of AdamW in float32 on other text, which end in the model's dtype."""

    def apply(model: nn.Module, tokenizer: Any) -> None:
        trained = copy.deepcopy(model).float().train()
        for parameter in trained.parameters():
            parameter.requires_grad_(False)
        layers = [layer.weight.requires_grad_(True) for layer in linear_layers(trained)]
        optimizer = torch.optim.AdamW(layers, lr=RATE, weight_decay=0.0)
        for batch in other_text(tokenizer, steps, seed):
            optimizer.zero_grad()
            trained(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()
        with torch.no_grad():
            for layer, weight in zip(linear_layers(model), layers, strict=True):
                layer.weight.copy_(weight)

    return apply


def other_text(tokenizer: Any, steps: int, seed: int) -> list[torch.Tensor]:
    """(BATCH, LENGTH) token ids for each step: source of Python's standard library, in order.

    Realisation number `seed` reads the texts that follow those of the realisation before it.
    """
    size = steps * BATCH * LENGTH
    ids: list[int] = []
    for file in sorted(Path(os.__file__).parent.glob("*.py")):
        ids += tokenizer(file.read_text("utf-8"))["input_ids"]
        if len(ids) >= (seed + 1) * size:
            break
    return list(torch.tensor(ids[seed * size : (seed + 1) * size]).view(steps, BATCH, LENGTH))
