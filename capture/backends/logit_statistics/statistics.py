"""The statistics of the logits of final states, computed tile by tile.

The full (n, V) logits never exist. A tile is unembedded as a whole, because the matrix product
needs many rows: on two CPU cores in bfloat16, 64 rows at a time cost 1.5 times as much as 256, and
on a GPU each tile reads the whole unembedding again. `eager` reduces a tile on a CPU, `fused` on a
GPU that has float64; `partial` combines the results of ranks. No step waits for such a GPU, and no
control flow depends on values.
"""

from dataclasses import dataclass, fields
from typing import Any, Final, Protocol

import torch

from lpp.capture.backends.logit_statistics.eager import EagerReduction
from lpp.capture.backends.logit_statistics.fused import fused
from lpp.capture.backends.logit_statistics.partial import (
    PartialStatistics,
    VocabularyShard,
    combine,
    joined,
)
from lpp.capture.models.device import kind_of

_CPU_ROWS: Final = (16, 256)
"""Fewest and most rows of a tile on a CPU."""
_CPU_LOGITS: Final = 2**25
"""Logits of a tile on a CPU, unless the fewest rows have more."""
_GPU_ROWS: Final = (1024, 2048)
"""Fewest and most rows of a tile on a GPU."""
_GPU_BYTES: Final = 2**29
"""Bytes of logits of a tile on a GPU, 512 MiB, unless the fewest rows take more.

In bfloat16 1,664 rows of 151,936 columns fit, and 1,024 of 262,144; in float32 the latter take
1 GiB. For a rank with a shard the tile is divided by the number of ranks."""


class Unembeds(Protocol):
    """Computes logits from final states, as a model does.

    With tensor parallelism each rank may compute only the columns of its `VocabularyShard`.
    """

    @property
    def vocabulary(self) -> int:
        """Columns of the whole logits, V; the same on every rank."""

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the logits as the model computes them."""

    @property
    def device(self) -> torch.device:
        """Device of the logits."""

    def logits(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        """rows: (n, width of `final`). out: (n, V), overwritten.

        On a rank with a shard, out is (n, columns of the shard); padding columns become -inf.
        """


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
    Every float of a row is NaN if a logit is NaN or +inf, or if all are -inf; its ranks and ids are
    then meaningless.
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

    The second moment about the largest logit minus the square of the mean, in float64: the error is
    that of the sums, at most 1e-6 of the second moment.
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
    shard: VocabularyShard | None = None,
) -> TokenStatistics:
    """Reduce the logits of `rows` to eight numbers each.

    rows: (n, width) final states. next_ids: (n,) int64, the token that follows each, -1 for none.
    tile_rows: rows unembedded at once; None: as many as suit device and vocabulary. It changes the
    values only by the rounding of the matrix product. shard: the columns that `unembed` computes on
    this rank; None: all of them.

    With shards, every rank calls with the same rows, next tokens and `tile_rows`, and every rank
    gets the statistics over the whole vocabulary. Communication: nine numbers a row.

    Memory beside the tile: on a CPU a few MiB a thread; on a GPU (rows, V / 256) sums if the
    reduction is compiled, otherwise 192 MiB.
    """
    n, device = rows.shape[0], unembed.device
    if n == 0:
        empty = torch.empty(0, device=device)
        return TokenStatistics(**{name: empty.to(_dtype(name)) for name in STATISTICS})
    # The same on every rank, however the columns are divided: reductions are done tile by tile.
    tile = min(n, tile_rows or default_tile_rows(device, unembed.vocabulary, unembed.dtype))
    shard = shard or VocabularyShard(columns=range(unembed.vocabulary))
    next_ids = next_ids.to(device)
    logits = torch.empty(tile, len(shard.columns), dtype=unembed.dtype, device=device)
    kind = kind_of(device)
    reduction = fused() if kind.float64 and not kind.on_host else EagerReduction(logits)
    tiles = []
    for start in range(0, n, tile):
        tile_states = rows[start : start + tile]
        made = logits[: len(tile_states)]
        unembed.logits(tile_states, made)
        next_logit = shard.next_logit(made, next_ids[start : start + tile])
        tiles.append(reduction(made, next_logit))
    is_last = (next_ids < 0).to(tiles[0].total.device)
    return token_statistics(combine(joined(tiles), shard), is_last)


def default_tile_rows(device: torch.device, vocabulary: int, dtype: torch.dtype) -> int:
    """Rows of a tile of (rows, vocabulary) logits in `dtype`, computed on `device`."""
    if not kind_of(device).on_host:
        fewest, most = _GPU_ROWS
        fit = _GPU_BYTES // (vocabulary * dtype.itemsize)
        fit -= fit % 128  # whole tiles of the matrix product's kernels
    else:
        fewest, most = _CPU_ROWS
        fit = _CPU_LOGITS // vocabulary
    return min(most, max(fewest, fit))


def token_statistics(partial: PartialStatistics, is_last: torch.Tensor) -> TokenStatistics:
    """The statistics of (n,) rows from the reduction of all their logits.

    is_last: (n,) bool, has no next token.
    """
    largest, log_total = partial.largest.double(), partial.total.log()
    mean = partial.first_moment / partial.total
    square = partial.second_moment / partial.total
    columns = {
        # shifted by the largest logit, or logits of size 100 would cost five digits
        "entropy": (log_total - mean).clamp(min=0),
        "log_z": largest + log_total,
        "max_logprob": -log_total,
        "margin": (partial.largest - partial.second).masked_fill(log_total.isnan(), torch.nan),
        "next_logprob": (partial.next_logit - largest - log_total).masked_fill(is_last, torch.nan),
        "next_rank": (partial.larger + 1).masked_fill(is_last, 0),
        "top1_id": partial.largest_id,
        "varentropy": (square - mean.square()).clamp(min=0),
    }
    return TokenStatistics(**{name: columns[name].to(_dtype(name)) for name in STATISTICS})


def _dtype(name: str) -> torch.dtype:
    return torch.int32 if name in ("next_rank", "top1_id") else torch.float32
