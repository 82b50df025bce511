"""Which rows come in which batch of an epoch: everything but the rows themselves."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from lpp.store.feed.draws import Draws, Integers, Slots
from lpp.store.feed.output import worker
from lpp.store.feed.spans import EpochSpans, Spans

FIRST_FILL: Final = 4
"""The first batch is drawn from a fourth of the buffer, so that training can start."""

GROWTH: Final = 3
"""Then the buffer grows by so many batches with each batch, until it is full."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What decides which rows come in which batch, beside the rows of the run themselves."""

    batch: int
    seed: int
    capacity: int
    """Rows that the buffer has memory for."""
    rank: int
    world: int
    drop_last: bool

    def of_worker(self) -> "Order":
        """The order of this worker of a DataLoader of torch: workers divide the rows of a rank."""
        rank, world = worker(self.rank, self.world)
        return replace(self, rank=rank, world=world)


class Epoch:
    """One rank's batches of one epoch: which rows go into which slots, and which come out.

    Spans come in random order. They fill the buffer up to a level, a batch is drawn from all that
    is there, and so on. Everything follows from `Order` and from the rows that are lost, so that it
    can be repeated without reading a row.
    """

    def __init__(self, order: Order, spans: Spans, number: int) -> None:
        self._order, self._spans = order, spans
        shared = Draws(order.seed, number)
        self.chosen: EpochSpans = spans.of_epoch(shared, order.rank, order.world)
        self._draws = Draws(order.seed, number, order.rank, order.world)
        self.slots = Slots(min(order.capacity, int(self.chosen.counts.sum())))
        self.row_in = np.zeros(self.slots.capacity, np.int64)
        """(capacity,) the row of the run that each slot holds."""
        self._loaded = 0
        self.batches = 0
        """Batches drawn so far."""

    def wanted(self, start: int = 0) -> Iterator[tuple[int, Integers]]:
        """From span number `start` on: each span, and its rows that this rank takes."""
        chosen = self.chosen
        for k in range(start, len(chosen.spans)):
            span = int(chosen.spans[k])
            yield span, self._spans.rows(span)[chosen.first[k] : chosen.end[k]]

    @property
    def loaded(self) -> int:
        """Spans that are in the buffer or were."""
        return self._loaded

    def takes_another(self) -> bool:
        """Whether the next span is due before the next batch."""
        if self._loaded == len(self.chosen.spans):
            return False
        batch, capacity = self._order.batch, self.slots.capacity
        level = min(capacity // FIRST_FILL + GROWTH * batch * self.batches, capacity)
        filled = self.slots.filled
        return filled < batch or filled + int(self.chosen.counts[self._loaded]) <= level

    def load(self, rows: Integers) -> Integers:
        """The slots of the next span's `rows`, (n,) each."""
        slots = self.slots.fill(len(rows))
        self.row_in[slots] = rows
        self._loaded += 1
        return slots

    def draw(self) -> Integers | None:
        """The slots of the next batch; None at the end of the epoch."""
        count = min(self._order.batch, self.slots.filled)
        if count == 0 or (self._order.drop_last and count < self._order.batch):
            return None
        self.batches += 1
        return self.slots.draw(count, self._draws)
