"""The feed of single rows: each is copied from the buffer into its batch."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lpp.store.feed.buffer import Buffer
from lpp.store.feed.epoch import Sections, Share, expected_prompts
from lpp.store.feed.output import Output, worker
from lpp.store.feed.resumable import ResumableFeed
from lpp.store.feed.spans import Spans
from lpp.store.progress import Progress
from lpp.store.units import counted


class RowFeed(ResumableFeed):
    """An iterator of batches of rows. `rows` makes one and says what it gives."""

    def __init__(self, *args: Any, output: Output, progress: Progress, **options: Any) -> None:
        super().__init__(*args, **options)
        self._output, self._progress = output, progress
        self._begun = False
        self.ids: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        """(n,) the rows of the run in the last batch, counted through the tokens of all prompts."""

    @property
    def mean(self) -> Sequence[npt.NDArray[np.float32]] | None:
        """(d,) subtracted from the rows of each column: site, or run. None without `center`."""
        return self._output.mean

    @property
    def factor(self) -> Sequence[float] | None:
        """By which the rows of each column are then multiplied. None without `scale`."""
        return self._output.factor

    @property
    def batch(self) -> int:
        """Rows of a whole batch."""
        return self._order.batch

    def __str__(self) -> str:
        """What it gives and how well it is mixed, in a line."""
        rows, order, longest = int(self._spans.counts.sum()), self._order, self._spans.longest
        run, sites = self._sources[0]
        share = -(-rows // order.world)
        capacity = min(order.capacity, share)
        prompts, uniform = expected_prompts(
            order.batch,
            Spans(edges=run.row_edges, kept=self._spans.kept).counts,
            1 / order.world,
            Sections(capacity, longest, share),
            longest,
        )
        epochs = "epochs without end" if self._epochs is None else counted(self._epochs, "epoch")
        return (
            f"{rows:,} rows of {', '.join(sites)} in batches of {order.batch:,}, {epochs}; a "
            f"buffer of {capacity:,} rows; about {prompts:,.0f} prompts a batch, {uniform:,.0f} in "
            "a uniform sample"
        )

    def __next__(self) -> Any:
        if self._begun:
            return super().__next__()
        self._begun, start = True, time.monotonic()
        batch = super().__next__()
        self._progress.note(f"{self}; the first came after {time.monotonic() - start:.1f} s")
        return batch

    def __len__(self) -> int:
        """Batches of a pass of all epochs. TypeError without an end."""
        if self._epochs is None:
            raise TypeError("a feed without an end has no length: give epochs=N")
        return self._share(0).batches * self._epochs

    def _share(self, number: int) -> Share:
        return self._order.share(int(self._spans.counts.sum()), worker())

    def _next(self, buffer: Buffer) -> Any:
        left, n = buffer.epoch.share.batches - self._at["batches"], 0
        if left <= 0:
            return None
        size = min(self._order.batch, buffer.left - (left - 1))  # a row for each later batch
        columns = self._output.columns(size, buffer.memory)
        ids = np.empty(size, np.int64)
        while n < size:
            units, slots = buffer.take(size - n)
            ids[n : n + len(units)] = units
            for column, memory in zip(columns, buffer.memory, strict=True):
                # `raise` would buffer all of `out`
                np.take(memory, slots, axis=0, out=column[n : n + len(units)], mode="clip")
            n += len(units)
        self.ids = ids
        return self._output.of(columns)
