"""Sum the rows of one site by position band, as they are read.

Positions are divided into bands, which end at the prefixes of the run's own schedule. The rows from
`first_position` to below `prefix` are the merge of the bands between them; a first position or
prefix inside a band has a shorter band of its own. So the bands of a cell depend on the run and on
the cell, and its numbers have the same bits whatever is requested beside it. The rows of a prompt
are consecutive, so a band takes slices and nothing is sorted.

Rows are buffered in their stored type until there are enough for a matrix product: `product_rows`,
at least d. So if a spectrum has N < d rows, all of them are still buffered, and their N x N Gram
matrix costs less than a d x d one.

A long run is divided into spans of prompts. `span_sums` sums each span by itself, and `merged` adds
it to the earlier ones, from left to right. So machines that sum one span each give the same bits as
one process that reads all of them in one go.

Memory for b bands of width d does not depend on the number of prompts. Each band takes a float64
matrix (8 d^2 bytes), a second one if the run has several spans, and up to max(d, 1024) buffered
rows. Each worker takes a spare buffer of rows, and each thread 2,048 float64 rows and a d x d
product. Ten bands, bfloat16, one span: 45 MB at d = 576, 1.5 GB at d = 3,584.
"""

import itertools
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lpp.analyze.engine.workers import Workers
from lpp.analyze.numerics.moments import (
    SHIFT_ROWS,
    Floats,
    Moments,
    Rows,
    ShiftedSums,
    Workspace,
    product_rows,
    shift_of,
)
from lpp.analyze.runs.cells import Cell, Integers
from lpp.analyze.runs.groups import Spans
from lpp.analyze.runs.rows.site_reader import Sink, SiteReader
from lpp.store.runs.read import Block

if TYPE_CHECKING:
    from concurrent.futures import Future

Band = tuple[int, int]
"""Positions of a band: the first, and one past the last."""

Sums = Mapping[Band, ShiftedSums]
"""The sums of each band."""

SPAN_CHUNKS = 256
"""Chunks of rows in a span. Adding the sums of ten bands then takes a few per cent of the time of
the span's products; sending them to another machine, a quarter of the time of reading its rows."""


def span_rows(dim: int) -> int:
    """Least number of rows in a span, at width d.

    >>> span_rows(576), span_rows(4096)
    (262144, 1048576)
    """
    return SPAN_CHUNKS * product_rows(dim)


def span_ends(lengths: Integers, rows: int) -> list[int]:
    """Ends of the spans of at least `rows` rows, in prompts, except that of the last span.

    lengths: (P,) tokens of each prompt. Further prompts change no end.

    >>> span_ends(np.array([3, 3, 3, 3, 3]), 6)
    [2, 4]
    """
    total = np.cumsum(lengths, dtype=np.int64)
    ends: list[int] = []
    begun = 0
    while len(total) and total[-1] >= begun + rows:
        ends.append(int(np.searchsorted(total, begun + rows)) + 1)
        begun = int(total[ends[-1] - 1])
    return ends


def divided(prompts: Spans, ends: Sequence[int]) -> list[Spans]:
    """Runs of prompts, divided where a span ends inside a run.

    >>> divided(((1, 5), (7, 9)), [2, 4, 6])
    [((1, 2),), ((2, 4),), ((4, 5), (7, 9))]
    """
    parts: list[Spans] = [()]
    for first, end in prompts:
        cuts = [first, *(cut for cut in ends if first < cut < end), end]
        for begin, stop in itertools.pairwise(cuts):
            if begin > first:
                parts.append(())
            parts[-1] += ((begin, stop),)
    return parts


def bands_between(first: int, prefix: int, ends: Sequence[int]) -> list[Band]:
    """The bands of the rows from position `first` to below `prefix`. ends: of the schedule.

    >>> bands_between(2, 9, (3, 6, 12))
    [(2, 3), (3, 6), (6, 9)]
    """
    return list(itertools.pairwise([first, *(end for end in ends if first < end < prefix), prefix]))


