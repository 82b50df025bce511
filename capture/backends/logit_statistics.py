"""Exact statistics of the logits, reduced in tiles: no full logits tensor ever exists.

Two tile sizes, because two things compete. The matrix product wants many rows (in bfloat16 on two
cores, 64 rows at a time cost 1.5 times what 256 do); the passes over the logits want few, so that
a float32 tile stays in the caches. So `tile_rows` rows are unembedded at once and reduced a few
rows at a time. The passes: a cast, a maximum over groups of columns, a comparison with the next
token's logit and its sum, a shift, a softmax (half of the time) and its sum, two products and
their sums. The second product, which the varentropy alone needs, adds 15 % to the passes and 4 %
to the whole. All of it takes a third of the bfloat16 matrix product at d = 576, V = 49,152, and
less for wider models. Nothing waits for the device and nothing but the values depends on the
values.

Sums are taken over a group of columns in float32 and over groups in float64. Moments are divided
by the sum of the softmax: on a CPU torch adds the exponentials with few accumulators, so that at
V = 262,144 the probabilities of a row sum to 1 within 1e-3 only.
"""

from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch

_GROUP = 256
"""Columns per partial maximum and partial sum. Where the largest logit is, is then a question to
few numbers; few roundings of float32 add up, and few sums are left to add in float64."""
_TILE_ROWS = 256
_TILE_LOGITS = 2**25
"""Most logits unembedded at once: bounds memory where the vocabulary is very large."""
_CACHED_LOGITS = 2**19
"""Logits reduced at once by each thread: 2 MiB of float32."""


