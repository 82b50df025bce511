"""Where in a model its states are read, found by watching one short forward pass.

    trunk (the model without its unembedding)
      embeddings ── embed ──> block 1 ── block.1 ──> ... block B ── block.B ──> norm ── final ──>

`embed` is what block 1 receives, so after any embedding scale, position term or projection.
`block.k` is the residual stream after block k, before the final norm. `final` is the trunk's
output, which is what the unembedding reads: after the final norm where there is one, after the
output projection where there is one (opt-350m: its width is then not `hidden_size`), and the last
block's own output where there is neither.

Nothing goes by class names. A few tokens run through the model; the blocks are the list of
`num_hidden_layers` modules called once each, in order, on (batch, tokens, hidden_size), and the
final norm is the sibling that is called next and keeps the shape.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lpp.capture.models.anatomy import (
    Trace,
    first_input,
    first_tensor,
    forward_inputs,
    output_embeddings,
    probe_ids,
    text_config,
    unmapped,
)
from lpp.store.errors import ErrorKind, InputError

Sink = Callable[[str, torch.Tensor], None]
"""Receives a site's name and its (batch, tokens, width) tensor, which is not a copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSites:
    """The modules of one model at which its sites are read."""

    trunk: nn.Module
    """The model without its unembedding; its first output is `final`."""
    blocks: tuple[nn.Module, ...]
    final_norm: nn.Module | None
    """None where the last block's output goes on without one, as in post-norm OPT."""
    hidden_size: int
    """Width of `embed` and of every block."""
    final_size: int
    """Width of `final`; differs from `hidden_size` where the trunk ends in a projection."""

    @property
    def names(self) -> tuple[str, ...]:
        """("embed", "block.1", ..., "block.B", "final")."""
        return ("embed", *(f"block.{k}" for k in range(1, len(self.blocks) + 1)), "final")

    def width(self, name: str) -> int:
        """Columns of a site's rows."""
        return self.final_size if name == "final" else self.hidden_size


@torch.no_grad()
def find_sites(model: nn.Module) -> ModelSites:
    """Map a transformers causal language model; costs a forward pass of 14 tokens or so.

    Raises InputError(UNSUPPORTED_MODEL) with the model's module tree when it has no such shape.
    """
    config = text_config(model)
    if getattr(config, "is_encoder_decoder", False):
        raise unmapped(model, "it is an encoder-decoder; a causal decoder was looked for")
    n_blocks = getattr(config, "num_hidden_layers", None)
    hidden = getattr(config, "hidden_size", None)
    if not isinstance(n_blocks, int) or not isinstance(hidden, int):
        raise unmapped(model, "num_hidden_layers and hidden_size were looked for in its config")
    unembedding = output_embeddings(model)

    for path in _lists(model, n_blocks):
        trace = Trace(model, path, unembedding)
        if not trace.blocks_in_order(hidden):
            continue
        trunk = trace.trunk()
        if trunk is None:
            raise unmapped(
                model,
                "a module around its blocks whose output its unembedding reads was looked for",
            )
        return ModelSites(
            trunk=trunk[0],
            blocks=trace.blocks,
            final_norm=trace.norm_after_blocks(hidden),
            hidden_size=hidden,
            final_size=trunk[1],
        )
    raise unmapped(
        model,
        f"a list of {n_blocks} blocks, each called once and in order on (batch, tokens, {hidden}) "
        "and returning the same, was looked for",
    )


def _lists(model: nn.Module, length: int) -> list[str]:
    """Dotted names of the module lists of `length`, but for those inside one (experts)."""
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == length
    ]
    return [name for name in names if not any(name.startswith(f"{outer}.") for outer in names)]


@contextmanager
def capture_sites(sites: ModelSites, wanted: Sequence[str], sink: Sink) -> Iterator[None]:
    """While open, every forward pass hands `sink` the `wanted` sites, in the order they arise.

    The tensors are the model's own, on the device that made them: copy what must outlive the pass.
    """
    if unknown := [name for name in wanted if name not in sites.names]:
        raise InputError(
            f"this model has no site {', '.join(unknown)}: it has embed, block.1 to "
            f"block.{len(sites.blocks)}, and final. Choose among these with --sites.",
            kind=ErrorKind.INVALID_VALUE,
        )
    handles = []
    try:
        for name in wanted:
            if name == "embed":
                handles.append(
                    sites.blocks[0].register_forward_pre_hook(
                        _input_hook(name, sink), with_kwargs=True
                    )
                )
            else:
                block = name.removeprefix("block.")
                module = sites.trunk if name == "final" else sites.blocks[int(block) - 1]
                handles.append(module.register_forward_hook(_output_hook(name, sink)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _input_hook(name: str, sink: Sink) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state = first_input(args, kwargs)
        assert state is not None  # find_sites saw one
        sink(name, state)

    return hook


def _output_hook(name: str, sink: Sink) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        state = first_tensor(output)
        assert state is not None  # find_sites saw one
        sink(name, state)

    return hook


@torch.no_grad()
def check_sites(model: nn.Module, sites: ModelSites) -> None:
    """Hold the hooks against the model's own account, on a few tokens; run once after loading.

    Checked: `output_hidden_states` equals embed, block.1, ..., final; the final norm of block.B is
    final; and no token changes a state before it, without which no prefix could be read off a
    longer prompt. Raises InputError(UNSUPPORTED_MODEL).
    """
    seen = _check_hidden_states(model, sites)
    if sites.final_norm is not None and sites.final_size == sites.hidden_size:
        normed = sites.final_norm(seen[sites.names[-2]])
        if not _same(normed, seen["final"]):
            raise unmapped(model, "the final norm of its last block is not what it unembeds")

    changed: dict[str, torch.Tensor] = {}
    ids = probe_ids(model)
    ids[:, -1] = ids[:, 0]
    with capture_sites(sites, sites.names, changed.__setitem__):
        sites.trunk(**forward_inputs(ids))
    for name, state in changed.items():
        if not _same(state[:, :-1], seen[name][:, :-1]):
            raise unmapped(model, f"a later token changes {name}: its attention is not causal")


def _check_hidden_states(model: nn.Module, sites: ModelSites) -> dict[str, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}
    with capture_sites(sites, sites.names, seen.__setitem__):
        own = model(**forward_inputs(probe_ids(model)), output_hidden_states=True).hidden_states
    expected = len(sites.blocks) + 1
    found = 0 if own is None else len(own)
    if found != expected:
        raise unmapped(model, f"{expected} hidden states were looked for, it reports {found}")
    for name, state in zip((*sites.names[:-2], "final"), own, strict=True):
        if not _same(seen[name], state):
            raise unmapped(model, f"site {name} is not the hidden state the model itself reports")
    return seen


def _same(mine: torch.Tensor, reference: torch.Tensor) -> bool:
    """Equal to rounding: within a few units of the dtype, measured against the largest value.

    What is not finite has to be so in both; which values those are, capture says of each prompt.
    """
    if mine.shape != reference.shape:
        return False
    epsilon = torch.finfo(mine.dtype).eps
    mine, reference = mine.float(), reference.to(mine.device).float()
    finite = reference.isfinite()
    if not torch.equal(mine.isfinite(), finite):
        return False
    scale = float(reference.where(finite, 0.0).abs().max())
    difference = float((mine - reference).where(finite, 0.0).abs().max())
    return difference <= 8 * epsilon * scale