def bands_of(cells: Iterable[Cell], ends: Sequence[int]) -> list[Band]:
    """The bands of all `cells`, (B,), each once, ascending. ends: of the schedule.

    >>> bands_of([Cell(9, 10), Cell(9, 10, first_position=2)], (5, 10))
    [(0, 5), (2, 5), (5, 10)]
    """
    windows = {(cell.first_position, cell.prefix) for cell in cells}
    return sorted({band for window in windows for band in bands_between(*window, ends)})


def rows_of(bands: Sequence[Band], lengths: Integers) -> npt.NDArray[np.int64]:
    """(B,) rows of each band, for prompts of `lengths` tokens, (P,)."""
    first, end = np.array(bands, dtype=np.int64).reshape(-1, 2).T
    return np.asarray(np.clip(np.minimum(lengths[:, None], end) - first, 0, None).sum(axis=0))


def band_shifts(reader: SiteReader, bands: Sequence[Band], end: int) -> list[Floats]:
    """(B, d) the shifts that the first span, which ends at `end`, takes from its rows."""
    rows: list[list[Rows]] = [[] for _ in bands]
    missing = np.minimum(rows_of(bands, reader.lengths[:end]), SHIFT_ROWS)
    for block in reader.run.blocks(reader.site, prompts=end, dtype="stored"):
        for b in np.flatnonzero(missing):
            first, last = bands[int(b)]
            inside = (block.position >= first) & (block.position < last)
            first_rows = block.values[inside][: missing[b]]
            rows[b].append(first_rows)
            missing[b] -= len(first_rows)
        if not missing.any():
            break
    empty = np.empty((0, reader.width), np.float32)
    return [shift_of(np.concatenate(parts) if parts else empty) for parts in rows]


