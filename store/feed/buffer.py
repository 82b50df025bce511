"""The buffer of a feed: sections of memory that spans are unpacked into, and what rounds draw."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TypeAlias

import numpy as np

from lpp.store.errors import ConflictError, ErrorKind
from lpp.store.feed.draws import Integers
from lpp.store.feed.epoch import Epoch
from lpp.store.feed.reader import Loaded, Memory, SpanReader

Job: TypeAlias = tuple[list[int], Future[list[Loaded]]]
"""Where in memory the rows of some spans begin, and these rows once they are read."""


class Buffer:
    """The units of an epoch, in the order in which they are given, while their rows are in memory.

    memory: of an earlier epoch, to use again. given: units that were given before. seen: number of
    the epoch's first spans that were read before, of which each lost as many units as `lost` says,
    by its number. on_loss: called with each further span that lost rows.

    Raises ConflictError if a span that was read before lost as many no more, and what reading does.
    """

    def __init__(
        self,
        epoch: Epoch,
        reader: SpanReader,
        memory: Memory | None,
        *,
        given: int,
        seen: int,
        lost: Mapping[int, int],
        on_loss: Callable[[Loaded], None],
    ) -> None:
        rows = epoch.sections.count * epoch.sections.rows
        fits = memory is not None and (not memory or len(memory[0]) == rows)
        self.memory = memory if memory is not None and fits else reader.memory(rows)
        """(rows, width) of each column."""
        self._epoch, self._reader, self._on_loss = epoch, reader, on_loss
        self.given, self.seen, self.lost = given, seen, dict(lost)
        self._filled: dict[int, list[Integers]] = {}
        self._loading: dict[int, list[Job]] = {}
        self._rest = np.zeros((2, 0), np.int64)
        self._round, skipped = self._round_of(given)
        self._submitted = self._arrived = epoch.drawn_in(self._round).start
        if skipped:
            self._rest = self.rest()[:, skipped:]

    def rest(self) -> Integers:
        """(2, n) units that come next, and the first row of each in `memory`; none at the end of
        the epoch. Rows of units that were taken before may be overwritten from now on.
        """
        while not self._rest.shape[1] and self._round < self._epoch.rounds:
            self._begin_round()
        return self._rest

    def take(self, count: int) -> Integers:
        """(2, n) the first of `rest`, at most `count`."""
        taken, self._rest = np.split(self.rest(), [count], axis=1)
        self.given += taken.shape[1]
        return taken

    def _begin_round(self) -> None:
        """Draw the next round, once what it draws from is there; read ahead for later ones."""
        drawn_in = self._epoch.drawn_in(self._round)
        for filling in range(self._submitted, self._epoch.due_by(self._round)):
            self._loading[filling] = self._submit(filling)
            self._submitted = filling + 1
        for filling in range(self._arrived, drawn_in.stop):
            self._filled[filling] = self._arrive(filling)
            self._arrived = filling + 1
        for filling in [k for k in self._filled if k < drawn_in.start]:
            del self._filled[filling]
        self._rest = self._epoch.draw(self._round, self._filled)
        self._round += 1

    def _submit(self, filling: int) -> list[Job]:
        """Read the spans of a filling: jobs, and where in `memory` the rows of each span begin."""
        epoch, sections = self._epoch, self._epoch.sections
        first, begins = filling % sections.count * sections.rows, list[int]()
        jobs = list[Job]()
        wanted = list[tuple[int, Integers, Memory]]()
        last = epoch.starts[filling + 1]
        for k in range(epoch.starts[filling], last):
            span, end = int(epoch.chosen.spans[k]), first + int(epoch.chosen.rows[k])
            rows = epoch.spans.rows(span, epoch.units(k))
            wanted.append((span, rows, [column[first:end] for column in self.memory]))
            begins.append(first)
            first = end
            if len(wanted) == self._reader.job_spans or k + 1 == last:
                jobs.append((begins, self._reader.submit(wanted)))
                wanted, begins = [], []
        return jobs

    def _arrive(self, filling: int) -> list[Integers]:
        """(2, n) the units of a filling and the first row of each, that each round draws."""
        arrived, slots, first_span = list[Integers](), [], self._epoch.starts[filling]
        spans = (
            pair
            for begins, job in self._loading.pop(filling)
            for pair in zip(begins, job.result(), strict=True)
        )
        for k, (first, loaded) in enumerate(spans, first_span):
            units, starts = self._epoch.spans.units_of(loaded.rows)
            arrived.append(units)
            slots.append(starts + first)
            lost = int(self._epoch.chosen.counts[k]) - len(units)
            if k < self.seen:
                if lost != self.lost.get(k, 0):
                    raise changed_error()
                continue
            self.seen = k + 1
            if lost:
                self.lost[k] = lost
                self._on_loss(loaded)
        both = np.stack([np.concatenate(arrived), np.concatenate(slots)])
        return self._epoch.shuffled(filling, both)

    def _round_of(self, given: int) -> tuple[int, int]:
        """The round that comes after so many units, and how many of its own are among them."""
        ends = np.append(0, np.cumsum(self._epoch.chosen.counts))
        counts = np.diff(ends[self._epoch.starts])
        for k, lost in self.lost.items():
            counts[np.searchsorted(self._epoch.starts, k, side="right") - 1] -= lost
        number = 0
        while given and number < self._epoch.rounds:
            size = self._epoch.size(number, counts)
            if size > given:
                break
            given, number = given - size, number + 1
        else:
            if given:
                raise changed_error()
        return number, given


def changed_error() -> ConflictError:
    """The error for a store whose shards are not those of a state."""
    return ConflictError(
        "shards were repaired, removed or damaged since the state was taken, so the remaining "
        "batches cannot be the same. Begin the epoch again.",
        kind=ErrorKind.PLAN_DIFFERS,
    )
