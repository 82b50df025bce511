"""Statistics of some columns of the logits, and their combination over ranks.

With tensor parallelism every rank computes the logits of its own columns of the vocabulary. It
reduces them to a few numbers a row, and the ranks combine those by maxima and sums: the logits are
never gathered. A device that has every column counts as a single rank.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal

import torch

Reduce = Callable[[torch.Tensor, Literal["max", "sum"]], torch.Tensor]
"""The elementwise maximum or sum of a tensor over all ranks, on every rank.

Every rank calls it with the same shapes in the same order. It may overwrite its argument. The
maximum of a NaN and a number may be either one: no statistic depends on it.
"""

NEGLIGIBLE: Final = -1e4
"""Lower bound of x - largest: its exponential is exactly 0, and 0 * -1e4 is 0.

Without the bound a logit of -inf would make 0 * -inf = NaN. A NaN passes the bound."""


def alone(values: torch.Tensor, _: Literal["max", "sum"]) -> torch.Tensor:
    """The `Reduce` of a device that has every column."""
    return values


def all_reduce(group: Any = None) -> Reduce:
    """The `Reduce` over a process group of torch.distributed; None: the default group."""
    from torch import distributed

    operations = {"max": distributed.ReduceOp.MAX, "sum": distributed.ReduceOp.SUM}

    def reduce(values: torch.Tensor, operation: Literal["max", "sum"]) -> torch.Tensor:
        distributed.all_reduce(values, operations[operation], group)
        return values

    return reduce


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabularyShard:
    """The columns of the logits that this rank computes, and its reduction with the others.

    The columns of all ranks are disjoint and cover the vocabulary. Some may be past its end: they
    are padding of the unembedding, and their logits must be -inf. A rank that only has padding
    gives at least one such column. Raises ValueError if `columns` is empty or has a step other than
    1.
    """

    columns: range
    """Token ids of this rank's columns, in steps of 1."""
    reduce: Reduce = alone

    def __post_init__(self) -> None:
        if not self.columns or self.columns.step != 1:
            raise ValueError(f"a shard needs at least one column, in steps of 1: {self.columns}")

    def next_logit(self, logits: torch.Tensor, next_ids: torch.Tensor) -> torch.Tensor:
        """The next token's logit of each row, whichever rank has its column.

        logits: (t, columns of this rank). next_ids: (t,) int64, -1 for none. Returns (t,) float32;
        -inf if there is no next token.
        """
        column = next_ids - self.columns.start
        here = (column >= 0) & (column < len(self.columns))
        column = column.clamp(min=0, max=len(self.columns) - 1)
        logit = logits.gather(1, column[:, None])[:, 0].float()
        return self.reduce(logit.masked_fill(~here, -torch.inf), "max")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialStatistics:
    """Reductions of some columns of each row: (t,) tensors on the device of the logits.

    x is a logit, p is exp(x - largest), not divided by its sum. The sums are NaN if the columns of
    a row have a NaN, +inf or only -inf.
    """

    largest: torch.Tensor
    """Largest logit; float32."""
    largest_id: torch.Tensor
    """The smallest column with the largest logit, counted from this rank's first; int64. After
    `combine`: its token id."""
    second: torch.Tensor
    """Second largest logit, equal to the largest if two are tied; -inf for one column; float32."""
    total: torch.Tensor
    """sum p; float64."""
    first_moment: torch.Tensor
    """sum p (x - largest); float64."""
    second_moment: torch.Tensor
    """sum p (x - largest)^2; float64."""
    larger: torch.Tensor
    """Number of logits strictly larger than `next_logit`; float64, a whole number."""
    next_logit: torch.Tensor
    """The next token's logit, whichever rank has it; float32."""


def joined(tiles: Sequence[PartialStatistics]) -> PartialStatistics:
    """The rows of all `tiles`, in order. There is at least one tile."""
    return PartialStatistics(
        **{
            field.name: torch.cat([getattr(tile, field.name) for tile in tiles])
            for field in fields(PartialStatistics)
        }
    )


def combine(partial: PartialStatistics, shard: VocabularyShard) -> PartialStatistics:
    """The statistics of all columns, the same on every rank, from those of each rank's columns.

    Communicates 1 + 2 maxima and 5 sums a row, in three calls of `shard.reduce`.
    """
    largest = shard.reduce(partial.largest.clone(), "max")
    has_largest = partial.largest == largest
    token_id = (partial.largest_id + shard.columns.start).double()
    # the largest logit except one; another rank may have a second of the same size
    rest = torch.where(has_largest, partial.second, partial.largest).double()
    maxima = torch.stack([(-token_id).masked_fill(~has_largest, -torch.inf), rest])
    smallest_id, rest = shard.reduce(maxima, "max").unbind()

    # columns that are all -inf have sums of NaN; with other columns they count as 0
    weightless = partial.largest == -torch.inf
    sums = about(
        partial.largest.double() - largest,
        partial.total.masked_fill(weightless, 0),
        partial.first_moment.masked_fill(weightless, 0),
        partial.second_moment.masked_fill(weightless, 0),
    )
    total, first, second, larger, ranks = shard.reduce(
        torch.stack([*sums, partial.larger, has_largest.double()]), "sum"
    ).unbind()
    return replace(
        partial,
        largest=largest,
        largest_id=(-smallest_id).clamp(max=torch.iinfo(torch.int32).max).long(),
        second=torch.where(ranks > 1, largest, rest.float()),
        total=total,
        first_moment=first,
        second_moment=second,
        larger=larger,
    )


def about(
    shift: torch.Tensor, total: torch.Tensor, first: torch.Tensor, second: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sums of p, p y and p y^2 for y = x - b, p = exp(y), from those for y = x - a.

    shift: a - b, at most 0, float64. total, first, second: the sums for a. All terms of a sum have
    one sign, so nothing cancels.
    """
    shift = shift.clamp(min=NEGLIGIBLE)
    weight = shift.exp()
    return (
        weight * total,
        weight * (first + shift * total),
        weight * (second + 2 * shift * first + shift * shift * total),
    )