class BandSums:
    """Sums over the rows of one span of a site, by band; after `begin`, of another one.

    bands: (B,), which may overlap. counts: (B,) most rows of each band in a span, for its buffer.
    """

    def __init__(
        self,
        reader: SiteReader,
        bands: Sequence[Band],
        counts: Integers,
        workers: Workers,
    ) -> None:
        self.bands = list(bands)
        self.dim = reader.width
        self._workers = workers
        self._shifts: list[Floats | None] = [None] * len(self.bands)
        self._sizes = [max(1, min(int(count), product_rows(self.dim))) for count in counts]
        self._buffers: list[Rows | None] = [None] * len(self.bands)
        self._filled = [0] * len(self.bands)
        self._spare: list[Rows] = []
        self._pending: list[tuple[Future[None], Rows] | None] = [None] * len(self.bands)
        self._sums: list[ShiftedSums | None] = [None] * len(self.bands)

    def add(self, block: Block) -> None:
        """Add rows, in order of prompt and position; those beyond the last band are ignored."""
        cuts = np.flatnonzero(np.diff(block.prompt_id)) + 1
        starts = [0, *cuts.tolist()]
        ends = [*cuts.tolist(), len(block.values)]
        positions = block.position[starts].tolist() if len(block.values) else []
        for start, end, position in zip(starts, ends, positions, strict=False):
            self._add_prompt(block.values[start:end], position)

    def _add_prompt(self, rows: Rows, position: int) -> None:
        """Add rows of one prompt, which begin at `position`."""
        for band, (first, end) in enumerate(self.bands):
            if first < position + len(rows) and end > position:
                self._append(band, rows[max(first - position, 0) : end - position])

    def _append(self, band: int, rows: Rows) -> None:
        """Append rows to the buffer of a band."""
        size = self._sizes[band]
        while len(rows):
            if self._filled[band] == size:
                self._multiply(band)
            buffer = self._buffers[band]
            if buffer is None:
                buffer = self._buffers[band] = np.empty((size, self.dim), rows.dtype)
            start = self._filled[band]
            part = rows[: size - start]
            buffer[start : start + len(part)] = part
            self._filled[band] += len(part)
            rows = rows[len(part) :]

    def buffered(self, band: int) -> Rows:
        """(k, d) buffered rows of a band, which are in no product yet."""
        buffer = self._buffers[band]
        empty = np.empty((0, self.dim), np.float32)
        return empty if buffer is None else buffer[: self._filled[band]]

    def _multiply(self, band: int) -> None:
        """Let a worker sum the buffered rows; later rows go to another buffer."""
        rows = self.buffered(band)
        if not len(rows):
            return
        self._finish(band)
        sums = self._sums[band]
        if sums is None:
            sums = self._sums[band] = ShiftedSums.empty(self._shift(band, rows))
        task = self._workers.submit(_add_rows, sums, rows)
        buffer = self._buffers[band]
        assert buffer is not None
        self._pending[band] = task, buffer
        self._filled[band] = 0
        others = [b for b, under_way in enumerate(self._pending) if under_way and b != band]
        if len(others) > self._workers.jobs:  # limits the buffers in use
            self._finish(others[0])
        self._buffers[band] = self._spare_buffer(self._sizes[band])

    def _spare_buffer(self, rows: int) -> Rows | None:
        """An unused buffer of at least `rows` rows; None if there is none."""
        for index, buffer in enumerate(self._spare):
            if len(buffer) >= rows:
                return self._spare.pop(index)
        return None

    def _finish(self, band: int) -> None:
        """Wait for a band's product."""
        pending, self._pending[band] = self._pending[band], None
        if pending is not None:
            task, buffer = pending
            self._workers.result(task)
            self._spare.append(buffer)

    def _shift(self, band: int, rows: Rows) -> Floats:
        """The shift of a band; the first call computes it from `rows`."""
        shift = self._shifts[band]
        if shift is None:
            shift = self._shifts[band] = shift_of(rows)
        return shift

    def sums(self, *, last: bool) -> Sums:
        """The sums of each band so far. last: no rows and no other call follow before `begin`, so
        no copies are made.
        """
        tasks = [self._workers.submit(self._sum, b, last) for b in range(len(self.bands))]
        return dict(zip(self.bands, self._workers.results(tasks), strict=True))

    def _sum(self, band: int, last: bool) -> ShiftedSums:
        self._finish(band)
        rows, sums = self.buffered(band), self._sums[band]
        if sums is None:
            shift = self._shifts[band]
            sums = ShiftedSums.empty(shift_of(rows) if shift is None else shift)
        elif not last:
            sums = sums.copy()
        if len(rows):
            _add_rows(sums, rows)
        return sums

    def begin(self, shifts: Sequence[Floats] | None) -> None:
        """Begin another span: remove all rows, keep buffers. shifts: as of `Span`."""
        for band in range(len(self.bands)):
            self._finish(band)
        self._shifts = [*shifts] if shifts else [None] * len(self.bands)
        self._filled = [0] * len(self.bands)
        self._sums = [None] * len(self.bands)

    def rows(self, bands: Sequence[Band]) -> Rows:
        """(N, d) the rows of some bands, all of them buffered: by band, prompt, position."""
        parts = [self.buffered(self.bands.index(band)) for band in bands]
        return np.concatenate([part for part in parts if len(part)] or [self.buffered(0)[:0]])


_scratch = threading.local()


def _add_rows(sums: ShiftedSums, rows: Rows) -> None:
    """`ShiftedSums.add_rows` with the workspace of this thread."""
    dim = len(sums.shift)
    work: Workspace | None = getattr(_scratch, "work", None)
    if work is None or work.product.shape[0] != dim:
        work = _scratch.work = Workspace(dim)
    sums.add_rows(rows, work)


