"""The buffer of a feed: sections of memory that spans are unpacked into, and what rounds draw."""

from concurrent.futures import Future, wait
from typing import TypeAlias

import numpy as np

from lpp.store.draws import Integers
from lpp.store.errors import ConflictError, ErrorKind
from lpp.store.feed.epoch import Epoch
from lpp.store.feed.reader import Loaded, Memory, SpanReader

Job: TypeAlias = tuple[list[int], Future[list[Loaded]]]
"""Where in memory the rows of some spans begin, and these rows once they are read."""


class Buffer:
    """The units of an epoch, in the order in which they are given, while their rows are in memory.

    memory: of an earlier epoch, to use again. given: units that were given before.

    Raises ConflictError if prompts were set aside since the feed was made, and what reading does.
    """

    def __init__(
        self, epoch: Epoch, reader: SpanReader, memory: Memory | None, *, given: int
    ) -> None:
        rows = epoch.sections.count * epoch.sections.rows
        fits = memory is not None and (not memory or len(memory[0]) == rows)
        self.memory = memory if memory is not None and fits else reader.memory(rows)
        """(rows, width) of each column."""
        self.epoch, self._reader, self.given = epoch, reader, given
        self._filled: dict[int, list[Integers]] = {}
        self._loading: dict[int, list[Job]] = {}
        self._rest = np.zeros((2, 0), np.int64)
        self._round, skipped = self._round_of(given)
        self._submitted = self._arrived = epoch.drawn_in(self._round).start
        if skipped:
            self._rest = self.rest()[:, skipped:]

    @property
    def left(self) -> int:
        """Units that were not given yet."""
        return self.epoch.share.end - self.epoch.share.first - self.given

    def rest(self) -> Integers:
        """(2, n) units that come next, and the first row of each in `memory`; none at the end of
        the epoch. Rows of units that were taken before may be overwritten from now on.
        """
        while not self._rest.shape[1] and self._round < self.epoch.rounds:
            self._begin_round()
        return self._rest

    def take(self, count: int) -> Integers:
        """(2, n) the first of `rest`, at most `count`."""
        taken, self._rest = np.split(self.rest(), [count], axis=1)
        self.given += taken.shape[1]
        return taken

    def finish(self) -> None:
        """Wait for what is being read: its memory will be used again."""
        wait([job for jobs in self._loading.values() for _, job in jobs])

    def _begin_round(self) -> None:
        """Draw the next round, once what it draws from is there; read ahead for later ones."""
        drawn_in = self.epoch.drawn_in(self._round)
        for filling in range(self._submitted, self.epoch.due_by(self._round)):
            self._loading[filling] = self._submit(filling)
            self._submitted = filling + 1
        for filling in range(self._arrived, drawn_in.stop):
            self._filled[filling] = self._arrive(filling)
            self._arrived = filling + 1
        for filling in [k for k in self._filled if k < drawn_in.start]:
            del self._filled[filling]
        self._rest = self.epoch.draw(self._round, self._filled)
        self._round += 1

    def _submit(self, filling: int) -> list[Job]:
        """Read the spans of a filling: jobs, and where in `memory` the rows of each span begin."""
        epoch, sections = self.epoch, self.epoch.sections
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
        arrived, slots = list[Integers](), list[Integers]()
        for begins, job in self._loading.pop(filling):
            for first, loaded in zip(begins, job.result(), strict=True):
                if loaded.lost:
                    raise ConflictError(
                        "prompts were set aside since the feed was made, so that its batches "
                        "cannot be what it says. Make it again, and begin the epoch again.",
                        kind=ErrorKind.PLAN_DIFFERS,
                    )
                units, starts = self.epoch.spans.units_of(loaded.rows)
                arrived.append(units)
                slots.append(starts + first)
        both = np.stack([np.concatenate(arrived), np.concatenate(slots)])
        return self.epoch.shuffled(filling, both)

    def _round_of(self, given: int) -> tuple[int, int]:
        """The round that comes after so many units, and how many of its own are among them."""
        number = 0
        while given and number < self.epoch.rounds and (size := self.epoch.size(number)) <= given:
            given, number = given - size, number + 1
        return number, given
