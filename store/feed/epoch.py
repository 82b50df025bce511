"""Which units, rows or whole prompts, come in which batch of an epoch: all but their values."""

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
    """What decides which units come in which batch, beside the run itself."""

    batch: int
    """Units of a batch; of whole prompts about as many."""
    seed: int
    capacity: int
    """Units that the buffer has memory for."""
    rank: int
    world: int
    drop_last: bool

    def of_worker(self) -> "Order":
        """The order of this worker of a DataLoader of torch: workers divide the rows of a rank."""
        rank, world = worker(self.rank, self.world)
        return replace(self, rank=rank, world=world)


def expected_prompts(batch: int, prompts: int, rows: int, capacity: int) -> tuple[float, float]:
    """Distinct prompts in a batch: expected from a buffer of `capacity` rows once it is full, and
    in a uniform sample. prompts, rows: of the whole epoch.

    A row leaves the buffer with probability batch / capacity at each draw, so of the prompts that
    were read a buffer's worth of rows ago a share of e^-1 is left, and so on: the sum over all ages
    is the integral of (1 - e^-t) / t up to batch x rows of a prompt / capacity.
    """
    uniform = prompts * (1 - (1 - 1 / prompts) ** batch)
    if rows <= capacity:
        return uniform, uniform
    of_prompt = rows / prompts
    end = batch * of_prompt / capacity
    t = (np.arange(1000) + 0.5) * end / 1000
    integral = float(np.mean(-np.expm1(-t) / t)) * end
    return min(uniform, capacity / of_prompt * integral), uniform


class Epoch:
    """One rank's epoch: which units go into which slots of the buffer, and which come out.

    Spans come in random order. They fill the buffer up to a level, a batch is drawn from all that
    is there, and so on. Everything follows from `Order` and from what is lost, so that it can be
    repeated without reading a row.
    """

    def __init__(self, order: Order, spans: Spans, number: int) -> None:
        self._order, self._spans = order, spans
        shared = Draws(order.seed, number)
        self.chosen: EpochSpans = spans.of_epoch(shared, order.rank, order.world)
        self._draws = Draws(order.seed, number, order.rank, order.world)
        self.slots = Slots(min(order.capacity, int(self.chosen.counts.sum())))
        self.unit_in = np.zeros(self.slots.capacity, np.int64)
        """(capacity,) the unit that each slot holds, by its number in the run."""
        self.loaded = 0
        """Spans that are in the buffer or were."""

    def wanted(self, start: int = 0) -> Iterator[tuple[int, Integers]]:
        """From number `start` on: each span, and its units that this rank takes, counted from its
        first.
        """
        chosen = self.chosen
        for k in range(start, len(chosen.spans)):
            span = int(chosen.spans[k])
            yield span, self._spans.units(span)[chosen.first[k] : chosen.end[k]]

    def takes_another(self, batches: int) -> bool:
        """Whether the next span is due before the next batch, after so many."""
        if self.loaded == len(self.chosen.spans):
            return False
        batch, capacity = self._order.batch, self.slots.capacity
        level = min(capacity // FIRST_FILL + GROWTH * batch * batches, capacity)
        filled = self.slots.filled
        return filled < batch or filled + int(self.chosen.counts[self.loaded]) <= level

    def load(self, units: Integers) -> Integers:
        """The slots of the next span's `units`, (n,) each."""
        slots = self.slots.fill(len(units))
        self.unit_in[slots] = units
        self.loaded += 1
        return slots

    def draw(self, count: int) -> Integers:
        """The slots of `count` random units of the buffer, or of all that are left."""
        return self.slots.draw(min(count, self.slots.filled), self._draws)

    def put_back(self) -> None:
        """Put the last unit of the last draw back into its slot."""
        self.slots.fill(1)
