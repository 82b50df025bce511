"""The feed of single rows: each is copied from the buffer into its batch."""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lpp.store.feed.buffer import Buffer
from lpp.store.feed.epoch import Sections, expected_prompts
from lpp.store.feed.output import Output
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

    def __str__(self) -> str:
        """What it gives and how well it is mixed, in a line."""
        rows, order = int(self._spans.counts.sum()), self._order
        run, sites = self._sources[0]
        if not rows:
            return f"no row of {', '.join(sites)} is left to feed"
        share = -(-rows // order.world)
        capacity = min(order.capacity, share)
        of_prompts = Spans(edges=run.row_edges, kept=self._spans.kept).counts
        longest = self._spans.longest
        prompts, uniform = expected_prompts(
            order.batch,
            max(1, int((of_prompts > 0).sum()) // order.world),
            share,
            Sections(capacity, longest),
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
        """Batches of all epochs; a few less if prompts were set aside. TypeError without an end."""
        if self._epochs is None:
            raise TypeError("a feed without an end has no length: give epochs=N")
        order = self._order.of_worker()
        total = int(self._spans.counts.sum())
        rows = total * (order.rank + 1) // order.world - total * order.rank // order.world
        one = rows // order.batch if order.drop_last else math.ceil(rows / order.batch)
        return one * self._epochs

    def _next(self, buffer: Buffer) -> Any:
        size, n = self._order.batch, 0
        columns = self._output.columns(size, buffer.memory)
        ids = np.empty(size, np.int64)
        while n < size and buffer.rest().shape[1]:
            units, slots = buffer.take(size - n)
            ids[n : n + len(units)] = units
            for column, memory in zip(columns, buffer.memory, strict=True):
                # `raise` would buffer all of `out`
                np.take(memory, slots, axis=0, out=column[n : n + len(units)], mode="clip")
            n += len(units)
        if not n or (n < size and self._order.drop_last):
            return None
        self.ids = ids[:n]
        return self._output.of([column[:n] for column in columns])
