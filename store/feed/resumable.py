"""An iterator over a run's units, rows or whole prompts, that stops and resumes."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, Self

from lpp.store.errors import ConflictError, ErrorKind
from lpp.store.feed.buffer import Buffer
from lpp.store.feed.epoch import Epoch, Order, Share
from lpp.store.feed.output import worker
from lpp.store.feed.reader import Fed, Memory, RunSource, SpanReader
from lpp.store.runs.read import Run
from lpp.store.settings.arguments import check_whole

STATE_VERSION: Final = 3
"""Version of the state of a feed. Earlier ones gave the same rows in another order."""


class ResumableFeed:
    """What feeds have in common. A kind of feed says what a share and a batch are: `_share`,
    `_next`.

    A pass over a feed is `epochs` epochs. A loop goes on where the feed stands; after the end of a
    pass the next loop is another pass, whose epochs are shuffled anew.

    settings: more of what decides the batches; a state is refused under others.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Run, tuple[str, ...]]],
        fed: Fed,
        order: Order,
        *,
        epochs: int | None,
        **settings: Any,
    ) -> None:
        self._sources, self._spans, self._order = sources, fed.spans, order
        self._epochs = epochs
        self._settings = {
            "version": STATE_VERSION,
            "runs": [run.id for run, _ in sources],
            "sites": list(sources[0][1]),
            "units": fed.spans.digest,
            "spans": len(fed.spans.edges) - 1,
            **asdict(order),
            **settings,
        }
        self._at = start_of(0)
        self._ended = False
        self._process = os.getpid()
        self._reader: SpanReader | None = None
        self._buffer: Buffer | None = None
        self._memory: Memory | None = None
        self.lost = fed.lost
        """Rows, or prompts, that every epoch leaves out: of prompts that were set aside, and with
        `on_damage="skip"` of shards that are missing or altered."""
        self.damage = fed.damage
        """What is wrong with each such shard, and how many rows or prompts that costs."""

    def __iter__(self) -> Iterator[Any]:
        if self._process != os.getpid():  # a fork, which has none of the threads
            self.__dict__.update(self.__getstate__())
        self._ended = False
        return self

    def __getstate__(self) -> dict[str, Any]:
        """State for another process, which has threads and a buffer of its own."""
        own = {"_reader": None, "_buffer": None, "_memory": None, "_process": os.getpid()}
        return {**self.__dict__, "_at": self._where(), **own}

    def __next__(self) -> Any:
        while not self._ended:
            self._buffer = self._buffer or self._begin()
            batch = self._next(self._buffer)
            if batch is not None:
                self._at["batches"] += 1
                return batch
            self._buffer.finish()
            epoch, first = self._at["epoch"] + 1, self._at["first"]
            self._buffer, self._at = None, {**start_of(epoch), "first": first}
            if epoch - first == self._epochs:
                self.end_pass()
        raise StopIteration

    def set_epoch(self, epoch: int) -> Self:
        """Begin the next pass at this epoch, counted from 0, whatever was given before."""
        self._go_to(start_of(check_whole("epoch", epoch)))
        return self

    def end_pass(self) -> None:
        """Give nothing more, and free memory, until the next loop, which begins another epoch."""
        self.close()
        self._at = start_of(self._at["epoch"] + (self._at["batches"] > 0))
        self._ended = True

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

        ConflictError if `state` is that of other rows or other settings, of another release, or of
        an epoch beyond the `epochs` of this feed.
        """
        if names := [name for name, value in self._settings.items() if state.get(name) != value]:
            listed = ", ".join(f"{n} {self._settings[n]!r} and not {state.get(n)!r}" for n in names)
            raise ConflictError(
                f"the state is that of another feed: here {listed}. Make the feed with the same "
                "arguments and release, from the same store. `units` are the rows that are fed: "
                "they change with `where`, and when shards are damaged or repaired.",
                kind=ErrorKind.PLAN_DIFFERS,
            )
        at: dict[str, Any] = {
            **{name: int(state[name]) for name in start_of(0) if name != "worker"},
            "worker": [*map(int, state["worker"])],
        }
        done = at["epoch"] - at["first"]
        if self._epochs is not None and done >= self._epochs:
            raise ConflictError(
                f"the state is in epoch {done + 1} of a pass, and this feed has epochs="
                f"{self._epochs}. Make it with epochs={done + 1} or more.",
                kind=ErrorKind.PLAN_DIFFERS,
            )
        self._go_to(at)

    def _share(self, number: int) -> Share:
        """What this process takes of epoch `number`."""
        raise NotImplementedError

    def _next(self, buffer: Buffer) -> Any:
        """The next batch of the epoch; None at its end."""
        raise NotImplementedError

    def _go_to(self, at: dict[str, Any]) -> None:
        """Go on at another place."""
        self.close()
        self._at, self._ended = at, False
        self._tell(at["first"])

    def _tell(self, first: int) -> None:
        """Let workers know at which epoch the pass begins, where a feed has workers."""

    def _where(self) -> dict[str, Any]:
        """First epoch of the pass, epoch, batches and units of it that were given, and the worker
        that gave them.
        """
        return self._at if self._buffer is None else {**self._at, "given": self._buffer.given}

    def _begin(self) -> Buffer:
        """The buffer of the epoch that is due, after the units that were given."""
        at, here = self._at, [*worker()]
        if at["given"] and at["worker"] != here:
            raise ConflictError(
                f"the feed stands inside an epoch as worker {at['worker'][0]} of "
                f"{at['worker'][1]}, and this is worker {here[0]} of {here[1]}, which takes other "
                "rows. Resume with the same num_workers, or at the beginning of an epoch.",
                kind=ErrorKind.PLAN_DIFFERS,
            )
        if self._reader is None:
            sources = [RunSource(run, sites) for run, sites in self._sources]
            self._reader = SpanReader(sources, self._spans.rows_at, "raise")
        epoch = Epoch(self._order, self._spans, at["epoch"], self._share(at["epoch"]))
        buffer = Buffer(epoch, self._reader, self._memory, given=at["given"])
        self._memory, at["worker"] = buffer.memory, here
        return buffer


def start_of(epoch: int) -> dict[str, Any]:
    """Where a feed begins a pass at `epoch`."""
    return {"first": epoch, "epoch": epoch, "batches": 0, "given": 0, "worker": [0, 1]}
