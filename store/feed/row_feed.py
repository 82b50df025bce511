"""The feed of single rows: batches are gathered from a buffer that holds each row at a slot."""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lpp.store.feed.draws import Integers
from lpp.store.feed.epoch import Epoch, expected_prompts
from lpp.store.feed.output import Output
from lpp.store.feed.reader import Loaded, SpanReader
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
        self._pools: list[npt.NDArray[Any]] = []
        self.ids: Integers = np.zeros(0, np.int64)
        """(n,) the rows of the run in the last batch, counted through the tokens of all prompts."""

    @property
    def mean(self) -> Sequence[npt.NDArray[np.float32]] | None:
        """(d,) subtracted from the rows of each column: site, or run. None without `center`."""
        return self._output.mean

    @property
    def factor(self) -> Sequence[float] | None:
        """By which the rows of each column are then multiplied. None without `scale`."""
        return self._output.factor

    def __getstate__(self) -> dict[str, Any]:
        """State for another process, which has a buffer of its own."""
        return {**super().__getstate__(), "_pools": []}

    def __str__(self) -> str:
        """What it gives and how well it is mixed, in a line."""
        rows, order = int(self._spans.counts.sum()), self._order
        run, sites = self._sources[0]
        if not rows:
            return f"no row of {', '.join(sites)} is left to feed"
        share = -(-rows // order.world)
        capacity = min(order.capacity, share)
        of_prompts = Spans(edges=run.row_edges, kept=self._spans.kept).counts
        prompts, uniform = expected_prompts(
            order.batch, max(1, int((of_prompts > 0).sum()) // order.world), share, capacity
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

    def close(self) -> None:
        """End the threads and free the buffer; the next batch starts them again."""
        super().close()
        self._pools = []

    def _edges(self) -> Integers:
        return self._spans.edges

    def _rows(self, span: int, units: Integers) -> Integers:
        return units

    def _units(self, loaded: Loaded) -> Integers:
        return loaded.rows

    def _allocate(self, epoch: Epoch, reader: SpanReader) -> None:
        capacity = epoch.slots.capacity
        if not self._pools or len(self._pools[0]) != capacity:
            self._pools = [np.empty((capacity, c.width), c.dtype) for c in reader.columns]

    def _keep(self, slots: Integers, loaded: Loaded) -> None:
        for pool, values in zip(self._pools, loaded.values, strict=True):
            pool[slots] = values

    def _draw(self, epoch: Epoch) -> Integers:
        batch = self._order.batch
        if self._order.drop_last and epoch.slots.filled < batch:
            return epoch.slots.held()[:0]
        return epoch.draw(batch)

    def _batch(self, epoch: Epoch, slots: Integers) -> Any:
        self.ids = epoch.unit_in[slots]
        return self._output.of(self._pools, slots)
