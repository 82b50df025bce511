"""The reduction for GPUs: one function of plain torch, compiled.

The passes of `eager` write their results to memory, which on a GPU costs traffic of about ten times
the logits. Here each group of columns is reduced about its own maximum, and the groups are combined
like those of ranks. `torch.compile` makes one kernel of all passes over the logits, and one more
for a last group that is narrower: no tensor of the size of the tile is made. Uncompiled, the
function is the reference for the compiled one.
"""

import functools
import logging
from collections.abc import Callable
from typing import Final

import torch

from lpp.capture.backends.logit_statistics.partial import (
    NEGLIGIBLE,
    PartialStatistics,
    about,
    joined,
)
from lpp.capture.models.machine import out_of_memory

_log = logging.getLogger("lpp.capture")

GROUP: Final = 256
"""Columns per maximum and sum in float32. Groups are added in float64."""
WIDE: Final = 2**15
"""Fewest columns for which the reduction is compiled. Compiling takes seconds, and the reduction of
a narrower tile is cheap beside the matrix product."""
PLAIN_LOGITS: Final = 2**23
"""Logits that uncompiled code reduces at once: it needs about six float32 tensors of them, 192
MiB."""

_LOWEST: Final = torch.finfo(torch.float32).min


def fused_reduction(logits: torch.Tensor, next_logit: torch.Tensor) -> dict[str, torch.Tensor]:
    """The fields of `PartialStatistics` of a tile.

    logits: (t, V), any float dtype; not changed. next_logit: (t,) float32.
    """
    t, V = logits.shape
    cut = V - V % GROUP
    parts = []
    if cut:
        parts.append(_groups(logits[:, :cut].view(t, -1, GROUP), next_logit))
    if cut < V:
        parts.append(_groups(logits[:, None, cut:], next_logit))
    maxima, total, first, second, larger = (torch.cat(part, 1) for part in zip(*parts, strict=True))

    largest, group = maxima.max(1, keepdim=True)  # the first among equals
    sums = about(
        maxima.clamp(min=_LOWEST).double() - largest,
        total.double(),
        first.double(),
        second.double(),
    )
    width = min(GROUP, V)
    # a narrow last group is filled with the columns before it, none of which is as large
    columns = (group * GROUP).clamp(max=V - width) + torch.arange(width, device=logits.device)
    around = logits.gather(1, columns).float()
    index = around.argmax(1, keepdim=True)
    runner_up = torch.maximum(
        around.scatter(1, index, -torch.inf).amax(1), maxima.scatter(1, group, -torch.inf).amax(1)
    )
    return {
        "largest": largest[:, 0],
        "largest_id": columns.gather(1, index)[:, 0],
        "second": runner_up,
        "total": sums[0].sum(1),
        "first_moment": sums[1].sum(1),
        "second_moment": sums[2].sum(1),
        "larger": larger.sum(1, dtype=torch.float64),
        "next_logit": next_logit,
    }


def _groups(logits: torch.Tensor, next_logit: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Reduce (t, groups, columns) to five (t, groups) tensors of float32.

    The maximum, the sums of p, p y and p y^2, where y = x - maximum and p = exp(y), and the number
    of logits larger than the next token's.
    """
    x = logits.float()
    maxima = x.amax(2)
    y = (x - maxima.clamp(min=_LOWEST)[:, :, None]).clamp(min=NEGLIGIBLE)
    p = y.exp()
    larger = (x > next_logit[:, None, None]).float()
    return maxima, p.sum(2), (p * y).sum(2), (p * y * y).sum(2), larger.sum(2)


class FusedReduction:
    """Reduces tiles on a GPU, compiled if the vocabulary is wide, else plain.

    The first tile of a wide vocabulary waits for the compiler. If compiling fails (no compiler, no
    triton), one warning says so, and plain code reduces that tile and all later ones. compiled:
    `fused_reduction`, compiled. wide: fewest columns for which compiling is worthwhile.
    """

    def __init__(self, compiled: Callable[..., dict[str, torch.Tensor]], wide: int = WIDE) -> None:
        self._compiled, self._wide = compiled, wide
        self._failed = False

    def __call__(self, logits: torch.Tensor, next_logit: torch.Tensor) -> PartialStatistics:
        """logits: (t, V), not changed. next_logit: (t,) float32."""
        t, V = logits.shape
        # a tile of one row would be compiled anew: the compiler treats the size 1 as a constant
        if self._wide <= V and t > 1 and not self._failed:
            try:
                return PartialStatistics(**self._compiled(logits, next_logit))
            except Exception as error:  # the compiler and its tools may raise any error
                if out_of_memory(error):
                    raise
                self._failed = True
                _log.warning(
                    "torch.compile failed on the statistics of the logits, which now take plain, "
                    "slower code with the same results: %s: %s",
                    type(error).__name__,
                    (str(error).strip().splitlines() or ["no message"])[0][:200],
                )
        rows = max(1, PLAIN_LOGITS // V)
        return joined(
            [
                PartialStatistics(**fused_reduction(*piece))
                for piece in zip(
                    torch.split(logits, rows), torch.split(next_logit, rows), strict=True
                )
            ]
        )


def compiled(backend: str = "inductor") -> Callable[..., dict[str, torch.Tensor]]:
    """`fused_reduction`, compiled at its first call: once for each V and dtype, for any t > 1."""
    compiled_reduction = torch.compile(
        fused_reduction, fullgraph=True, dynamic=False, backend=backend
    )

    def reduce(logits: torch.Tensor, next_logit: torch.Tensor) -> dict[str, torch.Tensor]:
        for argument in (logits, next_logit):  # or the short last tile would be compiled anew
            torch._dynamo.maybe_mark_dynamic(argument, 0)
        return compiled_reduction(logits, next_logit)

    return reduce


@functools.cache
def fused() -> FusedReduction:
    """The reduction of this process: it compiles once, and warns once."""
    return FusedReduction(compiled())
