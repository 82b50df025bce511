"""vLLM's own computation of logits from final states: gathered on the first rank, or sharded.

With tensor parallelism each rank has some columns of the unembedding. vLLM gathers the logits,
T x V numbers, on the first rank; statistics need only nine numbers a row from each rank. So the
gathering in vLLM's `LogitsProcessor` is disabled, and everything that the model does to logits
before and after it stays. When the model has loaded, a check compares the statistics with those of
the gathered logits; if they differ, logits are gathered.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import nn

from lpp.capture.backends.logit_statistics import (
    STATISTICS,
    TokenStatistics,
    Unembeds,
    VocabularyShard,
    all_reduce,
    logit_statistics,
)

_FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

TOLERANCE: Final = 1e-5
"""Absolute and relative tolerance of the statistics: the logits are the same, but their sums are
taken in another order."""


class ShardedUnembeds(Unembeds, Protocol):
    """Computes the logits of all columns, or of those of a shard."""

    @property
    def shard(self) -> VocabularyShard | None:
        """The columns that `logits` computes; None: all of them."""


class GatheredUnembedding:
    """All columns, as `compute_logits` returns them. Implements `ShardedUnembeds`.

    dtype: of the logits. On a rank that gets none `out` is not written, and its statistics are
    discarded; but it makes the same calls, so its tiles must have as many rows as elsewhere.
    """

    shard = None

    def __init__(self, model: nn.Module, dtype: torch.dtype, vocabulary: int) -> None:
        self._model: Any = model
        self.vocabulary, self.dtype = vocabulary, dtype
        self.device: torch.device = next(model.parameters()).device

    def logits(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        """rows: (n, width of `final`). out: (n, V), overwritten."""
        made = self._model.compute_logits(rows)
        if made is not None:
            out.copy_(made)


class ShardUnembedding:
    """The columns of this rank. Implements `ShardedUnembeds`.

    sample: any logits of these columns.
    """

    def __init__(
        self, model: nn.Module, sample: torch.Tensor, vocabulary: int, shard: VocabularyShard
    ) -> None:
        self._model = model
        self.vocabulary, self.shard = vocabulary, shard
        self.dtype, self.device = sample.dtype, sample.device
        self._real = max(0, min(len(shard.columns), vocabulary - shard.columns.start))

    def logits(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        """rows: (n, width of `final`). out: (n, columns of the shard), overwritten."""
        out.copy_(ungathered(self._model, rows)[0])
        out[:, self._real :] = -torch.inf  # the padding of the unembedding


@torch.inference_mode()
def find_unembedding(
    model: nn.Module, final: torch.Tensor, vocabulary: int, group: Any
) -> ShardedUnembeds:
    """The sharded unembedding if a check on some rows of `final` passes, else the gathered one.

    group: torch's process group of the ranks, each of which calls this; None for one rank.
    """
    sample: torch.Tensor | None = model.compute_logits(final[:1])  # type: ignore[operator]
    gathered = GatheredUnembedding(model, _dtype_of(sample, final, group), vocabulary)
    if group is None:
        return gathered
    sharded = _sharded(model, final, vocabulary, group)
    # Every rank makes the same calls: a reduction that one rank skips would block the others for
    # ever.
    if not _everywhere(sharded is not None, final, group):
        return gathered
    assert sharded is not None
    next_ids = torch.arange(len(final), device=final.device) % vocabulary
    mine = logit_statistics(final, sharded, next_ids, shard=sharded.shard)
    whole = logit_statistics(final, gathered, next_ids)
    same = sample is None or same_statistics(mine, whole)
    return sharded if _everywhere(same, final, group) else gathered


def same_statistics(mine: TokenStatistics, whole: TokenStatistics) -> bool:
    """Whether two reductions of the same logits agree."""
    return all(
        torch.allclose(
            getattr(mine, name).double(),
            getattr(whole, name).double(),
            rtol=TOLERANCE,
            atol=TOLERANCE,
            equal_nan=True,
        )
        for name in STATISTICS
    )


def _sharded(
    model: nn.Module, final: torch.Tensor, vocabulary: int, group: Any
) -> ShardUnembedding | None:
    """The unembedding of this rank's columns; None if the model has no such parts."""
    try:
        logits, call = ungathered(model, final)
        indices = call.head.shard_indices
        columns = range(indices.padded_org_vocab_start_index, indices.padded_org_vocab_end_index)
        if logits.shape != (len(final), len(columns)):
            return None
        shard = VocabularyShard(columns=columns, reduce=all_reduce(group))
        return ShardUnembedding(model, logits, vocabulary, shard)
    except Exception:  # a custom model may raise any error: then logits are gathered
        return None


@dataclass(frozen=True, kw_only=True)
class HeadCall:
    """How a model called vLLM's `LogitsProcessor`."""

    processor: Any
    head: Any
    """The module that has the columns of this rank."""
    bias: torch.Tensor | None


def ungathered(model: Any, rows: torch.Tensor) -> tuple[torch.Tensor, HeadCall]:
    """The logits of this rank's columns, and the call that computed them."""
    with _without_gathering(model) as calls:
        logits: torch.Tensor = model.compute_logits(rows)
    (call,) = calls
    return logits, call


@contextmanager
def _without_gathering(model: nn.Module) -> Iterator[list[HeadCall]]:
    """While open, logits are not gathered; yields the list of calls that compute them."""
    from vllm.model_executor.layers.logits_processor import LogitsProcessor

    calls: list[HeadCall] = []

    def before(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        named = dict(zip(("lm_head", "hidden_states", "embedding_bias"), args, strict=False))
        named |= kwargs
        bias = named.get("embedding_bias")
        calls.append(HeadCall(processor=module, head=named["lm_head"], bias=bias))
        return args, {**kwargs, "skip_gather": True}

    processors = [m for m in model.modules() if isinstance(m, LogitsProcessor)]
    handles = [m.register_forward_pre_hook(before, with_kwargs=True) for m in processors]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _dtype_of(sample: torch.Tensor | None, like: torch.Tensor, group: Any) -> torch.dtype:
    """The dtype of the logits, also on the ranks that get none."""
    number = -1 if sample is None else _FLOATS.index(sample.dtype)
    if group is None:
        return _FLOATS[number]
    reduced = all_reduce(group)(torch.tensor(float(number), device=like.device), "max")
    return _FLOATS[int(reduced)]


def _everywhere(holds: bool, like: torch.Tensor, group: Any) -> bool:
    """Whether `holds` is true on every rank."""
    fails = torch.tensor(0.0 if holds else 1.0, device=like.device)
    return not float(all_reduce(group)(fails, "max"))
