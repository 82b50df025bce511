"""Reads the spans of a feed, some ahead of the one that is due; and finds, before the first batch,
which rows cannot be read, so that all ranks know them.
"""

import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from lpp.store.arrays.decode_pool import usable_cores
from lpp.store.arrays.layout import site_array
from lpp.store.committed.checked import CheckedArray
from lpp.store.draws import Integers
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.feed.spans import Spans, shard_edges
from lpp.store.format.keys import HIDDEN_KEY, SHARDS_KEY, shard_key
from lpp.store.objects.bucket_objects import REQUESTS_AT_ONCE
from lpp.store.progress import SILENT, Progress
from lpp.store.runs.read import Run
from lpp.store.runs.shards import Shard, check_tokens, is_whole, open_shard

OnDamage = Literal["raise", "skip"]
"""What becomes of rows that are missing or altered."""


class SiteColumn(NamedTuple):
    """The rows of one site of one run, as they are read."""

    dtype: np.dtype[Any]
    width: int
    is_bfloat16: bool
    """Whether values are the bits of bfloat16, in uint16."""


Memory: TypeAlias = list[npt.NDArray[Any]]
"""(rows, width) of each column."""

_AHEAD_BYTES: Final = 64 << 20
"""Bytes of spans that `SpanReader.read` unpacks ahead of the one that is due, beside one for each
thread."""


_JOB_BYTES: Final = 2 << 20
"""Bytes of spans, about, that a thread reads in one job: each job costs the caller some 0.1 ms."""

_FILES_KEPT: Final = 128
"""Files that a source keeps open: opening one, with a look at each folder above it, takes a tenth
of the time of unpacking a chunk."""


class RunSource:
    """Rows of some sites of a run, by their number in it. May have open files: close it."""

    def __init__(self, run: Run, sites: Sequence[str]) -> None:
        self._run, self._edges = run, shard_edges(run)
        specs = [run.site(site) for site in sites]
        self._arrays = [site_array(spec, run.plan.dtype_of(spec), 0) for spec in specs]
        self.columns = [
            SiteColumn(
                array.decoded_dtype,
                array.decoded_width,
                run.plan.dtype_read(spec) == "bfloat16",
            )
            for array, spec in zip(self._arrays, specs, strict=True)
        ]
        """What the rows of each site are."""
        self.in_bucket = not isinstance(run.directory.root, Path)
        self._shards: dict[int, Shard] = {}
        self._kept: dict[int, Sequence[CheckedArray]] = {}
        self._closing = ExitStack()
        weakref.finalize(self, self._closing.close)  # also when Python ends
        self._set_aside: dict[int, list[int]] = {}

    def read(self, first: int, end: int, out: Sequence[npt.NDArray[Any]]) -> None:
        """Rows `first` up to `end` of each site into `out`, (end - first, width) each.

        FormatError names a shard that is missing or altered.
        """
        for shard, start, stop in self._parts(first, end):
            begin = int(self._edges[shard.index])
            inside = range(start - begin, stop - begin)
            with ExitStack() as closing:
                opened = self._opened(shard, inside, closing)
                for array, rows in zip(opened, out, strict=True):
                    array.rows(inside.start, inside.stop, out=rows[start - first : stop - first])

    def quarantined(self, index: int) -> list[int]:
        """Prompts that shard `index` set aside, ascending. FormatError without a valid record."""
        tokens = int(self._edges[index + 1] - self._edges[index])
        if is_whole(self._run.directory, self._run.plan, index, tokens):
            return []
        self._shard(index)
        return self._set_aside[index]

    def close(self) -> None:
        """Close the files that were kept open."""
        self._kept.clear()
        self._closing.close()

    def _opened(self, shard: Shard, rows: range, closing: ExitStack) -> Sequence[CheckedArray]:
        """The arrays of a shard: files that are kept open, or ones that `closing` closes."""
        arrays = self._kept.get(shard.index)
        if arrays is None:
            keeps = not self.in_bucket and len(self._kept) * len(self._arrays) < _FILES_KEPT
            stack = self._closing if keeps else closing
            specs = [replace(array, rows=shard.rows) for array in self._arrays]
            arrays = [
                stack.enter_context(shard.array(HIDDEN_KEY, spec, start=rows.start, end=rows.stop))
                for spec in specs
            ]
            if keeps:
                self._kept[shard.index] = arrays
        return arrays

    def set_aside(self, first: int, end: int) -> Integers:
        """Rows of prompts that were set aside, ascending, counted from `first`."""
        rows = [np.zeros(0, np.int64)]
        for shard, start, stop in self._parts(first, end):
            for prompt in self._set_aside[shard.index]:
                begin, after = self._run.row_edges[prompt : prompt + 2].tolist()
                rows.append(np.arange(max(begin, start), min(after, stop)) - first)
        return np.concatenate(rows)

    def _parts(self, first: int, end: int) -> Iterator[tuple[Shard, int, int]]:
        """Each shard that holds some of the rows, with the first of them and one past the last."""
        index = int(np.searchsorted(self._edges, first, side="right")) - 1
        while first < end:
            stop = min(end, int(self._edges[index + 1]))
            yield self._shard(index), first, stop
            first, index = stop, index + 1

    def _shard(self, index: int) -> Shard:
        """Shard `index`, opened once. Of its record only what this source reads is kept: a store
        may have 20,000 shards.
        """
        if index not in self._shards:
            run = self._run
            shard = open_shard(run.directory, run.plan, index)
            if not isinstance(shard, Shard):
                where = run.path / SHARDS_KEY / shard_key(index)
                raise FormatError(
                    shard
                    or f"{where}: not committed. Repeat the `lpp-capture run` command that "
                    "made the run, or feed the other shards with on_damage='skip'.",
                    kind=ErrorKind.CORRUPT,
                )
            check_tokens(shard, int(self._edges[index + 1] - self._edges[index]))
            self._set_aside[index] = shard.quarantined().tolist()
            needed = tuple(f"{HIDDEN_KEY}/{array.name}/" for array in self._arrays)
            self._shards[index] = shard.only(lambda key: key.startswith(needed))
        return self._shards[index]


