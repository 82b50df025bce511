"""An iterator over a run's units, rows or whole prompts, that stops and resumes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from lpp.store.errors import ConflictError, ErrorKind
from lpp.store.feed.draws import Integers
from lpp.store.feed.epoch import Epoch, Order
from lpp.store.feed.reader import Loaded, OnDamage, RunSource, SpanReader
from lpp.store.feed.spans import Spans
from lpp.store.runs.read import Run

STATE_VERSION: Final = 1
"""Version of the state of a feed."""


class ResumableFeed:
    """What feeds have in common. A kind of feed says what its units are: `_edges`, `_rows`,
    `_units`, what it keeps of them: `_allocate`, `_keep`, and what a batch is: `_draw`, `_batch`.

    settings: more of what decides the batches; a state is refused under others.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Run, tuple[str, ...]]],
        spans: Spans,
        order: Order,
        *,
        epochs: int | None,
        on_damage: OnDamage,
        **settings: Any,
    ) -> None:
        self._sources, self._spans, self._order = sources, spans, order
        self._epochs = epochs
        self._settings = {
            "version": STATE_VERSION,
            "runs": [run.id for run, _ in sources],
            "sites": list(sources[0][1]),
            "units": spans.digest,
            **asdict(order),
            **settings,
        }
        self._on_damage: OnDamage = on_damage
        self._number = self._given = 0  # epoch, and batches of it that were given
        self._lost: dict[int, int] = {}
        self._reader: SpanReader | None = None
        self._epoch: Epoch | None = None
        self._loads: Iterator[Loaded] = iter(())
        self.lost = 0
        """Rows left out so far: of prompts that were set aside, and with `on_damage="skip"` of
        shards that are missing or altered."""
        self.damage: dict[str, int] = {}
        """What is wrong with each such shard, and how many rows that cost."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __getstate__(self) -> dict[str, Any]:
        """State for another process, which has threads and a buffer of its own."""
        return {**self.__dict__, "_reader": None, "_epoch": None, "_loads": iter(())}

    def __next__(self) -> Any:
        while self._number != self._epochs:
            epoch = self._epoch or self._begin()
            while epoch.takes_another(self._given):
                self._load(epoch, next(self._loads))
            slots = self._draw(epoch)
            if len(slots):
                self._given += 1
                return self._batch(epoch, slots)
            self._epoch, self._lost = None, {}
            self._number, self._given = self._number + 1, 0
        self.close()
        raise StopIteration

    def close(self) -> None:
        """End the threads and free the buffer; the next batch starts them again."""
        if self._reader is not None:
            self._reader.close()
        self._reader, self._epoch = None, None

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

    # what a kind of feed says

    def _edges(self) -> Integers:
        """(spans + 1,) the first row of each span, then the number of rows."""
        raise NotImplementedError

    def _rows(self, span: int, units: Integers) -> Integers:
        """The rows of `units`; both are counted from the first of the span."""
        raise NotImplementedError

    def _units(self, loaded: Loaded) -> Integers:
        """The units that were loaded, by their number in the run."""
        raise NotImplementedError

    def _allocate(self, epoch: Epoch, reader: SpanReader) -> None:
        """Make the buffer, for as many units as `epoch` has slots."""
        raise NotImplementedError

    def _keep(self, slots: Integers, loaded: Loaded) -> None:
        """Put the units that were loaded into `slots` of the buffer."""
        raise NotImplementedError

    def _draw(self, epoch: Epoch) -> Integers:
        """The slots of the next batch; none at the end of the epoch."""
        raise NotImplementedError

    def _batch(self, epoch: Epoch, slots: Integers) -> Any:
        """The batch of these slots."""
        raise NotImplementedError

    # how it begins and resumes

    def _begin(self) -> Epoch:
        """The epoch that is due, as far as its batches were given."""
        if self._reader is None:
            sources = [RunSource(run, sites) for run, sites in self._sources]
            self._reader = SpanReader(sources, self._edges(), self._on_damage)
        epoch = Epoch(self._order.of_worker(), self._spans, self._number)
        self._allocate(epoch, self._reader)
        if self._given:
            self._repeat(epoch, self._reader)
        wanted = epoch.wanted(epoch.loaded)
        self._loads = self._reader.read((span, self._rows(span, units)) for span, units in wanted)
        self._epoch = epoch
        return epoch

    def _load(self, epoch: Epoch, loaded: Loaded) -> None:
        if loaded.lost:
            self._lost[epoch.loaded] = loaded.lost
            self.lost += loaded.lost
        if loaded.damage:
            self.damage[loaded.damage] = self.damage.get(loaded.damage, 0) + loaded.lost
        self._keep(epoch.load(self._units(loaded)), loaded)

    def _repeat(self, epoch: Epoch, reader: SpanReader) -> None:
        """Repeat the draws of the batches that were given, without rows; then read what the buffer
        holds.

        Spans that lost rows are read, to know which.
        """
        wanted, edges = epoch.wanted(), self._spans.edges
        for batches in range(self._given):
            while epoch.takes_another(batches):
                span, units = next(wanted)
                units = units + edges[span]
                if expected := self._lost.get(epoch.loaded, 0):
                    rows = self._rows(span, units - edges[span])
                    (loaded,) = reader.read([(span, rows)])
                    units = self._units(loaded)
                    if loaded.lost != expected:
                        raise self._changed()
                epoch.load(units)
            if not len(self._draw(epoch)):
                raise self._changed()
        slots = epoch.slots.held()
        slots = slots[np.argsort(epoch.unit_in[slots])]
        held = epoch.unit_in[slots]
        spans, first = np.unique(np.searchsorted(edges, held, "right") - 1, return_index=True)
        parts = np.split(np.arange(len(held)), first[1:])[: len(spans)]  # one even of nothing
        chosen = (
            (span, self._rows(span, held[part] - edges[span]))
            for span, part in zip(spans.tolist(), parts, strict=True)
        )
        for loaded in reader.read(chosen):
            if loaded.lost:
                raise self._changed()
            self._keep(slots[parts[loaded.number]], loaded)

    def _changed(self) -> ConflictError:
        places = ", ".join(str(run.path) for run, _ in self._sources)
        return ConflictError(
            f"{places}: shards were repaired, removed or damaged since the state was taken, so "
            "the remaining batches cannot be the same. Begin the epoch again.",
            kind=ErrorKind.PLAN_DIFFERS,
        )
