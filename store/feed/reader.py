"""Reads the spans of a feed in the order of its epoch, some ahead of the one that is due."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from lpp.store.arrays.decode_pool import usable_cores
from lpp.store.arrays.layout import site_array
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.feed.draws import Integers
from lpp.store.feed.spans import shard_edges
from lpp.store.format.keys import HIDDEN_KEY, SHARDS_KEY, shard_key
from lpp.store.objects.bucket_objects import REQUESTS_AT_ONCE
from lpp.store.runs.read import Run
from lpp.store.runs.shards import Shard, check_tokens, open_shard

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
"""Bytes of spans that may be unpacked ahead of the one that is due, beside one for each thread."""


class RunSource:
    """The rows of some sites of a run, by their number in the run."""

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
        self._set_aside: dict[int, list[int]] = {}

    def read(self, first: int, end: int, out: Sequence[npt.NDArray[Any]]) -> None:
        """Rows `first` up to `end` of each site into `out`, (end - first, width) each.

        FormatError names a shard that is missing or altered.
        """
        for shard, start, stop in self._parts(first, end):
            begin = int(self._edges[shard.index])
            for array, rows in zip(self._arrays, out, strict=True):
                spec = replace(array, rows=shard.rows)
                inside = start - begin, stop - begin
                with shard.array(HIDDEN_KEY, spec, start=inside[0], end=inside[1]) as opened:
                    opened.rows(*inside, out=rows[start - first : stop - first])

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

    number: int
    """Place of the span in the order of reading, from 0."""
    rows: Integers
    """(n,) their numbers in the run."""
    values: Sequence[npt.NDArray[Any]]
    """(n, width) of each column, in memory that is used again."""
    lost: int
    """Rows that were wanted and are not there: prompts that were set aside, or damage."""
    damage: str
    """Why none of them could be read; empty if they could."""


class SpanReader:
    """Spans in a given order, read and unpacked by threads ahead of use. Has threads: close it.

    sources: each gives its columns; all have the same rows.
    """

    def __init__(self, sources: Sequence[RunSource], edges: Integers, on_damage: OnDamage) -> None:
        self._sources, self._edges, self._on_damage = sources, edges, on_damage
        self.columns = [column for source in sources for column in source.columns]
        self._longest = int(np.diff(edges).max(initial=0))
        span_bytes = max(1, self._longest * row_bytes(self.columns))
        threads = usable_cores()
        if any(source.in_bucket for source in sources):  # threads that wait for it use no core
            threads = max(threads, min(REQUESTS_AT_ONCE, _AHEAD_BYTES // span_bytes))
        self._ahead = threads + max(1, min(16, _AHEAD_BYTES // span_bytes))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="lpp-feed")
        self._memory: list[list[npt.NDArray[Any]]] = []

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def read(self, wanted: Iterable[tuple[int, Integers]]) -> Iterator[Loaded]:
        """Each span of `wanted`, in order: its index, and which of its rows, counted from its
        first. What one has is valid until the next is requested.
        """
        ahead, under_way = enumerate(wanted), deque[Future[tuple[Loaded, Memory]]]()
        try:
            while True:
                for number, (span, rows) in islice(ahead, self._ahead - len(under_way)):
                    under_way.append(self._pool.submit(self._load, number, span, rows))
                if not under_way:
                    return
                loaded, memory = under_way.popleft().result()
                yield loaded
                self._memory.append(memory)
        finally:
            # one that is cancelled and that no thread will meet would be waited for without end
            wait([future for future in under_way if not future.cancel()])

    def _load(self, number: int, span: int, rows: Integers) -> tuple[Loaded, Memory]:
        first, end = self._edges[span : span + 2].tolist()
        memory = self._memory.pop() if self._memory else self._new_memory()
        values = [column[: end - first] for column in memory]
        unused, aside = iter(values), [np.zeros(0, np.int64)]
        try:
            for source in self._sources:
                source.read(first, end, [next(unused) for _ in source.columns])
                aside.append(source.set_aside(first, end))
        except FormatError as error:
            if self._on_damage == "raise":
                raise
            nothing = [column[:0] for column in memory]
            return Loaded(number, rows[:0], nothing, len(rows), str(error)), memory
        there = rows[np.isin(rows, np.concatenate(aside), invert=True)]
        if len(there) < end - first:
            values = [column[there] for column in values]
        return Loaded(number, there + first, values, len(rows) - len(there), ""), memory

    def _new_memory(self) -> Memory:
        return [np.empty((self._longest, c.width), c.dtype) for c in self.columns]


def row_bytes(columns: Sequence[SiteColumn]) -> int:
    """Bytes of a row in all columns."""
    return sum(column.dtype.itemsize * column.width for column in columns)
