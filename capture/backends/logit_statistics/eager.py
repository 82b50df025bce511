"""The reduction for CPUs: plain passes over a few rows at a time, which stay in the caches.

The passes: a cast, a maximum over groups of columns, a comparison with the next token's logit and
its sum, a shift, a softmax (half of the time) and its sum, two products and their sums. The second
product, needed only for the varentropy, adds 15 % to the passes and 4 % to the whole. Together they
take a third of the time of the bfloat16 matrix product at d = 576, V = 49,152, and less for wider
models.

Sums are taken over a group of columns in float32 and over groups in float64. Moments are divided
by the sum of the softmax: on a CPU torch adds the exponentials with few accumulators, so that at
V = 262,144 the probabilities of a row sum to 1 within 1e-3 only.
"""

from typing import Any, Final

import torch

from lpp.capture.backends.logit_statistics.partial import PartialStatistics
from lpp.capture.models.device import kind_of

_GROUP: Final = 256
"""Columns per partial maximum and partial sum. The largest logit is then searched among few
numbers, few roundings of float32 add up, and few sums are left to add in float64."""
_CACHED_LOGITS: Final = 2**19
"""Logits reduced at once by each thread: 2 MiB of float32."""


class EagerReduction:
    """The buffers of one call, each allocated once, and the passes over them.

    tile: (rows, V) logits, of the largest tile to come; only shape, dtype and device are read.
    """

    def __init__(self, tile: torch.Tensor) -> None:
        rows, V = tile.shape
        few = min(rows, max(1, _CACHED_LOGITS * torch.get_num_threads() // V))
        width = min(_GROUP, V)
        groups = -(-V // _GROUP)

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.empty(*shape, dtype=dtype, device=tile.device)

        self._few = few
        # where there is no float64, the few numbers of each group are added on the CPU
        self._adds_on = tile.device if kind_of(tile.device).float64 else torch.device("cpu")
        # the last group overlaps its neighbour when V is no multiple of the width
        self._starts = (torch.arange(groups, device=tile.device) * width).clamp_(max=V - width)
        self._within = torch.arange(width, device=tile.device)
        self._x = empty(few, V) if tile.dtype != torch.float32 else None  # (few, V)
        self._p = empty(few, V)  # (few, V)
        self._maxima = empty(rows, groups)  # (rows, groups)
        self._total = empty(rows, groups)  # sum p, 1 but for the rounding of the softmax
        self._mean = empty(rows, groups)  # sum p (x - largest)
        self._square = empty(rows, groups)  # sum p (x - largest)^2
        self._top = empty(rows, 1)  # largest logit
        self._top_group = empty(rows, 1, dtype=torch.int64)
        self._group_x = empty(rows, width)  # the logits around the largest, and
        self._group_p = empty(rows, width)  # their probabilities
        self._larger = empty(rows)  # counts, exact in float32 below 2**24 columns

    def __call__(self, logits: torch.Tensor, next_logit: torch.Tensor) -> PartialStatistics:
        """logits: (t, V), overwritten if float32. next_logit: (t,) float32."""
        t = len(logits)
        for start in range(0, t, self._few):
            self._pass(slice(start, min(start + self._few, t)), logits, next_logit[:, None])
        return self._finish(t, next_logit)

    def _pass(self, rows: slice, logits: torch.Tensor, next_logit: torch.Tensor) -> None:
        """The only code that touches every logit."""
        x = logits[rows]
        if self._x is not None:
            x = self._x[: x.shape[0]].copy_(x)
        p = self._p[: x.shape[0]]
        maxima, top = self._maxima[rows], self._top[rows]
        _reduce(torch.amax, x, maxima)
        group = self._top_group[rows]
        torch.max(maxima, -1, keepdim=True, out=(top, group))  # the first among equals
        columns = self._starts[group] + self._within
        torch.gather(x, 1, columns, out=self._group_x[rows])

        torch.gt(x, next_logit[rows], out=p)  # before the shift, which could round two into one
        torch.sum(p, -1, out=self._larger[rows])
        x.sub_(top)
        torch.softmax(x, -1, out=p)
        torch.gather(p, 1, columns, out=self._group_p[rows])
        _reduce(torch.sum, p, self._total[rows])
        p.mul_(x)
        # -inf logits: 0 * -inf is NaN here and is summed as 0, the correct value. A NaN of the
        # model spreads through the softmax to every p, and so stays visible.
        _reduce(torch.nansum, p, self._mean[rows])
        p.mul_(x)
        _reduce(torch.nansum, p, self._square[rows])

    def _finish(self, t: int, next_logit: torch.Tensor) -> PartialStatistics:
        """Reduce (t, few) intermediates to one number a row."""
        group_x, top_group = self._group_x[:t], self._top_group[:t]
        _, index = group_x.max(-1, keepdim=True)
        largest_id = self._starts[top_group] + index
        group_x.scatter_(1, index, -torch.inf)
        self._maxima[:t].scatter_(1, top_group, -torch.inf)
        second = torch.maximum(group_x.amax(-1), self._maxima[:t].amax(-1))
        # the softmax of the largest is 1 / sum exp(x - largest)
        top_p = self._group_p[:t].amax(-1).to(self._adds_on).double()
        total, mean, square = (
            parts[:t].to(self._adds_on).sum(-1, dtype=torch.float64) / top_p
            for parts in (self._total, self._mean, self._square)
        )
        return PartialStatistics(
            largest=self._top[:t, 0].clone().to(self._adds_on),
            largest_id=largest_id[:, 0].to(self._adds_on),
            second=second.to(self._adds_on),
            total=total,
            first_moment=mean,
            second_moment=square,
            larger=self._larger[:t].to(self._adds_on).double(),
            next_logit=next_logit.to(self._adds_on),
        )


def _reduce(reduce: Any, values: torch.Tensor, out: torch.Tensor) -> None:
    """`reduce` each group of columns of `values`, (n, V), into `out`, (n, groups)."""
    n, V = values.shape
    whole = V // _GROUP
    cut = whole * _GROUP
    if whole:
        reduce(values[:, :cut].view(n, whole, _GROUP), -1, out=out[:, :whole])
    if cut < V:
        reduce(values[:, cut:], -1, out=out[:, whole])
