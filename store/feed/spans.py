"""The spans of rows that a feed reads at a time, and which of them a rank reads in an epoch."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from lpp.store.arrays.layout import chunk_rows, site_array
from lpp.store.feed.draws import Draws, Integers
from lpp.store.format.commit_record import checksum
from lpp.store.runs.read import Run


@dataclass(frozen=True, kw_only=True)
class Spans:
    """Units of a run, rows or whole prompts, in spans, and the kept units of each.

    Units are numbered from 0 through all shards. No span crosses a shard.
    """

    edges: Integers
    """(spans + 1,) the first unit of each span, then the number of units."""
    kept: npt.NDArray[np.uint8] | None
    """One bit for each unit, most significant first: whether it is fed. None: every one is."""

    @classmethod
    def of_rows(
        cls, run: Run, sites: tuple[str, ...], kept: npt.NDArray[np.uint8] | None
    ) -> "Spans":
        """The chunks of `sites`, of the one with the longest: a chunk is the least that can be
        unpacked.
        """
        edges = shard_edges(run)
        longest = max(_chunk_rows(run, site) for site in sites)
        starts = [np.arange(*shard, longest) for shard in pairwise(edges.tolist())]
        return cls(edges=np.concatenate([*starts, edges[-1:]]), kept=kept)

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

    def of_epoch(self, draws: Draws, rank: int, world: int) -> "EpochSpans":
        """What `rank` of `world` reads, in order: an equal share of the kept units, to within one.

        draws: the same for every rank. A span on the border of two ranks is read by both.
        """
        order = draws.order(len(self.counts))
        order = order[self.counts[order] > 0]
        ends = np.cumsum(self.counts[order])
        total = int(ends[-1]) if len(ends) else 0
        low, high = total * rank // world, total * (rank + 1) // world
        first = int(np.searchsorted(ends, low, side="right"))
        last = int(np.searchsorted(ends, high, side="left")) + 1 if high > low else first
        starts = ends[first:last] - self.counts[order[first:last]]
        return EpochSpans(
            spans=order[first:last],
            first=np.maximum(low - starts, 0),
            end=np.minimum(high, ends[first:last]) - starts,
        )


@dataclass(frozen=True, kw_only=True)
class EpochSpans:
    """The spans of one rank in one epoch, in the order of reading."""

    spans: Integers
    """(n,) indices of spans."""
    first: Integers
    """(n,) the first kept unit of each span that this rank takes, counted among the kept ones."""
    end: Integers
    """(n,) one past the last one."""

    @cached_property
    def counts(self) -> Integers:
        """(n,) units that the rank takes of each span."""
        return self.end - self.first


def shard_edges(run: Run) -> Integers:
    """(shards + 1,) the first row of each shard of `run`, then the number of rows."""
    return run.row_edges[list(run.plan.shards)]


def _chunk_rows(run: Run, site: str) -> int:
    """Rows of a chunk of `site` in a shard with more rows than that."""
    spec = run.site(site)
    array = site_array(spec, run.plan.dtype_of(spec), 1)
    return chunk_rows(array.width, array.item_bytes)
