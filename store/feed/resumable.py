"""An iterator over a run's units, rows or whole prompts, that stops and resumes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from lpp.store.errors import ConflictError, ErrorKind
from lpp.store.feed.buffer import Buffer
from lpp.store.feed.epoch import Epoch, Order
from lpp.store.feed.reader import Loaded, Memory, OnDamage, RunSource, SpanReader
from lpp.store.feed.spans import Spans
from lpp.store.runs.read import Run

STATE_VERSION: Final = 2
"""Version of the state of a feed. Version 1 drew the same rows in another order."""


class ResumableFeed:
    """What feeds have in common. A kind of feed says what a batch is: `_next`.

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
            "spans": len(spans.edges) - 1,
            **asdict(order),
            **settings,
        }
        self._on_damage: OnDamage = on_damage
        self._at = dict[str, Any](_START)
        self._reader: SpanReader | None = None
        self._buffer: Buffer | None = None
        self._memory: Memory | None = None
        self.lost = 0
        """Rows left out so far: of prompts that were set aside, and with `on_damage="skip"` of
        shards that are missing or altered."""
        self.damage: dict[str, int] = {}
        """What is wrong with each such shard, and how many rows that cost."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __getstate__(self) -> dict[str, Any]:
        """State for another process, which has threads and a buffer of its own."""
        here = {"_at": self._where(), "_reader": None, "_buffer": None, "_memory": None}
        return {**self.__dict__, **here}

    def __next__(self) -> Any:
        while self._at["epoch"] != self._epochs:
            self._buffer = self._buffer or self._begin()
            batch = self._next(self._buffer)
            if batch is not None:
                return batch
            self._buffer, self._at = None, {**_START, "epoch": self._at["epoch"] + 1}
        self.close()
        raise StopIteration

    def close(self) -> None:
        """End the threads and free the buffer; the next batch starts them again."""
        self._at = self._where()
        if self._reader is not None:
            self._reader.close()
        self._reader = self._buffer = self._memory = None

    def state_dict(self) -> dict[str, Any]:
        """Where the feed is, in some numbers: the buffer is filled again from the store."""
        return {**self._settings, **self._where()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the batch at which `state` was taken, bit for bit.

        ConflictError if `state` is that of other rows or other settings, or of another release.
        """
        if names := [name for name, value in self._settings.items() if state.get(name) != value]:
            listed = ", ".join(f"{n} {self._settings[n]!r} and not {state.get(n)!r}" for n in names)
            raise ConflictError(
                f"the state is that of another feed: here {listed}. Make the feed with the same "
                "arguments and release, from the same store.",
                kind=ErrorKind.PLAN_DIFFERS,
            )
        self.close()
        lost = {int(number): int(units) for number, units in state["lost"].items()}
        self._at = {**{name: int(state[name]) for name in ("epoch", "given", "seen")}, "lost": lost}

    def _next(self, buffer: Buffer) -> Any:
        """The next batch of the epoch; None at its end."""
        raise NotImplementedError

    def _where(self) -> dict[str, Any]:
        """Epoch, units of it that were given, spans of it that were read, and units that they
        lost.
        """
        at, buffer = self._at, self._buffer
        if buffer is None:
            return at
        return {**at, "given": buffer.given, "seen": buffer.seen, "lost": dict(buffer.lost)}

    def _begin(self) -> Buffer:
        """The buffer of the epoch that is due, after the units that were given."""
        if self._reader is None:
            sources = [RunSource(run, sites) for run, sites in self._sources]
            self._reader = SpanReader(sources, self._spans.rows_at, self._on_damage)
        at = self._at
        epoch = Epoch(self._order.of_worker(), self._spans, at["epoch"])
        buffer = Buffer(
            epoch,
            self._reader,
            self._memory,
            given=at["given"],
            seen=at["seen"],
            lost=at["lost"],
            on_loss=self._count_loss,
        )
        self._memory = buffer.memory
        return buffer

    def _count_loss(self, loaded: Loaded) -> None:
        self.lost += loaded.lost
        if loaded.damage:
            self.damage[loaded.damage] = self.damage.get(loaded.damage, 0) + loaded.lost


_START: Final = {"epoch": 0, "given": 0, "seen": 0, "lost": dict[int, int]()}
"""Where a feed begins."""
