"""Feeds as data sets of torch, so that its DataLoader takes them: `batch_size=None`.

A DataLoader starts its workers anew for each loop over it, with a copy of the feed as it stands in
the process that trains, which gives nothing itself. So the workers count passes in memory that all
processes share, or each loop would have the order of the first one.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import torch
from torch.utils.data import IterableDataset, get_worker_info

from lpp.store.feed.prompt_feed import PromptFeed
from lpp.store.feed.resumable import ResumableFeed, start_of
from lpp.store.feed.row_feed import MixedRows, RowFeed

_WORKERS: Final = 1024
"""Workers that a loader may have."""

_TAG_BITS: Final = 40
"""Low bits of the number that a worker leaves: they say which loop it is in. The others count
passes. Both are one number of 64 bits, which is written and read at once.
"""

_TAG: Final = (1 << _TAG_BITS) - 1


class _InWorkers(ResumableFeed, IterableDataset):  # type: ignore[type-arg]
    """A feed whose workers agree which pass they are in."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._passes = torch.full((1 + _WORKERS,), -1, dtype=torch.int64)
        """The epoch at which the first pass in workers begins, then what each worker leaves."""
        self._passes[0] = 0
        with suppress(RuntimeError):  # without shared memory there are no workers either
            self._passes.share_memory_()
        self._pass: int | None = None
        self._loaded = False

    def __iter__(self) -> Iterator[Any]:
        super().__iter__()
        info = get_worker_info()
        if info is not None:
            self._pass = self._begin_pass(info.id, info.seed - info.id)
            first = int(self._passes[0]) + self._pass * (self._epochs or 1)
            if self._loaded:
                self._tell(self._at["first"])
            elif first != self._at["first"]:
                self.close()
                self._at = start_of(first)
        return self

    def end_pass(self) -> None:
        super().end_pass()
        if get_worker_info() is None:
            self._tell(self._at["first"])

    def _begin_pass(self, worker: int, seed: int) -> int:
        """The number of the pass that this worker begins. seed: of the loop, the same in all of its
        workers; with workers that live on, the same in every loop.
        """
        slots, tag = self._passes[1:].numpy(), seed & _TAG
        there = slots.copy()
        here = there[there >= 0]
        mine = int(there[worker])
        before = mine >> _TAG_BITS if mine >= 0 and mine & _TAG == tag else -1
        same = here[(here & _TAG) == tag] >> _TAG_BITS
        begun = same[same > before]
        number = int(begun.max()) if len(begun) else int((here >> _TAG_BITS).max(initial=-1)) + 1
        slots[worker] = number << _TAG_BITS | tag
        return number

    def _tell(self, first: int) -> None:
        """Count passes so that the present one begins at epoch `first`, or the next one if this is
        no worker.
        """
        self._loaded = get_worker_info() is not None and self._pass is None
        if get_worker_info() is None:
            self._passes[1:] = -1
            self._passes[0] = first
        elif self._pass is not None:
            self._passes[0] = first - self._pass * (self._epochs or 1)


class TorchRowFeed(_InWorkers, RowFeed):
    """A `RowFeed` of tensors."""


class TorchMixedRows(MixedRows, IterableDataset):  # type: ignore[type-arg]
    """`MixedRows` of tensors."""


class TorchPromptFeed(_InWorkers, PromptFeed):
    """A `PromptFeed` of tensors."""


OF: Final[dict[type[Any], type[Any]]] = {
    RowFeed: TorchRowFeed,
    MixedRows: TorchMixedRows,
    PromptFeed: TorchPromptFeed,
}
"""The class of tensors of each class of arrays."""
