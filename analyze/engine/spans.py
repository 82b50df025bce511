"""Long runs in spans: what one process or a thousand compute apart, and put together alike.

A span is a run of prompts of at least `span_rows` rows, cut from the first prompt on, so the
committed rows alone decide where spans end, and not who works on them. The rows of any run of
prompts, a sample's or a jackknife's group, are their pieces in each span, merged as a tree in
which every node is the left-to-right merge of `FAN_IN`. Floating-point sums depend on their order;
this order is fixed, so any number of workers gives the same bits, given the same number of BLAS
threads for each and processors of one kind.

A tree of eight instead of two: one process holds the bands of one open node for each level, and an
eightfold run costs one more level. For b bands of width d, beside what `bands` counts: 8 b d^2
bytes for each level, none for a run of one span, one below 9 spans, two below 65. Ten bands and
d = 3,584: 1.0 GB a level, where a span is 917,504 rows.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Generic, TypeVar

import numpy as np

from lpp.analyze.engine.bands import Bands
from lpp.analyze.engine.held import Held, Spreads, merged
from lpp.analyze.numerics.moments import chunk_rows
from lpp.analyze.runs.cells import Integers
from lpp.analyze.runs.site_reader import Sink, SiteReader
from lpp.store.read import Block

SPAN_CHUNKS: Final = 256
"""Chunks of rows in a span. Merging ten bands then takes a few per cent of a span's products, and
sending them between machines about a quarter of reading its rows."""

FAN_IN: Final = 8
"""Nodes that one merge takes."""

T = TypeVar("T")


def span_rows(dim: int) -> int:
    """Fewest rows of a span, at width d.

    >>> span_rows(576), span_rows(4096)
    (262144, 1048576)
    """
    return SPAN_CHUNKS * chunk_rows(dim)


def span_ends(lengths: Integers, rows: int) -> list[int]:
    """Where spans of at least `rows` rows end, in prompts; the last one is still open.

    lengths: (P,) tokens of each prompt. More prompts move no end.

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


def pieces(
    ends: Sequence[int], lengths: Integers, first: int, end: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The prompts from `first` up to `end` by the spans they lie in: (closed, the open one).

    None that has no rows, as `SpannedBands` keeps none.

    >>> pieces([2, 4], np.array([3, 3, 3, 3, 3]), 1, 5)
    ([(1, 2), (2, 4)], [(4, 5)])
    """
    cuts = [first, *(cut for cut in ends if first < cut < end), end]
    some = [(a, b) for a, b in itertools.pairwise(cuts) if lengths[a:b].any()]
    return [part for part in some if part[1] < end], [part for part in some if part[1] == end]


class Tree(Generic[T]):
    """Nodes that came so far, merged by `FAN_IN` on each level, left to right.

    merge: makes one node of several. With `eager` it is called for two at once, the first of which
    it may change: never more than one node waits on a level. Both ways merge in the same order.
    """

    def __init__(self, merge: Callable[[Sequence[T]], T], *, eager: bool) -> None:
        self._merge, self._eager = merge, eager
        self._levels: list[list[T]] = []
        self._counts: list[int] = []

    def add(self, node: T, level: int = 0) -> None:
        """The next leaf."""
        if level == len(self._levels):
            self._levels.append([])
            self._counts.append(0)
        waiting = self._levels[level]
        waiting.append(node)
        if self._eager and len(waiting) > 1:
            waiting[:] = [self._merge(waiting)]
        self._counts[level] += 1
        if self._counts[level] == FAN_IN:
            whole = waiting[0] if self._eager else self._merge(waiting)
            self._levels[level], self._counts[level] = [], 0
            self.add(whole, level + 1)

    @property
    def roots(self) -> list[T]:
        """What is left to merge, in the order of the leaves: at most one node a level."""
        found = [level for level in reversed(self._levels) if level]
        return [level[0] if len(level) == 1 else self._merge(level) for level in found]


class SpannedBands(Spreads):
    """Bands of a site's rows as they are read in this process, whatever the number of spans."""

    def __init__(self, dim: int, upper: Sequence[int], counts: Integers) -> None:
        self._open = Bands(dim, upper, counts)
        super().__init__(dim, upper, self._open.work)
        self._bands = range(len(upper))
        self.clear()

    def add(self, block: Block) -> None:
        """Take in rows; those beyond the last band are left out."""
        self._open.add(block)

    def end_span(self) -> None:
        """The rows to come are another span's."""
        if any(map(self._open.count, self._bands)):
            self._tree.add([self._open.held(b).copy().close(self.work) for b in self._bands])
            self._open.clear()

    def clear(self) -> None:
        """Forget the rows, keep the buffers."""
        self._tree = Tree[list[Held]](self._merged, eager=True)
        self._open.clear()

    def count(self, band: int) -> int:
        """Rows of a band so far."""
        return sum(root[band].n for root in self._tree.roots) + self._open.count(band)

    def held(self, band: int) -> Held:
        """What a band is made of: of one span as it was read, of several merged here."""
        nodes = [root[band] for root in self._tree.roots]
        return merged([*nodes, self._open.held(band)], self.work)

    def _merged(self, nodes: Sequence[list[Held]]) -> list[Held]:
        into, *others = nodes
        for b in self._bands:
            for other in others:
                into[b].join(other[b], self.work)
        return into


def read_in_spans(
    reader: SiteReader, stops: Sequence[int], bands: SpannedBands, *others: Sink, first: int = 0
) -> Iterator[int]:
    """Fill `bands`, span by span, and `others`; yield each of `stops`, ascending, once it is in."""
    ends = span_ends(reader.lengths, span_rows(reader.width))
    cuts = {end for end in ends if first < end < stops[-1]}
    for place in reader.read(sorted({*stops, *cuts}), bands, *others, first=first):
        if place in stops:
            yield place
        if place in cuts:
            bands.end_span()