def merged_bands(
    sums: Sums,
    ends: Sequence[int],
    first_position: int,
    prefixes: Iterable[int],
    without: Sums | None = None,
) -> Iterator[tuple[int, Moments]]:
    """Each of `prefixes`, ascending, with the moments of its rows from `first_position` on.

    ends: of the bands of the schedule. without: sums over some of the rows, which are subtracted.
    One running merge serves all prefixes, so the moments are valid until the next ones are
    requested.
    """
    dim = len(next(iter(sums.values())).shift)

    def take(band: Band, into: Moments, before: Floats) -> None:
        before += np.diagonal(sums[band].products)
        if without is None:
            into.add(sums[band].moments())
        else:
            sums[band].add_rest(without[band], into)
            into.drop_cancelled(before)

    running, before, done = Moments.empty(dim), np.zeros(dim), first_position
    for prefix in sorted(prefixes):
        for band in bands_between(done, prefix, ends):
            if band[1] in ends:
                take(band, running, before)
                done = band[1]
            else:  # a prefix inside a band: later prefixes take the whole band
                rest = running.copy()
                take(band, rest, before.copy())
                yield prefix, rest
        if done == prefix:
            yield prefix, running


@dataclass(frozen=True, slots=True)
class Span:
    """Prompts that are summed by themselves, and what is wanted of them."""

    prompts: Spans
    stops: tuple[int, ...]
    """Ends of prompts, ascending, at which the sums so far are wanted."""
    few: tuple[Cell, ...] = ()
    """Cells whose rows are wanted, fewer than a row has columns."""
    shifts: Sequence[Floats] | None = None
    """(B, d) the shift of each band; by default from the first rows of the band in this span, which
    must then be the first ones of the run."""

    @property
    def runs(self) -> list[tuple[int, list[int]]]:
        """Each run of prompts: the first, and the ends at which a read of it stops."""
        stops = {*self.stops, *(cell.n_prompts for cell in self.few)}
        inside = [[s for s in sorted(stops) if a < s < b] for a, b in self.prompts]
        return [(a, [*inner, b]) for (a, b), inner in zip(self.prompts, inside, strict=True)]


@dataclass(frozen=True, slots=True)
class SpanSums:
    """What a span gives at one of its stops."""

    end: int
    """The prompts of the span up to this one count."""
    sums: Sums
    """Empty where none are wanted."""
    rows: Mapping[Cell, Rows]
    """(N, d) the rows of each cell of `Span.few` with `end` prompts: by band, prompt, position."""


def span_sums(
    workers: Workers,
    spans: Sequence[Span],
    reader: SiteReader,
    bands: Sequence[Band],
    *others: Sink,
) -> Iterator[SpanSums]:
    """What each of `spans` gives at each of its stops, in order. The same read fills `others`.

    Prompts that follow each other are read in one go, also those of two spans. Of prompts that lie
    apart, each run of neighbours unpacks the chunks around it.
    """
    counts = [
        rows_of(bands, np.concatenate([reader.lengths[first:end] for first, end in span.prompts]))
        for span in spans
    ]
    sums = BandSums(reader, bands, np.max(counts, axis=0), workers)
    schedule = reader.run.plan.prefixes
    ends = _read([run for span in spans for run in span.runs], reader, sums, *others)
    for span in spans:
        sums.begin(span.shifts)
        last = span.prompts[-1][1]
        for end in ends:
            few = [cell for cell in span.few if cell.n_prompts == end]
            rows = {
                cell: sums.rows(bands_between(cell.first_position, cell.prefix, schedule))
                for cell in few
            }
            wanted = end in span.stops
            if wanted or rows:
                yield SpanSums(end, sums.sums(last=end == last) if wanted else {}, rows)
            if end == last:
                break


def _read(runs: Iterable[tuple[int, list[int]]], reader: SiteReader, *sinks: Sink) -> Iterator[int]:
    """Fill `sinks`; yield each end at which a read stops, once its prompts are in."""
    waiting = deque(runs)
    while waiting:
        first, ends = waiting.popleft()
        while waiting and waiting[0][0] == ends[-1]:
            ends = [*ends, *waiting.popleft()[1]]
        yield from reader.read(ends, *sinks, first=first, dtype="stored")


def merged(total: Sums, later: Sums) -> Sums:
    """The sums over both; in the memory of `later`, since solves may still read `total`."""
    for band, before in total.items():
        if before.n:
            later[band].add(before)
    return later
