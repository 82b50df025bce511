"""Where a model inside vLLM has its sites: the same names and conventions as for transformers.

vLLM's blocks run on flat rows, (tokens, hidden), and most return `(hidden, residual)`: the addition
that ends a block is put off into the next norm, which does it in place. The residual stream after
the block is their sum, taken in the hook, before the next block writes into either.

Nothing goes by class names; `NormCheck` proves the reading on the model at hand.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lpp.store.errors import ErrorKind, InputError

Sink = Callable[[str, torch.Tensor], None]
"""Receives a site's name and its (tokens, width) rows, which nobody else will change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSites:
    """The modules of one model inside vLLM at which its sites are read."""

    model: nn.Module
    """Its output is `final`."""
    blocks: tuple[nn.Module, ...]
    around: tuple[nn.Module, ...]
    """Siblings of the blocks, the final norm among them."""
    hidden_size: int

    @property
    def names(self) -> tuple[str, ...]:
        """("embed", "block.1", ..., "block.B", "final")."""
        return ("embed", *(f"block.{k}" for k in range(1, len(self.blocks) + 1)), "final")


def find_engine_sites(model: nn.Module, n_blocks: int, hidden_size: int) -> EngineSites:
    """Map a model by its one list of `n_blocks` blocks. Raises InputError(UNSUPPORTED_MODEL)."""
    lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_blocks
    ]
    lists = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(lists) != 1:
        raise InputError(
            f"{type(model).__name__} inside vLLM cannot be captured: one list of {n_blocks} blocks "
            f"was looked for, there are {len(lists)}. Capture it with --backend torch.",
            kind=ErrorKind.UNSUPPORTED_MODEL,
        )
    parent = model.get_submodule(lists[0].rpartition(".")[0])
    blocks = model.get_submodule(lists[0])
    return EngineSites(
        model=model,
        blocks=tuple(blocks.children()),
        around=tuple(child for child in parent.children() if child is not blocks),
        hidden_size=hidden_size,
    )


@contextmanager
def tapped(sites: EngineSites, wanted: Sequence[str], sink: Sink) -> Iterator[None]:
    """While open, every forward pass hands `sink` the `wanted` sites, as copies, as they arise."""
    handles = []
    try:
        for name in wanted:
            if name == "embed":
                hook = _entry(sites.hidden_size, name, sink)
                handles.append(sites.blocks[0].register_forward_pre_hook(hook, with_kwargs=True))
            else:
                block = name.removeprefix("block.")
                module = sites.model if name == "final" else sites.blocks[int(block) - 1]
                handles.append(module.register_forward_hook(_exit(name, sink)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _entry(hidden: int, name: str, sink: Sink) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states = [
            value
            for value in (*args, *kwargs.values())
            if isinstance(value, torch.Tensor)
            and value.is_floating_point()
            and value.ndim == 2
            and value.shape[-1] == hidden
        ]
        sink(name, stream(tuple(states)))

    return hook


def _exit(name: str, sink: Sink) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        sink(name, stream(output))

    return hook


def stream(output: Any) -> torch.Tensor:
    """The residual stream in a module's output, (tokens, width): a copy, or a sum, which is one.

    >>> stream((torch.ones(1, 2), torch.full((1, 2), 2.0)))
    tensor([[3., 3.]])
    """
    if isinstance(output, torch.Tensor):
        return output.clone()
    states = [value for value in output if isinstance(value, torch.Tensor)]
    if len(states) == 1:
        return states[0].clone()
    if len(states) == 2 and states[0].shape == states[1].shape:
        return states[0] + states[1]
    raise InputError(
        f"a block inside vLLM gave {len(states)} tensors; a hidden state, or one with its "
        "residual, was looked for. Capture this model with --backend torch.",
        kind=ErrorKind.UNSUPPORTED_MODEL,
    )


class NormCheck:
    """Watches one forward pass for the norm between the last block and `final`.

    Where `final` is a norm of `block.B`, the norm of the captured sum must give it; where nothing
    stands between, they must be equal. Either proves what the blocks' outputs are taken to be.
    """

    def __init__(self, sites: EngineSites) -> None:
        self._sites = sites
        self._last: torch.Tensor | None = None
        self._final: torch.Tensor | None = None
        self._norm: nn.Module | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on, for one forward pass."""
        handles = [m.register_forward_hook(self._called) for m in self._sites.around]
        try:
            with tapped(self._sites, self._sites.names[-2:], self._seen):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _seen(self, name: str, rows: torch.Tensor) -> None:
        if name == "final":
            self._final = rows
        else:
            self._last = rows

    def _called(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._last is not None and self._final is None and self._norm is None:
            self._norm = module

    @property
    def final(self) -> torch.Tensor:
        """(tokens, width) rows of `final`."""
        if self._final is None:
            raise RuntimeError("the model inside vLLM was not called: no forward pass was seen")
        return self._final

    @property
    def has_norm(self) -> bool:
        """Whether a module stands between the last block and `final`."""
        return self._norm is not None

    def difference(self) -> float:
        """Largest difference between `final` and what block.B gives, over the largest `final`.

        In units of the dtype's epsilon, so that a few are rounding.
        """
        if self._last is None or self._final is None:
            return float("inf")
        made = self._last if self._norm is None else stream(self._norm(self._last))
        if made.shape != self._final.shape:
            return float("inf")
        scale = float(self._final.float().abs().max())
        found = float((made.float() - self._final.float()).abs().max())
        return found / (torch.finfo(made.dtype).eps * max(scale, 1e-30))
