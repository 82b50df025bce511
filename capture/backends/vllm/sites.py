"""Finds the sites of a model inside vLLM: the same names and conventions as for transformers.

vLLM's blocks run on flat rows, (tokens, hidden), and most return `(hidden, residual)`: the addition
at the end of a block is postponed to the next norm, which does it in place. The residual stream
after the block is their sum, computed in the hook, before the next block writes into either.

Class names play no role; `SiteProbe` checks the sites on the loaded model.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lpp.capture.models.structure.sites import SiteModules, Sites, block_lists
from lpp.store.errors import ErrorKind, InputError


def stream(output: Any) -> torch.Tensor:
    """The residual stream in a module's output, (tokens, width): a tensor, or a sum of two.

    >>> stream((torch.ones(1, 2), torch.full((1, 2), 2.0)))
    tensor([[3., 3.]])
    """
    values = (output,) if isinstance(output, torch.Tensor) else output
    states = [value for value in values if isinstance(value, torch.Tensor)]
    if len(states) == 2 and states[0].shape == states[1].shape:
        states = [states[0] + states[1]]
    if len(states) == 1:
        # (1, tokens, width) where vLLM runs a class of transformers
        return states[0].flatten(0, -2)
    raise InputError(
        f"a block inside vLLM returned {len(states)} tensors, not a hidden state, or one with its "
        "residual. Capture this model with --backend torch.",
        kind=ErrorKind.UNSUPPORTED_MODEL,
    )


def stream_input(hidden_size: int) -> Callable[[tuple[Any, ...], dict[str, Any]], torch.Tensor]:
    """A function that reads the residual stream from a block's arguments."""

    def read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        return stream(
            tuple(
                value
                for value in (*args, *kwargs.values())
                if isinstance(value, torch.Tensor)
                and value.is_floating_point()
                and value.ndim in (2, 3)
                and value.shape[-1] == hidden_size
            )
        )

    return read


class SiteProbe:
    """Finds the sites of a model inside vLLM, and watches one forward pass that proves them.

    If `final` is a norm of `block.B`, the norm of the captured sum must equal it; if there is
    nothing between them, they must be equal. Either way this proves the interpretation of the
    blocks' outputs. Raises InputError(UNSUPPORTED_MODEL) unless there is exactly one list of
    `n_blocks` blocks.
    """

    def __init__(self, model: nn.Module, n_blocks: int, hidden_size: int) -> None:
        lists = block_lists(model, n_blocks)
        if len(lists) != 1:
            raise InputError(
                f"{type(model).__name__} inside vLLM cannot be captured: it should have one list "
                f"of {n_blocks} blocks, and has {len(lists)}. Capture it with --backend torch.",
                kind=ErrorKind.UNSUPPORTED_MODEL,
            )
        parent = model.get_submodule(lists[0].rpartition(".")[0])
        blocks = model.get_submodule(lists[0])
        self._model, self._hidden_size = model, hidden_size
        self._blocks = tuple(blocks.children())
        self._siblings = [child for child in parent.children() if child is not blocks]
        self._last: torch.Tensor | None = None
        self._final: torch.Tensor | None = None
        self._norm: nn.Module | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Install the hooks for one forward pass."""
        handles = [module.register_forward_hook(self._called) for module in self._siblings]
        handles.append(self._blocks[-1].register_forward_hook(self._last_block_called))
        handles.append(self._model.register_forward_hook(self._model_called))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _last_block_called(self, module: nn.Module, args: Any, output: Any) -> None:
        self._last = stream(output).clone()  # the norm may write into it

    def _called(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._last is not None and self._norm is None:
            self._norm = module

    def _model_called(self, module: nn.Module, args: Any, output: Any) -> None:
        self._final = stream(output).clone()

    @property
    def final(self) -> torch.Tensor:
        """(tokens, width) rows of `final`."""
        if self._final is None:
            raise RuntimeError("the model inside vLLM was not called: no forward pass was seen")
        return self._final

    def modules(self) -> SiteModules:
        """The modules at which the sites are read, known once a pass was watched."""
        return SiteModules(
            trunk=self._model,  # its `forward` stops before the unembedding
            blocks=self._blocks,
            final_norm=self._norm,
            sites=Sites(
                n_blocks=len(self._blocks),
                hidden_size=self._hidden_size,
                final_size=int(self.final.shape[-1]),
                final_norm=self._norm is not None,
            ),
        )

    def difference(self) -> float:
        """Largest difference between `final` and what block.B gives, relative to the largest
        `final`.

        In units of the dtype's epsilon, so a few units are rounding.
        """
        if self._last is None or self._final is None:
            return float("inf")
        made = self._last if self._norm is None else stream(self._norm(self._last))
        if made.shape != self._final.shape:
            return float("inf")
        scale = float(self._final.float().abs().max())
        largest = float((made.float() - self._final.float()).abs().max())
        return largest / (torch.finfo(made.dtype).eps * max(scale, 1e-30))