@dataclass(frozen=True, slots=True)
class Loaded:
    """Rows of one span."""

    rows: Integers
    """(n,) their numbers in the run."""
    values: Memory
    """(n, width) of each column: the first rows of the memory that was given for them."""
    lost: int
    """Rows that were wanted and are not there: prompts that were set aside, or damage."""
    damage: str
    """Why none of them could be read; empty if they could."""


class SpanReader:
    """Spans, read and unpacked by threads. Has threads: close it.

    sources: each gives its columns; all have the same rows. edges: (spans + 1,) the first row of
    each span, then the number of rows.
    """

    def __init__(self, sources: Sequence[RunSource], edges: Integers, on_damage: OnDamage) -> None:
        self._sources, self._edges, self._on_damage = sources, edges, on_damage
        self.columns = [column for source in sources for column in source.columns]
        self._longest = int(np.diff(edges).max(initial=0))
        span_bytes = max(1, self._longest * row_bytes(self.columns))
        threads = usable_cores()
        if any(source.in_bucket for source in sources):  # threads that wait for it use no core
            threads = max(threads, min(REQUESTS_AT_ONCE, _AHEAD_BYTES // span_bytes))
        self.job_spans = max(1, _JOB_BYTES // span_bytes)
        """Spans that a thread reads at a time; more of them cost the caller less."""
        self._ahead = threads + max(1, min(16, _AHEAD_BYTES // span_bytes))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="lpp-feed")
        self._scratch: list[Memory] = []

    def close(self) -> None:
        """End the threads and close files."""
        self._pool.shutdown(cancel_futures=True)
        for source in self._sources:
            source.close()

    def submit(self, wanted: Sequence[tuple[int, Integers, Memory]]) -> "Future[list[Loaded]]":
        """Read some spans: of each its rows, ascending and counted from its first, into memory for
        as many.
        """
        return self._pool.submit(lambda: [self._load(*each) for each in wanted])

    def read(self, wanted: Iterable[tuple[int, Integers]]) -> Iterator[Loaded]:
        """Each span of `wanted`, in order: its index, and which of its rows. What one has is valid
        until the next is requested.
        """
        ahead, under_way = iter(wanted), deque[tuple[Future[list[Loaded]], Memory]]()
        free = [self.memory(self._longest) for _ in range(self._ahead)]
        try:
            while True:
                for span, rows in islice(ahead, len(free)):
                    memory = free.pop()
                    out = [column[: len(rows)] for column in memory]
                    under_way.append((self.submit([(span, rows, out)]), memory))
                if not under_way:
                    return
                loading, memory = under_way.popleft()
                yield from loading.result()
                free.append(memory)
        finally:
            # one that is cancelled and that no thread will meet would be waited for without end
            wait([loading for loading, _ in under_way if not loading.cancel()])

    def memory(self, rows: int) -> Memory:
        """Memory for so many rows; its pages are used once they are written."""
        return [np.empty((rows, c.width), c.dtype) for c in self.columns]

    def _load(self, span: int, rows: Integers, out: Memory) -> Loaded:
        first, end = self._edges[span : span + 2].tolist()
        whole = len(rows) == end - first
        scratch = out if whole else self._scratch.pop() if self._scratch else None
        scratch = scratch or self.memory(self._longest)
        values = [column[: end - first] for column in scratch]
        unused, aside = iter(values), [np.zeros(0, np.int64)]
        try:
            for source in self._sources:
                source.read(first, end, [next(unused) for _ in source.columns])
                aside.append(source.set_aside(first, end))
        except FormatError as error:
            if self._on_damage == "raise":
                raise
            return Loaded(rows[:0], [column[:0] for column in out], len(rows), str(error))
        gone, there = np.concatenate(aside), rows
        if len(gone):
            there = rows[np.isin(rows, gone, invert=True)]
        if len(there) < end - first:
            for column, read in zip(out, values, strict=True):
                column[: len(there)] = read[there]
        if not whole:
            self._scratch.append(scratch)
        given = [column[: len(there)] for column in out]
        return Loaded(there + first, given, len(rows) - len(there), "")


def row_bytes(columns: Sequence[SiteColumn]) -> int:
    """Bytes of a row in all columns."""
    return sum(column.dtype.itemsize * column.width for column in columns)


@dataclass(frozen=True, kw_only=True)
class Fed:
    """What is fed, and what is not."""

    spans: Spans
    lost: int
    """Kept units that are left out."""
    damage: dict[str, int]
    """What is wrong with shards that are missing or altered, and how many units that costs."""


def readable(
    runs: Sequence[Run],
    sites: Sequence[str],
    spans: Spans,
    on_damage: OnDamage,
    progress: Progress = SILENT,
) -> Fed:
    """`spans` without prompts that any of `runs` set aside and, with "skip", without all that is
    missing or altered; to find these, every row of `sites` is read once.

    Raises FormatError, unless they are skipped, for a shard without a valid record.
    """
    found = [*_unreadable(runs, sites, spans, on_damage, progress)]
    rest, counts = spans.without((first, end) for first, end, _ in found)
    damage: dict[str, int] = {}
    for count, (_, _, why) in zip(counts, found, strict=True):
        if why:
            damage[why] = damage.get(why, 0) + count
    return Fed(spans=rest, lost=sum(counts), damage=damage)


def _unreadable(
    runs: Sequence[Run],
    sites: Sequence[str],
    spans: Spans,
    on_damage: OnDamage,
    progress: Progress,
) -> Iterator[tuple[int, int, str]]:
    """Units from a first up to an end, and why they cannot be read; empty: they were set aside."""
    sources = [RunSource(run, sites) for run in runs]
    for run, source in zip(runs, sources, strict=True):

        def aside(index: int, source: RunSource = source) -> list[int] | str:
            try:
                return source.quarantined(index)
            except FormatError as error:
                if on_damage == "raise":
                    raise
                return str(error)

        edges = run.row_edges if spans.first_rows is None else np.arange(len(run.lengths) + 1)
        for k, of_shard in enumerate(run.directory.map(aside, range(run.plan.n_shards))):
            if isinstance(of_shard, str):
                first, end = edges[[*run.plan.shards[k : k + 2]]].tolist()
                yield first, end, of_shard
            else:
                yield from ((*edges[[prompt, prompt + 1]].tolist(), "") for prompt in of_shard)
    if on_damage == "raise":
        return
    rows = np.diff(spans.rows_at)
    progress.expect(int(rows.sum()))
    reader = SpanReader(sources, spans.rows_at, on_damage)
    try:
        every = ((k, np.arange(n)) for k, n in enumerate(rows.tolist()))
        for k, loaded in enumerate(reader.read(every)):
            if loaded.damage:
                yield int(spans.edges[k]), int(spans.edges[k + 1]), loaded.damage
            progress.advance(int(rows[k]))
    finally:
        reader.close()
