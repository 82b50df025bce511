"""The spans of rows that a feed reads at a time, and which of them a rank reads in an epoch."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from lpp.store.arrays.layout import ArraySpec, chunk_rows, site_array
from lpp.store.draws import Draws, Integers
from lpp.store.errors import FormatError
from lpp.store.format.commit_record import checksum
from lpp.store.format.keys import HIDDEN_KEY
from lpp.store.format.rows import ranges
from lpp.store.runs.read import Run


@dataclass(frozen=True, kw_only=True)
class Spans:
    """Units of a run, rows or whole prompts, in spans, and the kept units of each.

    Units and rows are numbered from 0 through all shards. No span crosses a shard.
    """

    edges: Integers
    """(spans + 1,) the first unit of each span, then the number of units."""
    kept: npt.NDArray[np.uint8] | None
    """One bit for each unit, most significant first: whether it is fed. None: every one is."""
    first_rows: Integers | None = None
    """(units + 1,) the first row of each unit, then the number of rows. None: a unit is a row."""

    @classmethod
    def of_rows(
        cls, runs: Sequence[Run], sites: Sequence[str], kept: npt.NDArray[np.uint8] | None
    ) -> "Spans":
        """Rows of the shards of the first of `runs`, which pair: the chunks of the site with the
        longest ones, since a chunk is the least that can be unpacked.
        """
        edges = shard_edges(runs[0])
        longest = max(_chunk_rows(run, site) for run in runs for site in sites)
        starts = [np.arange(*shard, longest) for shard in pairwise(edges.tolist())]
        return cls(edges=np.concatenate([*starts, edges[-1:]]), kept=kept)

    @property
    def rows_at(self) -> Integers:
        """(spans + 1,) the first row of each span, then the number of rows."""
        return self.edges if self.first_rows is None else self.first_rows[self.edges]

    def rows(self, span: int, units: Integers) -> Integers:
        """The rows of `units`; both are counted from the first of the span."""
        if self.first_rows is None:
            return units
        first = int(self.edges[span])
        starts, ends = self.first_rows[units + first], self.first_rows[units + first + 1]
        return ranges(starts - self.first_rows[first], ends - starts)

    def units_of(self, rows: Integers) -> tuple[Integers, Integers]:
        """The units whose rows, ascending, are `rows`, and where each begins among them."""
        if self.first_rows is None:
            return rows, np.arange(len(rows))
        unit = np.searchsorted(self.first_rows, rows, side="right") - 1
        return np.unique(unit, return_index=True)

    @cached_property
    def digest(self) -> str:
        """Says which units are kept."""
        return checksum(b"" if self.kept is None else self.kept.tobytes())

    @cached_property
    def counts(self) -> Integers:
        """(spans,) kept units of each span."""
        if self.kept is None:
            return np.diff(self.edges)
        step = 1 << 9  # spans whose bits are unpacked at a time
        parts = [np.zeros(0, np.int64)]
        for start in range(0, len(self.edges) - 1, step):
            edges = self.edges[start : start + step + 1]
            first, end = int(edges[0]), int(edges[-1])
            bits = np.unpackbits(self.kept[first // 8 : -(-end // 8)])[first % 8 :]
            ends = np.append(0, np.cumsum(bits[: end - first], dtype=np.int64))
            parts.append(np.diff(ends[edges - first]))
        return np.concatenate(parts)

    def units(self, span: int) -> Integers:
        """The kept units of a span, ascending, counted from its first."""
        first, end = int(self.edges[span]), int(self.edges[span + 1])
        if self.kept is None:
            return np.arange(end - first)
        bits = np.unpackbits(self.kept[first // 8 : -(-end // 8)])
        return np.flatnonzero(bits[first % 8 : first % 8 + end - first])

    def without(self, lost: Iterable[tuple[int, int]]) -> tuple["Spans", list[int]]:
        """The same without some units, from a first up to an end each; and how many kept units each
        of these takes away.
        """
        bits, gone = self.kept, list[int]()
        for first, end in lost:
            if bits is None:
                bits = np.full(-(-int(self.edges[-1]) // 8), 255, np.uint8)
            elif bits is self.kept:
                bits = bits.copy()
            part = slice(first // 8, -(-end // 8))
            unpacked = np.unpackbits(bits[part])
            units = unpacked[first % 8 : first % 8 + end - first]
            gone.append(int(units.sum()))
            units[:] = 0
            bits[part] = np.packbits(unpacked)
        return (replace(self, kept=bits) if gone else self), gone

    def of_epoch(self, draws: Draws, low: int, high: int) -> "EpochSpans":
        """Kept units `low` up to `high` of the order in which `draws` puts the spans.

        draws: the same for every rank. A span on the border of two shares is read by both.
        """
        order = draws.order(len(self.counts))
        order = order[self.counts[order] > 0]
        ends = np.cumsum(self.counts[order])
        first = int(np.searchsorted(ends, low, side="right"))
        last = int(np.searchsorted(ends, high, side="left")) + 1 if high > low else first
        spans = order[first:last]
        starts = ends[first:last] - self.counts[spans]
        begin, end = np.maximum(low - starts, 0), np.minimum(high, ends[first:last]) - starts
        rows = self.row_ends(spans, end) - self.row_ends(spans, begin)
        return EpochSpans(spans=spans, first=begin, end=end, rows=rows)

    def row_ends(self, spans: Integers, units: Integers) -> Integers:
        """Rows of the first `units` kept units of each of `spans`, and of all spans before it."""
        ends = (np.cumsum(self.counts) - self.counts)[spans] + units
        return ends if self._row_ends is None else self._row_ends[ends]

    @cached_property
    def longest(self) -> int:
        """The most kept rows of a span."""
        spans = np.arange(len(self.counts))
        rows = self.row_ends(spans, self.counts) - self.row_ends(spans, 0 * spans)
        return int(rows.max(initial=0))

    @cached_property
    def _row_ends(self) -> Integers | None:
        """(kept units + 1,) rows of the kept units before each. None: a unit is a row."""
        if self.first_rows is None:
            return None
        rows = np.diff(self.first_rows)
        if self.kept is not None:
            rows = rows[np.unpackbits(self.kept, count=len(rows)).view(bool)]
        return np.append(0, np.cumsum(rows))


@dataclass(frozen=True, kw_only=True)
class EpochSpans:
    """The spans of one share of one epoch, in the order of reading."""

    spans: Integers
    """(n,) indices of spans."""
    first: Integers
    """(n,) the first kept unit of each span that the share has, counted among the kept ones."""
    end: Integers
    """(n,) one past the last one."""
    rows: Integers
    """(n,) rows of the units that the share has of each span."""

    @cached_property
    def counts(self) -> Integers:
        """(n,) units that the share has of each span."""
        return self.end - self.first


def shard_edges(run: Run) -> Integers:
    """(shards + 1,) the first row of each shard of `run`, then the number of rows."""
    return run.row_edges[list(run.plan.shards)]


def _chunk_rows(run: Run, site: str) -> int:
    """Rows of a chunk of `site` in a shard with more rows than that: those that a writer chooses
    now, or more if the shard with most rows or the first has more, as from an earlier release.
    """
    array, edges = _array(run, site), shard_edges(run)
    rows = [chunk_rows(array.width, array.item_bytes)]
    for index in {int(np.diff(edges).argmax()), 0}:
        if shard := run.shard(index):
            spec = replace(array, rows=shard.rows)
            with (
                suppress(FormatError),  # which reading the shard raises
                shard.array(HIDDEN_KEY, spec, start=0, end=0) as opened,
            ):
                rows.append(opened.layout.chunk_rows)
    return max(rows)


def _array(run: Run, site: str) -> ArraySpec:
    spec = run.site(site)
    return site_array(spec, run.plan.dtype_of(spec), 1)
