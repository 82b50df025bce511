"""Finds the sites of a transformers model by watching one short forward pass, and checks them.

Class names play no role. A few tokens run through the model. The blocks are the list of
`num_hidden_layers` modules that are called once each, in order, on (batch, tokens, hidden_size), or
on several streams of that width; the final norm is the sibling that is called next and keeps the
shape.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from lpp.capture.models.structure.anatomy import (
    PROBE_SHAPE,
    block_count,
    first_input,
    first_tensor,
    forward_inputs,
    max_positions,
    output_embeddings,
    probe_ids,
    routing,
    spread_ids,
    text_config,
    unmapped,
)
from lpp.capture.models.structure.sites import SiteModules, Sites, block_lists, hooked
from lpp.capture.models.structure.unembedding import agree, number
from lpp.store.format.plan import SiteSpec

_ALONE, _PADDED = (5, 20), 40
"""Tokens of prompts that are padded, and their length with padding."""


@torch.no_grad()
def find_sites(model: nn.Module) -> SiteModules:
    """The modules of a transformers causal language model at which its sites are read.

    Costs a forward pass of about 14 tokens. Raises InputError(UNSUPPORTED_MODEL), with the module
    tree, if the model does not have this structure.
    """
    config = text_config(model)
    if getattr(config, "is_encoder_decoder", False):
        raise unmapped(model, "it is an encoder-decoder, not a causal decoder")
    n_blocks = block_count(config)
    hidden = getattr(config, "hidden_size", None)
    if not isinstance(n_blocks, int) or not isinstance(hidden, int):
        raise unmapped(model, "its config lacks num_hidden_layers or hidden_size")
    unembedding = output_embeddings(model)

    for path in block_lists(model, n_blocks):
        trace = Trace(model, path, unembedding)
        streams = trace.streams(hidden)
        if streams is None:
            continue
        trunk = trace.trunk()
        if trunk is None:
            raise unmapped(
                model,
                "no module around its blocks gives the output its unembedding reads",
            )
        norm, routers = trace.norm_after_blocks(hidden), trace.routers()
        return SiteModules(
            trunk=trunk[0],
            blocks=trace.blocks,
            final_norm=norm,
            head=trunk[1],
            sites=Sites(
                n_blocks=n_blocks,
                hidden_size=hidden,
                streams=streams[0],
                final_size=trunk[2],
                final_norm=norm is not None,
                routers={k: specs for k, (specs, _) in routers.items()},
            ),
            stream_axis=streams[1],
            experts={s.name: module for specs, module in routers.values() for s in specs},
        )
    raise unmapped(
        model,
        f"it has no list of {n_blocks} blocks that are called once each, in order, and that take "
        f"and return a state (batch, tokens, {hidden}), or several such streams",
    )


@torch.no_grad()
def check_sites(model: nn.Module, modules: SiteModules) -> None:
    """Compare the hooks with the model's own hidden states, on a few tokens; run once after
    loading.

    Checked: `output_hidden_states` equals embed, block.1, ..., final (block.B, where it ends in
    several streams); of one stream, the final norm of block.B is final; no token changes a state
    before it, or no prefix could be read from a longer prompt; and 5 and 20 tokens have the same
    states alone and padded to 40. Costs passes over 93 tokens in all.
    Raises InputError(UNSUPPORTED_MODEL).
    """
    sites = modules.sites
    seen = _check_hidden_states(model, modules)
    if modules.final_norm is not None and sites.final_size == sites.width("embed"):
        normed = modules.final_norm(seen[sites.names[-2]])
        if not _same(normed, seen["final"]):
            raise unmapped(model, "the final norm of its last block is not what it unembeds")

    changed: dict[str, torch.Tensor] = {}
    ids = probe_ids(model)
    ids[:, -1] = ids[:, 0]
    with hooked(modules, modules.sites.names, changed.__setitem__):
        modules.trunk(**forward_inputs(ids))
    for name, state in changed.items():
        if not _same(state[:, :-1], seen[name][:, :-1]):
            raise unmapped(model, f"a later token changes {name}: its attention is not causal")
    _check_padding(model, modules)


def _check_padding(model: nn.Module, modules: SiteModules) -> None:
    """Rules that switch with the length can read padding.

    A matrix product of another shape rounds otherwise: SmolLM2's states differ by .016 of their
    mean size in bfloat16, .002 in float16, 1e-6 in float32. The bounds leave room for deeper models
    and for a tie between experts. The padded prompt is never longer than the model allows.
    """
    ids = spread_ids(model, min(_PADDED, max_positions(text_config(model)) or _PADDED))[None]
    padded, *each = [dict[str, torch.Tensor]() for _ in (_PADDED, *_ALONE)]
    for seen, count in zip((padded, *each), (_PADDED, *_ALONE), strict=True):
        with hooked(modules, modules.sites.names, seen.__setitem__):
            modules.trunk(**forward_inputs(ids[:, :count]))
    for name, state in (pair for alone in each for pair in alone.items()):
        tolerance = 0.1 if torch.finfo(state.dtype).bits < 32 else 1e-3
        finite = bool(state.isfinite().any())  # capture reports the others for each prompt
        if finite and not agree(padded[name][:, : state.shape[1]], state, tolerance=tolerance):
            raise unmapped(model, f"padding after a prompt changes {name}")


def _check_hidden_states(model: nn.Module, modules: SiteModules) -> dict[str, torch.Tensor]:
    sites, seen = modules.sites, dict[str, torch.Tensor]()
    with hooked(modules, modules.sites.names, seen.__setitem__):
        reported = model(
            **forward_inputs(probe_ids(model)), output_hidden_states=True
        ).hidden_states
    expected = sites.n_blocks + 1
    count = 0 if reported is None else len(reported)
    if count != expected:
        raise unmapped(model, f"it reports {count} hidden states, should be {expected}")
    states = [modules.side_by_side(state) for state in reported]
    last = "final" if states[-1].shape == seen["final"].shape else sites.names[-2]
    names = (*sites.names[:-2], last)
    if _same(seen[sites.names[1]], states[0]):  # Mamba reports no embedding, and block.B and final
        names = sites.names[1:]
    for name, state in zip(names, states, strict=True):
        if not _same(seen[name], state):
            raise unmapped(model, f"site {name} is not the hidden state the model itself reports")
    return seen


def _same(mine: torch.Tensor, reference: torch.Tensor) -> bool:
    """Equal to rounding: within a few units of the dtype, relative to the largest value.

    Non-finite values must be in the same places; capture reports them for each prompt.
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


