"""The places in a model at which its states are read.

    trunk (the model without its unembedding)
      embeddings ── embed ──> block 1 ── block.1 ──> ... block B ── block.B ──> norm ── final ──>

`embed` is the input of block 1, so it comes after any embedding scale, position term or projection.
`block.k` is the residual stream after block k, before the final norm. `final` is the input of the
unembedding: after the final norm if there is one, after the output projection if there is one
(opt-350m: its width is then not `hidden_size`), else the last block's output. Where a model scales
or transforms that state before its unembedding (MiniCPM3, BERT), `final` is the state before.

Hyper-connections (DeepSeek V4) and AltUp (Gemma 3n) carry several residual streams between blocks,
and make one of them after the last. `embed` and `block.k` then hold all n, side by side: columns
0 to d - 1 are the first.

`router.k` are the experts that the router of block k chooses for a token, in its order, and
`router.k.weight` their weights: what the module that runs the experts is called on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import nn

from lpp.capture.models.structure.anatomy import first_input, first_tensor, routing
from lpp.store.errors import InputError
from lpp.store.format.plan import SiteSpec

Sink: TypeAlias = Callable[[str, torch.Tensor], None]
"""Receives a site's name and its state, not a copy: copy what must outlive the pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sites:
    """The sites of one model, and how wide they are."""

    n_blocks: int
    hidden_size: int
    """Width of a residual stream."""
    streams: int = 1
    """Residual streams: a row of `embed` or of a block holds them side by side."""
    final_size: int
    """Width of `final`; differs from `hidden_size` if the trunk ends in a projection."""
    final_norm: bool
    """Whether `final` comes after a norm; it does not in post-norm OPT."""
    routers: Mapping[int, tuple[SiteSpec, ...]] = field(default_factory=dict)
    """Number of each block with a router, from 1 -> `router.k` and `router.k.weight`."""

    @property
    def names(self) -> tuple[str, ...]:
        """("embed", "block.1", ..., "block.B", "final")."""
        return ("embed", *(f"block.{k}" for k in range(1, self.n_blocks + 1)), "final")

    @property
    def names_with_routers(self) -> tuple[str, ...]:
        """`names`, with those of each router before its block: in the order of computation."""
        routers = [[spec.name for spec in self.routers.get(k, ())] for k in range(len(self.names))]
        pairs = zip(self.names, routers, strict=True)
        return tuple(name for block, own in pairs for name in (*own, block))

    def width(self, name: str) -> int:
        """Columns of a site's rows."""
        return self.final_size if name == "final" else self.hidden_size * self.streams


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteModules:
    """The modules of one model at which its sites are read."""

    trunk: nn.Module
    """The model without its unembedding: its output is `final`."""
    blocks: tuple[nn.Module, ...]
    final_norm: nn.Module | None
    """None if there is no norm after the last block."""
    sites: Sites
    head: Any = None
    """Makes logits (n, V) of rows (n, width) of `final`; None: the model's unembedding does."""
    experts: Mapping[str, nn.Module] = field(default_factory=dict)
    """Site of a router -> the module that is called on its choices."""
    stream_axis: int | None = None
    """The axis of a state that counts its streams: 2, or 0. None: a state has three axes."""

    def side_by_side(self, state: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, width) of a state; costs a copy where the streams are the first axis."""
        if self.stream_axis is None or state.ndim < 4:  # `final` is one stream
            return state
        return state.movedim(self.stream_axis, 2).flatten(2)


def block_lists(model: nn.Module, length: int) -> list[str]:
    """Dotted names of the module lists of `length`, except those inside one (experts)."""
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == length
    ]
    return [name for name in names if not any(name.startswith(f"{outer}.") for outer in names)]


@contextmanager
def hooked(
    modules: SiteModules,
    wanted: Sequence[str],
    sink: Sink,
    *,
    read_input: Callable[[tuple[Any, ...], dict[str, Any]], torch.Tensor | None] = first_input,
    read_output: Callable[[Any], torch.Tensor | None] = first_tensor,
) -> Iterator[None]:
    """While open, every forward pass calls `sink` with the `wanted` sites, in the order of
    computation.

    read_input, read_output: find the state in the arguments of a block, and in the output of a
    block or the trunk.
    """
    if unknown := [name for name in wanted if name not in modules.sites.names_with_routers]:
        raise InputError(
            f"this model has no site {', '.join(unknown)}: it has embed, block.1 to "
            f"block.{len(modules.blocks)}, and final. Choose among these with --sites."
        )

    def before(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if name in modules.experts:
                state = routing(args, kwargs)[name.endswith(".weight")]
            else:
                state = read_input(args, kwargs)
            assert state is not None  # the search for sites found one
            sink(name, modules.side_by_side(state))

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            state = read_output(output)
            assert state is not None  # the search for sites found one
            sink(name, modules.side_by_side(state))

        return hook

    handles = []
    try:
        for name in wanted:
            if name == "embed" or name in modules.experts:
                first = modules.experts.get(name, modules.blocks[0])
                handles.append(first.register_forward_pre_hook(before(name), with_kwargs=True))
            elif name == "final":
                handles.append(modules.trunk.register_forward_hook(after(name)))
            else:
                block = modules.blocks[int(name.removeprefix("block.")) - 1]
                handles.append(block.register_forward_hook(after(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
