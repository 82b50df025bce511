"""An iterator over batches of rows that stops and resumes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lpp.store.errors import ConflictError, ErrorKind
from lpp.store.feed.draws import Integers
from lpp.store.feed.epoch import Epoch, Order
from lpp.store.feed.output import Output
from lpp.store.feed.reader import OnDamage, Source, SpanReader
from lpp.store.feed.spans import Spans
from lpp.store.runs.read import Run


class RowFeed:
    """An iterator of batches. `rows` makes one and says what it gives."""

    def __init__(
        self,
        sources: Sequence[tuple[Run, tuple[str, ...]]],
        spans: Spans,
        output: Output,
        order: Order,
        *,
        settings: Mapping[str, Any],
        epochs: int | None,
        on_damage: OnDamage,
    ) -> None:
        self._sources, self._spans, self._output = sources, spans, output
        self._order, self._settings, self._epochs = order, dict(settings), epochs
        self._on_damage: OnDamage = on_damage
        self._number = self._given = 0  # epoch, and batches of it that were given
        self._lost: dict[int, int] = {}
        self._reader: SpanReader | None = None
        self._epoch: Epoch | None = None
        self._pools: list[npt.NDArray[Any]] = []
        self.ids: Integers = np.zeros(0, np.int64)
        """(n,) the rows of the run in the last batch, counted through the tokens of all prompts."""
        self.lost = 0
        """Rows left out so far: of prompts that were set aside, and with `on_damage="skip"` of
        shards that are missing or altered."""
        self.damage: dict[str, int] = {}
        """What is wrong with each such shard, and how many rows that cost."""

    def __iter__(self) -> "RowFeed":
        return self

    def __getstate__(self) -> dict[str, Any]:
        """State for another process, which has threads and a buffer of its own."""
        return {**self.__dict__, "_reader": None, "_epoch": None, "_pools": []}

    def __len__(self) -> int:
        """Batches of all epochs; a few less if prompts were set aside. TypeError without an end."""
        if self._epochs is None:
            raise TypeError("a feed without an end has no length: give epochs=N")
        order = self._order.of_worker()
        total = int(self._spans.counts.sum())
        rows = total * (order.rank + 1) // order.world - total * order.rank // order.world
        one = rows // order.batch if order.drop_last else math.ceil(rows / order.batch)
        return one * self._epochs

    def __next__(self) -> Any:
        while self._number != self._epochs:
            epoch = self._epoch or self._begin()
            slots = self._next_slots(epoch)
            if slots is not None:
                self._given += 1
                self.ids = epoch.row_in[slots]
                return self._output.of(self._pools, slots)
            self._epoch, self._lost = None, {}
            self._number, self._given = self._number + 1, 0
        self.close()
        raise StopIteration

    def close(self) -> None:
        """End the threads and free the buffer; the next batch starts them again."""
        if self._reader is not None:
            self._reader.close()
        self._reader, self._epoch, self._pools = None, None, []

    def state_dict(self) -> dict[str, Any]:
        """Where the feed is, in some numbers: the buffer is filled again from the store."""
        at = {"epoch": self._number, "batches": self._given, "lost": dict(self._lost)}
        return {**self._settings, **at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the batch at which `state` was taken, bit for bit.

        ConflictError if `state` is that of other rows or other settings.
        """
        if names := [name for name, value in self._settings.items() if state.get(name) != value]:
            listed = ", ".join(f"{n} {self._settings[n]!r} and not {state.get(n)!r}" for n in names)
            raise ConflictError(
                f"the state is that of another feed: here {listed}. Make the feed with the same "
                "arguments, from the same store.",
                kind=ErrorKind.PLAN_DIFFERS,
            )
        self.close()
        self._number, self._given = int(state["epoch"]), int(state["batches"])
        self._lost = {int(number): int(rows) for number, rows in state["lost"].items()}

    def _begin(self) -> Epoch:
        """The epoch that is due, as far as its batches were given."""
        order = self._order.of_worker()
        if self._reader is None:
            sources = [Source(run, sites) for run, sites in self._sources]
            self._reader = SpanReader(sources, self._spans.edges, self._on_damage)
        epoch = Epoch(order, self._spans, self._number)
        if len(self._pools) == 0 or len(self._pools[0]) != epoch.slots.capacity:
            shape = epoch.slots.capacity
            self._pools = [np.empty((shape, width), dtype) for dtype, width in self._reader.columns]
        if self._given:
            self._repeat(epoch, self._reader)
        self._loads = self._reader.read(epoch.wanted(epoch.loaded))
        self._epoch = epoch
        return epoch

    def _next_slots(self, epoch: Epoch) -> Integers | None:
        """Slots of the next batch, once the rows that are due are in the buffer; None at the end of
        the epoch.
        """
        while epoch.takes_another():
            loaded = next(self._loads)
            if loaded.lost:
                self._lost[epoch.loaded] = loaded.lost
                self.lost += loaded.lost
            if loaded.damage:
                self.damage[loaded.damage] = self.damage.get(loaded.damage, 0) + loaded.lost
            slots = epoch.load(loaded.rows)
            for pool, values in zip(self._pools, loaded.values, strict=True):
                pool[slots] = values
        return epoch.draw()

    def _repeat(self, epoch: Epoch, reader: SpanReader) -> None:
        """Repeat the batches that were given, without their rows; then read what the buffer holds.

        Spans that lost rows are read, to know which.
        """
        wanted, edges = epoch.wanted(), self._spans.edges
        while epoch.batches < self._given:
            while epoch.takes_another():
                span, rows = next(wanted)
                expected = self._lost.get(epoch.loaded, 0)
                if expected:
                    (loaded,) = reader.read([(span, rows)])
                    rows = loaded.rows - edges[span]
                    if loaded.lost != expected:
                        raise self._changed()
                epoch.load(rows + edges[span])
            if epoch.draw() is None:
                raise self._changed()
        slots = epoch.slots.held()
        slots = slots[np.argsort(epoch.row_in[slots])]
        held = epoch.row_in[slots]
        spans, first = np.unique(np.searchsorted(edges, held, "right") - 1, return_index=True)
        parts = np.split(np.arange(len(held)), first[1:])[: len(spans)]  # one even of nothing
        chosen = ((int(s), held[p] - edges[s]) for s, p in zip(spans, parts, strict=True))
        for loaded in reader.read(chosen):
            part = parts[loaded.number]
            if loaded.lost:
                raise self._changed()
            for pool, values in zip(self._pools, loaded.values, strict=True):
                pool[slots[part]] = values

    def _changed(self) -> ConflictError:
        places = ", ".join(str(run.path) for run, _ in self._sources)
        return ConflictError(
            f"{places}: shards were repaired, removed or damaged since the state was taken, so "
            "the remaining batches cannot be the same. Begin the epoch again.",
            kind=ErrorKind.PLAN_DIFFERS,
        )