class Unembeds(Protocol):
    """Makes logits of final states, as a model does."""

    @property
    def vocabulary(self) -> int:
        """Columns of the logits, V."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the logits as the model makes them."""

    @property
    def device(self) -> torch.device:
        """Where the logits are made."""

    def logits(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        """rows: (n, width of `final`). out: (n, V), is overwritten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStatistics:
    """One value per row of final states: (n,) tensors on the device of the logits.

    Errors against the same logits in float64, measured at V = 49,152, 151,936 and 262,144:

    - logits that are flat or normal, with standard deviations from 0.01 to 30: entropy below 1e-6
      nats, varentropy below 3e-6 nats^2;
    - logits that are mostly equal, so that their products are all rounded alike: entropy below 5e-6
      nats, varentropy below 6e-5 nats^2;
    - the other floats: below 1e-6 nats and 1.2e-7 of themselves.

    A row without a next token has `next_rank` 0, which no real rank is, and `next_logprob` NaN.
    A row with a NaN among its logits has NaN in every float; ranks and ids say nothing there.
    """

    entropy: torch.Tensor
    """-sum p ln p over every column of the logits; float32, nats."""
    log_z: torch.Tensor
    """ln sum exp of the logits; float32, nats."""
    max_logprob: torch.Tensor
    """ln p of the most likely token; float32, nats."""
    margin: torch.Tensor
    """ln p(1st) - ln p(2nd); float32, nats; inf when there is no 2nd (V = 1, or all else -inf)."""
    next_logprob: torch.Tensor
    """ln p of the token that follows; float32, nats."""
    next_rank: torch.Tensor
    """1 + number of logits strictly larger than the next token's; int32."""
    top1_id: torch.Tensor
    """The most likely token, the smallest id among equals; int32."""
    varentropy: torch.Tensor
    """sum p (ln p)^2 - entropy^2, the variance of -ln p under p; float32, nats^2.

    The second moment about the largest logit less the square of the mean, in float64: the error
    is that of the sums, 1e-6 of the second moment at most.
    """

    def numpy(self) -> dict[str, Any]:
        """The columns by name, as arrays in host memory; waits for the device."""
        return {name: getattr(self, name).cpu().numpy() for name in STATISTICS}


STATISTICS = tuple(field.name for field in fields(TokenStatistics))
"""Names of the eight statistics, in the order of the token table."""


@torch.no_grad()
def logit_statistics(
    rows: torch.Tensor,
    unembed: Unembeds,
    next_ids: torch.Tensor,
    tile_rows: int | None = None,
) -> TokenStatistics:
    """Reduce the logits of `rows` to eight numbers each.

    rows: (n, width) final states. next_ids: (n,) int64, the token that follows each, -1 for none.
    tile_rows: rows unembedded at once; None fits the vocabulary. Extra memory: two such tiles at
    most. Values do not depend on it but by the rounding of the matrix product.
    """
    n, vocabulary = rows.shape[0], unembed.vocabulary
    tile = tile_rows or min(_TILE_ROWS, max(16, _TILE_LOGITS // vocabulary))
    next_ids = next_ids.to(unembed.device)
    reducer = _Reducer(unembed, min(tile, n))
    tiles = [
        reducer.reduce(rows[start : start + tile], next_ids[start : start + tile])
        for start in range(0, n, tile)
    ]
    if not tiles:
        empty = torch.empty(0, device=unembed.device)
        return TokenStatistics(**{name: empty.to(_dtype(name)) for name in STATISTICS})
    return TokenStatistics(
        **{name: torch.cat([t[name] for t in tiles]).to(_dtype(name)) for name in STATISTICS}
    )


def _dtype(name: str) -> torch.dtype:
    return torch.int32 if name in ("next_rank", "top1_id") else torch.float32


class _Reducer:
    """The buffers of one call, each allocated once, and the passes over them."""

    def __init__(self, unembed: Unembeds, tile: int) -> None:
        V, device = unembed.vocabulary, unembed.device
        few = tile
        if device.type == "cpu":
            few = min(tile, max(1, _CACHED_LOGITS * torch.get_num_threads() // V))
        width = min(_GROUP, V)
        groups = -(-V // _GROUP)

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.empty(*shape, dtype=dtype, device=device)

        self._unembed, self._few = unembed, few
        # the last group overlaps its neighbour when V is no multiple of the width
        # (made on the device: a copy to it would wait for the forward pass)
        self._starts = (torch.arange(groups, device=device) * width).clamp_(max=V - width)
        self._within = torch.arange(width, device=device)
        self._logits = empty(tile, V, dtype=unembed.dtype)  # (tile, V)
        self._x = empty(few, V) if unembed.dtype != torch.float32 else None  # (few, V)
        self._p = empty(few, V)  # (few, V)
        self._maxima = empty(tile, groups)  # (tile, groups)
        self._total = empty(tile, groups)  # sum p, 1 but for the rounding of the softmax
        self._mean = empty(tile, groups)  # sum p (x - largest)
        self._square = empty(tile, groups)  # sum p (x - largest)^2
        self._top = empty(tile, 1)  # largest logit
        self._top_group = empty(tile, 1, dtype=torch.int64)
        self._group_x = empty(tile, width)  # the logits around the largest, and
        self._group_p = empty(tile, width)  # their probabilities
        self._next_x = empty(tile, 1)
        self._larger = empty(tile)  # counts, exact in float32 below 2**24 columns

    def reduce(self, rows: torch.Tensor, next_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """rows: (t, width of final), t at most the tile. Tensors returned are fresh."""
        t = rows.shape[0]
        self._unembed.logits(rows, self._logits[:t])
        following = next_ids.clamp(min=0)[:, None]
        for start in range(0, t, self._few):
            self._pass(slice(start, min(start + self._few, t)), following)
        return self._finish(t, next_ids < 0)

    def _pass(self, some: slice, following: torch.Tensor) -> None:
        """The only code that touches every logit."""
        x = self._logits[some]
        if self._x is not None:
            x = self._x[: x.shape[0]].copy_(x)
        p = self._p[: x.shape[0]]
        maxima, top = self._maxima[some], self._top[some]
        _reduce(torch.amax, x, maxima)
        group = self._top_group[some]
        torch.max(maxima, -1, keepdim=True, out=(top, group))  # the first among equals
        columns = self._starts[group] + self._within
        torch.gather(x, 1, columns, out=self._group_x[some])
        torch.gather(x, 1, following[some], out=self._next_x[some])

        torch.gt(x, self._next_x[some], out=p)  # before the shift, which could round two into one
        torch.sum(p, -1, out=self._larger[some])
        x.sub_(top)
        torch.softmax(x, -1, out=p)
        torch.gather(p, 1, columns, out=self._group_p[some])
        _reduce(torch.sum, p, self._total[some])
        p.mul_(x)
        # -inf logits: 0 * -inf is NaN here and counts as the 0 it stands for. A NaN that came from
        # the model spreads through the softmax to every p, and so stays visible.
        _reduce(torch.nansum, p, self._mean[some])
        p.mul_(x)
        _reduce(torch.nansum, p, self._square[some])

    def _finish(self, t: int, last: torch.Tensor) -> dict[str, torch.Tensor]:
        """From (t,) and (t, few) intermediates to the statistics; last: (t,) no next token."""
        top, group_x = self._top[:t], self._group_x[:t]
        total, mean, square = (
            parts[:t].sum(-1, dtype=torch.float64)
            for parts in (self._total, self._mean, self._square)
        )
        mean, square = mean / total, square / total
        # p of the largest is 1 / sum exp(x - largest)
        log_top = (self._group_p[:t].amax(-1) / total).log()
        within, place = group_x.max(-1, keepdim=True)
        top1 = self._starts[self._top_group[:t]] + place
        group_x.scatter_(1, place, -torch.inf)
        self._maxima[:t].scatter_(1, self._top_group[:t], -torch.inf)
        second = torch.maximum(group_x.amax(-1), self._maxima[:t].amax(-1))
        next_logprob = (self._next_x[:t].double() - top)[:, 0] + log_top
        return {
            # shifted by the largest logit, or logits of size 100 would cost five digits
            "entropy": (-log_top - mean).clamp(min=0),
            "log_z": top[:, 0] - log_top,
            "max_logprob": log_top,
            "margin": within[:, 0] - second,
            "next_logprob": next_logprob.masked_fill(last, torch.nan),
            "next_rank": (self._larger[:t] + 1).masked_fill(last, 0),
            "top1_id": top1[:, 0],
            "varentropy": (square - mean.square()).clamp(min=0),
        }


def _reduce(reduce: Any, values: torch.Tensor, out: torch.Tensor) -> None:
    """`reduce` each group of columns of `values`, (n, V), into `out`, (n, groups)."""
    n, V = values.shape
    whole = V // _GROUP
    cut = whole * _GROUP
    if whole:
        reduce(values[:, :cut].view(n, whole, _GROUP), -1, out=out[:, :whole])
    if cut < V:
        reduce(values[:, cut:], -1, out=out[:, whole])
