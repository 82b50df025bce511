"""From final states to logits, exactly as the model's own forward pass computes them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from lpp.capture.models.structure.anatomy import (
    forward_inputs,
    output_embeddings,
    probe_ids,
    text_config,
    unmapped,
)
from lpp.capture.models.structure.sites import SiteModules, hooked
from lpp.store.errors import ErrorKind, InputError
from lpp.store.shared.logits import Steps

_NONE: Final = Steps()


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Outputs of the model on a few tokens, for checks."""

    final: torch.Tensor
    """(n, width of `final`)"""
    logits: torch.Tensor
    """(n, V)"""


class Unembedding:
    """The output embedding, and the steps that the model's family applies to the logits after it.

    module: maps (n, width of `final`) to (n, V). sample: any logits of it, for their dtype, device
    and V. steps: what follows the product. probe: outputs of the model on a few tokens.
    """

    def __init__(
        self,
        module: nn.Module,
        sample: torch.Tensor,
        steps: Steps = _NONE,
        probe: Probe | None = None,
    ) -> None:
        self.module: Any = module
        self.steps, self.probe = steps, probe
        self.vocabulary = int(sample.shape[-1])
        self.dtype = sample.dtype
        self.device = sample.device
        # Quantised and offloaded weights need their module's own forward pass. A plain matrix
        # avoids its output tensor, whose new pages would cost as much as a pass over them.
        self._plain = type(module) is nn.Linear and not hasattr(module, "_hf_hook")

    def logits(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        """rows: (n, width of `final`). out: (n, V) of `dtype` on `device`, overwritten."""
        if not self._plain:
            out.copy_(self.module(rows))
        elif self.module.bias is None:
            torch.mm(rows.to(self.module.weight), self.module.weight.t(), out=out)
        else:
            torch.addmm(
                self.module.bias, rows.to(self.module.weight), self.module.weight.t(), out=out
            )
        self.steps.take(out)


@torch.no_grad()
def find_unembedding(model: nn.Module, modules: SiteModules) -> Unembedding:
    """The unembedding that gives the model's own logits, checked on a few tokens.

    The steps after the matrix product are read from the configuration; of several readings, the one
    that reproduces `model(...).logits` is used, so an unknown step is always detected. Raises
    InputError(UNSUPPORTED_MODEL) if none does.
    """
    module = modules.head or output_embeddings(model)
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
    for steps in _readings(text_config(model)):
        made = product.clone()
        steps.take(made)
        # the same products in the same shapes: at most the last unit of a few values differs
        if not agree(made, expected, tolerance=max(eps / 16, 1e-5)):
            continue
        probe = Probe(final=seen["final"].flatten(0, 1), logits=expected.flatten(0, 1))
        unembedding = Unembedding(module, product, steps, probe)
        tile = torch.empty_like(product.flatten(0, 1))
        unembedding.logits(probe.final, tile)
        if agree(tile, probe.logits, tolerance=max(eps / 2, 1e-5)):
            return unembedding
    raise unmapped(
        model,
        "its logits are not its unembedding of the final states, nor that with a softcap, a scale "
        "or a divisor that its config names",
    )


def _readings(config: Any) -> Iterator[Steps]:
    """Possible steps after the matrix product, by the names that families use; none comes last."""
    for name in ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap"):
        if cap := number(config, name):  # Gemma; RecurrentGemma; xLSTM
            yield Steps(softcap=cap)
    for name in ("logit_scale", "logits_scaling", "lm_head_multiplier"):
        if scale := number(config, name):  # Cohere; HyperCLOVA X; Falcon H1
            yield Steps(scale=scale)
    if divisor := number(config, "logits_scaling"):  # Granite
        yield Steps(divisor=divisor)
    yield _NONE


def number(config: Any, name: str) -> float | None:
    """A setting of a configuration, if it is a number."""
    value = getattr(config, name, None)
    return float(value) if isinstance(value, int | float) else None


def agree(made: torch.Tensor, expected: torch.Tensor, *, tolerance: float) -> bool:
    """Whether the mean difference is within `tolerance` of the mean size and equal columns are
    masked.
    """
    if made.shape != expected.shape:
        return False
    made, expected = made.float(), expected.to(made.device).float()
    finite = expected.isfinite()
    if not torch.equal(finite, made.isfinite()) or not bool(finite.any()):
        return False
    size = expected[finite].abs().mean()
    return bool((made[finite] - expected[finite]).abs().mean() <= tolerance * size)
