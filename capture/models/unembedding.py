"""From final states to logits, exactly as the model's own forward pass makes them."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from lpp.capture.models.anatomy import (
    forward_inputs,
    output_embeddings,
    probe_ids,
    text_config,
    unmapped,
)
from lpp.capture.models.sites import SiteModules, hooked
from lpp.store.errors import ErrorKind, InputError

_InPlace = Callable[[torch.Tensor], object]


class Unembedding:
    """The output embedding and whatever its family does to the logits after it.

    module: maps (n, width of `final`) to (n, V). sample: any logits it made, for their dtype,
    device and V. after: changes logits in place.
    """

    def __init__(
        self, module: nn.Module, sample: torch.Tensor, after: _InPlace | None = None
    ) -> None:
        self._module: Any = module
        self._after = after
        self.vocabulary = int(sample.shape[-1])
        self.dtype = sample.dtype
        self.device = sample.device
        # Quantised and offloaded weights need their module's own forward pass; a plain matrix
        # spares its output tensor, whose fresh pages would cost as much as a pass over them.
        self._plain = type(module) is nn.Linear and not hasattr(module, "_hf_hook")

    def logits(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        """rows: (n, width of `final`). out: (n, V) of `dtype` on `device`, is overwritten."""
        if not self._plain:
            out.copy_(self._module(rows))
        elif self._module.bias is None:
            torch.mm(rows.to(self._module.weight), self._module.weight.t(), out=out)
        else:
            torch.addmm(
                self._module.bias, rows.to(self._module.weight), self._module.weight.t(), out=out
            )
        if self._after is not None:
            self._after(out)


@torch.no_grad()
def find_unembedding(model: nn.Module, modules: SiteModules) -> Unembedding:
    """The unembedding that gives the model's own logits, proven on a few tokens.

    What may follow the matrix product is read from the configuration, and the reading that
    reproduces `model(...).logits` is the one used, so that nothing unknown passes unseen. Raises
    InputError(UNSUPPORTED_MODEL) when none does.
    """
    module = output_embeddings(model)
    seen: dict[str, torch.Tensor] = {}
    with hooked(modules, ("final",), seen.__setitem__):
        expected = model(**forward_inputs(probe_ids(model))).logits
    if not bool(expected.isfinite().any()):
        raise InputError(
            f"{type(model).__name__} gives no finite logit in {str(expected.dtype)[6:]}, on a few "
            "tokens: there is nothing to capture. Repeat with another --dtype: bfloat16, or "
            "float32.",
            kind=ErrorKind.UNSUPPORTED_MODEL,
        )
    product = module(seen["final"])
    eps = torch.finfo(product.dtype).eps
    for after in _readings(text_config(model)):
        made = product.clone()
        if after is not None:
            after(made)
        # the same products in the same shapes: only the last unit of a few values may differ
        if not _agree(made, expected, tolerance=max(eps / 16, 1e-5)):
            continue
        unembedding = Unembedding(module, product, after)
        tile = torch.empty_like(product.flatten(0, 1))
        unembedding.logits(seen["final"].flatten(0, 1), tile)
        if _agree(tile, expected.flatten(0, 1), tolerance=max(eps / 2, 1e-5)):
            return unembedding
    raise unmapped(
        model,
        "its logits are not its unembedding of the final states, nor that with a softcap, a scale "
        "or a divisor that its config names",
    )


def _readings(config: Any) -> Iterator[_InPlace | None]:
    """What may follow the matrix product, by what families call it; nothing at all comes last."""
    if cap := _number(config, "final_logit_softcapping"):  # Gemma
        yield lambda logits: logits.div_(cap).tanh_().mul_(cap)
    for name in ("logit_scale", "logits_scaling", "lm_head_multiplier"):
        if scale := _number(config, name):  # Cohere; HyperCLOVA X; Falcon H1
            yield _multiply(scale)
    if divisor := _number(config, "logits_scaling"):  # Granite
        yield lambda logits: logits.div_(divisor)
    yield None


def _multiply(scale: float) -> _InPlace:
    return lambda logits: logits.mul_(scale)


def _number(config: Any, name: str) -> float | None:
    value = getattr(config, name, None)
    return float(value) if isinstance(value, int | float) else None


def _agree(made: torch.Tensor, expected: torch.Tensor, *, tolerance: float) -> bool:
    """Mean difference within `tolerance` of the mean size; the same columns masked."""
    if made.shape != expected.shape:
        return False
    made, expected = made.float(), expected.to(made.device).float()
    finite = expected.isfinite()
    if not torch.equal(finite, made.isfinite()) or not bool(finite.any()):
        return False
    size = expected[finite].abs().mean()
    return bool((made[finite] - expected[finite]).abs().mean() <= tolerance * size)
