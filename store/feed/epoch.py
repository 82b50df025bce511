"""Which units, rows or whole prompts, come in which order in an epoch: all but their values.

The buffer is divided into sections. The spans that fill a section are read together and stay where
they were unpacked until every unit in them was drawn. Each round draws an equal share of the units
of every section, in random order: a section lasts as many rounds as there are sections, so in each
round one of them is drawn empty and filled again. So about half of the rows in the buffer were
given already, and each row is copied once, into its batch. Where the buffer has memory for every
row, it is one section, and the order a permutation of all.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import Any, Final

import numpy as np

from lpp.store.draws import Draws, Integers
from lpp.store.feed.spans import EpochSpans, Spans

SECTIONS: Final = 128
"""Sections of a buffer, at most."""

SECTION_SPANS: Final = 16
"""Spans that a section has room for, at least, unless it leaves fewer sections than that: as many
are read at a time, which hides how late a bucket answers."""

LEAST_SPANS: Final = 4
"""Spans that a buffer must have room for: two that are drawn from, and those that are read ahead.
"""

AHEAD: Final = 2
"""Sections that are filled while rows of the others are drawn."""

FIRST_FILL: Final = 4
"""The first round draws from a fourth of the sections, so that training can start."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What decides which units come in which batch, beside the run itself."""

    batch: int
    """Rows of a batch; with whole prompts, at most so many."""
    seed: int
    capacity: int
    """Rows that the buffer has memory for."""
    rank: int
    world: int
    drop_last: bool

    def share(self, total: int, worker: tuple[int, int] = (0, 1)) -> "Share":
        """What this rank takes of `total` rows, or a worker of it: its number, and that of all.

        Ranks have equally many batches, and workers together those of their rank. Only the last
        two batches of a rank may have fewer rows, and with `drop_last` none has. Where a batch is
        one row, a rank may leave one out.
        """
        first, end = total * self.rank // self.world, total * (self.rank + 1) // self.world
        least, most = total // self.world, -(-total // self.world)
        batches = least // self.batch if self.drop_last else min(-(-most // self.batch), least)
        number, count = worker
        begin, stop = (
            k * (batches // count) + min(k, batches % count) for k in (number, number + 1)
        )
        low, high = (min(k * self.batch, end - first - (batches - k)) for k in (begin, stop))
        return Share(
            number=self.rank * count + number,
            of=self.world * count,
            first=first + low,
            end=first + high,
            batches=stop - begin,
        )

    @staticmethod
    def unit_share(total: int, number: int, of: int) -> "Share":
        """Share `number` of `of` equal ones, to within one, of `total` units. A batch is a unit."""
        first, end = total * number // of, total * (number + 1) // of
        return Share(number=number, of=of, first=first, end=end, batches=end - first)


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one rank, or one of its workers, takes of an epoch."""

    number: int
    of: int
    """Number of all shares: ranks times workers."""
    first: int
    """Its first unit, in the order in which all ranks read the epoch."""
    end: int
    batches: int
    """In how many batches its units come."""


class Sections:
    """How a buffer for `capacity` rows is divided, if no span has more than `longest` of them, and
    the epoch has `total`.
    """

    def __init__(self, capacity: int, longest: int, total: int) -> None:
        whole = total <= capacity
        spans = max(LEAST_SPANS, capacity // max(1, longest))
        several = min(SECTIONS, max(spans // SECTION_SPANS, min(spans, SECTION_SPANS)))
        self.count = 1 if whole else several
        self.rows = total if whole else max(longest, capacity // self.count)
        """Rows that each has memory for."""
        self.drawn = 1 if whole else self.count - AHEAD
        """Sections that a round draws from, once the buffer is full."""
        self.first = max(1, self.drawn // FIRST_FILL)
        """Sections that the first round draws from."""


def expected_prompts(
    batch: int, lengths: Integers, share: float, sections: Sections, longest: int
) -> tuple[float, float]:
    """Distinct prompts in a batch: expected once the buffer is full, and in a uniform sample.

    lengths: rows of each prompt in the whole epoch, of which this rank has `share`. longest: rows
    of a span. A prompt begins anywhere in a span and lies in one or more, each of which is in the
    buffer by chance.
    """
    length, count = np.unique(lengths[lengths > 0], return_counts=True)
    prompts, rows = count * share, round(float(length @ count) * share)
    batch = min(batch, rows)
    uniform = float(prompts @ [1 - _misses_all(rows, int(n), batch) for n in length])
    if sections.count == 1:
        return uniform, uniform
    held = min(1.0, sections.drawn * sections.rows / rows)
    rounds = batch * sections.drawn / (held * rows)  # a batch has the rows of so many
    share_of_round = rounds / (rounds + 1)  # and so much of each: it begins anywhere in a round

    def misses(count: Any) -> Any:
        """Chance that none of `count` neighbouring rows of a span is in the batch."""
        dealt, part = np.divmod(count / sections.drawn, 1)  # one in each round, or by chance
        none = (1 - share_of_round) ** dealt * (1 - part * share_of_round)
        return 1 - held * (1 - none ** (rounds + 1))

    of_prompt = length[:, None]
    first = np.minimum(of_prompt, longest * (1 - np.arange(64) / 64))
    whole, last = np.divmod(of_prompt - first, longest)
    missed = misses(first) * misses(longest) ** whole * misses(last)
    return min(uniform, float(prompts @ np.mean(1 - missed, axis=1))), uniform


def _misses_all(rows: int, count: int, batch: int) -> float:
    """Chance that `batch` of `rows`, drawn without replacement, are none of `count` of them."""
    left = rows - count - batch
    if left < 0:
        return 0.0
    log = math.lgamma
    return math.exp(log(rows - count + 1) + log(rows - batch + 1) - log(left + 1) - log(rows + 1))


class Epoch:
    """One share of an epoch: which spans fill each section, and which units each round draws.

    Section k is filled before round k - `sections.first` + 1, and in the place of section k -
    `sections.count`. The last round draws all that is left. Everything follows from `Order` and
    from the units that are fed.
    """

    def __init__(self, order: Order, spans: Spans, number: int, share: Share) -> None:
        self._key = order.seed, number, share.number, share.of
        self.spans, self.share = spans, share
        self.chosen: EpochSpans = spans.of_epoch(Draws(order.seed, number), share.first, share.end)
        ends = np.append(0, np.cumsum(self.chosen.rows))
        longest = int(self.chosen.rows.max(initial=0))
        self.sections = Sections(order.capacity, longest, int(ends[-1]))
        starts = [0]
        while starts[-1] < len(self.chosen.spans):
            most = ends[starts[-1]] + self.sections.rows
            starts.append(int(np.searchsorted(ends, most, side="right")) - 1)
        self.starts = starts
        """The first span of each filling of a section, then the number of spans."""
        self.fillings = len(starts) - 1
        """How often a section is filled."""
        self.rounds = max(min(self.fillings, 1), self.fillings - self.sections.first + 1)

    def planned(self) -> Integers:
        """(n,) the units of the share in the order in which they are given. Reads nothing."""
        filled, drawn = dict[int, list[Integers]](), [np.zeros(0, np.int64)]
        for number in range(self.rounds):
            here = self.drawn_in(number)
            for filling in (k for k in here if k not in filled):
                spans = range(*self.starts[filling : filling + 2])
                edges = self.spans.edges[self.chosen.spans]
                units = np.concatenate([self.units(k) + edges[k] for k in spans])
                filled[filling] = self.shuffled(filling, units)
            filled = {k: filled[k] for k in here}
            drawn.append(self.draw(number, filled))
        return np.concatenate(drawn)

    def drawn_in(self, number: int) -> range:
        """The fillings that round `number` draws from."""
        end = number + self.sections.first
        return range(max(0, end - self.sections.drawn), min(end, self.fillings))

    def due_by(self, number: int) -> int:
        """Fillings that may be read once round `number` begins: there is memory for them."""
        return min(number + self.sections.first + AHEAD, self.fillings)

    def units(self, span: int) -> Integers:
        """The units that the share has of its span number `span`, counted from the span's first."""
        of_span = self.spans.units(int(self.chosen.spans[span]))
        return of_span[self.chosen.first[span] : self.chosen.end[span]]

    def shuffled(self, filling: int, units: Integers) -> list[Integers]:
        """What each round draws of the (..., n) that a filling holds: equally many, and neighbours
        in different rounds.
        """
        n, rounds = units.shape[-1], self._lasts(filling)
        units = units.take(Draws(*self._key, 0, filling).dealt(n, rounds), axis=-1)
        bounds = (n * k // rounds for k in range(rounds + 1))
        return [units[..., first:end] for first, end in pairwise(bounds)]

    def draw(self, number: int, fillings: Mapping[int, Sequence[Integers]]) -> Integers:
        """(..., n) what round `number` draws from `fillings`, which are `shuffled`."""
        parts = (fillings[k][self._part(number, k)] for k in self.drawn_in(number))
        drawn = np.concatenate([*chain.from_iterable(parts)], axis=-1)
        return drawn.take(Draws(*self._key, 1, number).order(drawn.shape[-1]), axis=-1)

    def size(self, number: int) -> int:
        """Units that round `number` draws."""
        size = 0
        for k in self.drawn_in(number):
            count, rounds, part = int(self._held[k]), self._lasts(k), self._part(number, k)
            size += count * part.stop // rounds - count * part.start // rounds
        return size

    @cached_property
    def _held(self) -> Integers:
        """(fillings,) units of each filling."""
        ends = np.append(0, np.cumsum(self.chosen.counts))
        return np.diff(ends[self.starts])

    def _part(self, number: int, filling: int) -> slice:
        """Which parts of a filling a round draws: one, and the last round all that are left."""
        done = number - max(0, filling - self.sections.first + 1)
        last = number == self.rounds - 1
        return slice(done, self._lasts(filling) if last else done + 1)

    def _lasts(self, filling: int) -> int:
        """Rounds that draw from a filling. Those that the first round draws from last one less
        each, so that no two end together.
        """
        return self.sections.drawn + min(0, filling - self.sections.first + 1)