class Trace:
    """One forward pass over a few tokens, watched around a candidate list of blocks.

    path: dotted name of the list in the model. Its siblings, its ancestors and the unembedding are
    watched too, and what the model calls after them. No hook stays on the model.
    """

    def __init__(self, model: nn.Module, path: str, unembedding: nn.Module) -> None:
        names = path.split(".")
        ancestors = [model.get_submodule(".".join(names[:k])) for k in range(1, len(names))]
        parent = ancestors[-1] if ancestors else model
        listed = model.get_submodule(path)
        self.blocks = tuple(listed.children())
        self._ancestors, self._unembedding = ancestors, unembedding
        self._config, self._last = text_config(model), list(model.children())
        self._calls: list[tuple[nn.Module, torch.Tensor | None, torch.Tensor | None]] = []
        self._read: torch.Tensor | None = None
        self._around = [child for child in parent.children() if child is not listed]
        self._routed: list[tuple[int, nn.Module, torch.Tensor]] = []
        handles = [
            module.register_forward_hook(self._called, with_kwargs=True)
            for module in {*self.blocks, *self._around, *ancestors, *self._last}
        ]
        handles += [
            module.register_forward_pre_hook(partial(self._experts_called, k), with_kwargs=True)
            for k, block in enumerate(self.blocks, 1)
            for module in block.modules()
        ]
        handles.append(unembedding.register_forward_pre_hook(self._unembedding_called))
        try:
            model(**forward_inputs(probe_ids(model)))
        finally:
            for handle in handles:
                handle.remove()

    def _called(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self._calls.append((module, first_input(args, kwargs), first_tensor(output)))

    def _experts_called(self, block: int, module: nn.Module, args: Any, kwargs: Any) -> None:
        chosen, _ = routing(args, kwargs)
        if chosen is not None:
            self._routed.append((block, module, chosen))

    def _unembedding_called(self, module: nn.Module, args: Any) -> None:
        self._read = first_tensor(args)

    def streams(self, hidden: int) -> tuple[int, int | None] | None:
        """(residual streams, the axis that counts them), if each block was called once, in order,
        and takes and returns them alike; else None.
        """
        blocks = {id(block) for block in self.blocks}
        calls = [call for call in self._calls if id(call[0]) in blocks]
        if [id(call[0]) for call in calls] != [id(block) for block in self.blocks]:
            return None
        found = {_streams(state, hidden) for _, given, made in calls for state in (given, made)}
        return found.pop() if len(found) == 1 else None

    def routers(self) -> Mapping[int, tuple[tuple[SiteSpec, ...], nn.Module]]:
        """For each block with a router, from 1: its sites, and the outermost module that is called
        on the experts of every token. A block with two routers is left out.
        """
        found = {}
        for k in range(1, len(self.blocks) + 1):
            calls = [(module, chosen) for block, module, chosen in self._routed if block == k]
            if not calls or not all(torch.equal(chosen, calls[0][1]) for _, chosen in calls):
                continue
            module, chosen = calls[0]
            if chosen.shape[:-1].numel() == math.prod(PROBE_SHAPE):
                small = getattr(module, "num_experts", 1 << 16) <= 256
                of_router = partial(SiteSpec, convention="router", width=chosen.shape[-1])
                choices = of_router(name=f"router.{k}", dtype="uint8" if small else "uint16")
                weights = of_router(name=f"router.{k}.weight", dtype="bfloat16")
                found[k] = (choices, weights), module
        return found

    def trunk(self) -> tuple[nn.Module, Any, int] | None:
        """The outermost ancestor of the blocks whose output the head reads, the head, and the
        width of that output.

        A family may call an inner ancestor and bypass an outer one: OPT does.
        """
        made = {id(module): output for module, _, output in self._calls}
        for module in self._ancestors:
            output = made.get(id(module))
            if output is not None and (head := self._head(output)) is not None:
                return module, head, int(output.shape[-1])
        return None

    def _head(self, state: torch.Tensor) -> Any:
        """What makes logits of `state`: the unembedding, alone or behind a divisor, or modules of
        the model that read one another's output and end with the unembedding.
        """
        if _identical(self._read, state):
            return self._unembedding
        for name in ("logits_scaling", "logits_mup_width_multiplier"):  # MiniCPM3; Inkling
            divisor = number(self._config, name) or 1.0
            if _identical(self._read, state / divisor):
                return lambda states: self._unembedding(states / divisor)
        chain = []
        for module, given, made in self._calls:
            if module in self._last and _identical(given, state) and made is not None:
                chain.append(module)
                state = made
        inside = any(part is self._unembedding for module in chain for part in module.modules())
        return nn.Sequential(*chain) if inside else None

    def norm_after_blocks(self, hidden: int) -> nn.Module | None:
        """The sibling called after the last block that keeps the state's shape, if there is one."""
        last = next(i for i, call in enumerate(self._calls) if call[0] is self.blocks[-1])
        for module, given, made in self._calls[last + 1 :]:
            if module in self._around and _is_state(given, hidden) and _is_state(made, hidden):
                return module
        return None


def _identical(first: torch.Tensor | None, second: torch.Tensor) -> bool:
    """Equal bit for bit, or NaN in the same places."""
    if first is None or first.shape != second.shape:
        return False
    first = first.to(second)
    return bool(((first == second) | (first.isnan() & second.isnan())).all())


def _is_state(tensor: torch.Tensor | None, hidden: int) -> bool:
    return tensor is not None and tensor.ndim == 3 and tensor.shape[-1] == hidden


def _streams(tensor: torch.Tensor | None, hidden: int) -> tuple[int, int | None] | None:
    """(streams, their axis) of a state of the traced pass: (B, T, n hidden), (B, T, n, hidden) or
    (n, B, T, hidden); else None.
    """
    if tensor is None or tensor.ndim not in (3, 4) or tensor.shape[-1] % hidden:
        return None
    if tensor.ndim == 3:
        return tensor.shape[-1] // hidden, None
    axis = 2 if tuple(tensor.shape[:2]) == PROBE_SHAPE else 0
    return (tensor.shape[axis], axis) if tensor.shape[-1] == hidden else None
