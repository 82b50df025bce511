"""Intrinsic dimension from the two nearest neighbours of each row (Facco et al. 2017).

The ratio of a row's distances to its second and first neighbour follows a Pareto law whose
exponent is the dimension of the set the rows lie on.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from lpp.analyze.metrics.row_measures.neighbour_search import NeighbourSearch
from lpp.analyze.numerics.moments import Floats, Rows
from lpp.analyze.runs.cells import Cell, Integers
from lpp.analyze.runs.rows.site_reader import SiteReader
from lpp.analyze.runs.rows.wide_block import WideBlock

MAX_ROWS: Final = 2048
"""Rows of a cell at most: N^2 d multiply-adds, and an error of the estimate about 1 / sqrt(N)."""
DISCARDED: Final = 0.1
"""Share of the largest ratios that the fit leaves out, as in the paper."""


def two_nn(rows: Rows, /) -> float:
    """Intrinsic dimension of (N, d) rows, each counted once however often it is there.

    A line through the origin is fitted to (ln mu, -ln(1 - F)), F the empirical distribution of
    the ratio mu, without the largest tenth. NaN for fewer than three different rows, for rows
    that are not finite, and where all ratios fitted are 1.
    """
    if not np.isfinite(rows).all():
        return float("nan")
    different = rows[np.unique(first_equal(rows))]
    return fitted(neighbour_distances(different)) if len(different) >= 3 else float("nan")


def fitted(distances: Floats, /) -> float:
    """Slope of the line, from (N, 2) distances to the nearest and the second nearest neighbour.

    >>> distances = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 8.0]])  # ln 8 is the largest tenth
    >>> round(fitted(distances), 6)  # ln 2 to -ln(1 - 2/3): ln 3 / ln 2
    1.584963
    """
    ratios = distances[:, 1] / distances[:, 0]
    logs = np.log(np.sort(ratios)[: int(len(ratios) * (1 - DISCARDED))])
    above = -np.log(1 - np.arange(1, len(logs) + 1) / len(ratios))
    squares = float(logs @ logs)
    return float(logs @ above) / squares if squares else float("nan")


def first_equal(rows: Rows) -> npt.NDArray[np.int64]:
    """(N,) the first of (N, d) rows that equals each; -0 is 0.

    >>> first_equal(np.array([[0.0], [2.0], [-0.0]], dtype=np.float32)).tolist()
    [0, 1, 0]
    """
    _, group, count = np.unique(
        rows.sum(axis=1, dtype=np.float64), return_inverse=True, return_counts=True
    )
    equal = np.arange(len(rows))
    first: dict[bytes, int] = {}
    for k in np.flatnonzero(count[group] > 1):  # equal rows have equal sums
        equal[k] = first.setdefault((rows[k] + np.float32(0)).tobytes(), int(k))  # -0 + 0 is 0
    return equal


def neighbour_distances(rows: Rows) -> Floats:
    """(N, 2) distances to the nearest and to the second nearest of (N, d) different rows."""
    return NeighbourSearch(rows, len(rows)).distances(np.arange(len(rows)))


class NeighbourSamples:
    """The dimension of at most `MAX_ROWS` rows of every whole cell, from one read of a site's rows.

    A row's place in the draw depends on its prompt and position alone: the sample of a prefix is
    the same whatever else is asked for, and samples of nested prefixes share rows. Memory: 4 d
    bytes for each row drawn, some three times `MAX_ROWS` for ten prefixes.
    """

    def __init__(self, reader: SiteReader, cells: Sequence[Cell]) -> None:
        self._start = np.append(0, np.cumsum(reader.lengths))
        drawn = {cell: self._drawn(reader.lengths, cell) for cell in cells if not cell.excluded}
        self._drawn_of = drawn
        self._wanted = np.unique(np.concatenate([np.empty(0, np.int64), *drawn.values()]))
        self._rows = np.empty((len(self._wanted), reader.width), np.float32)

    def _drawn(self, lengths: Integers, cell: Cell) -> npt.NDArray[np.int64]:
        """Places of the rows drawn for `cell` among all rows of the site, ascending."""
        inside = lengths[: cell.n_prompts].clip(max=cell.prefix).astype(np.int64)
        inside = (inside - cell.first_position).clip(0)
        prompt = np.repeat(np.arange(len(inside)), inside)
        position = np.arange(len(prompt)) - np.repeat(np.cumsum(inside) - inside, inside)
        position += cell.first_position
        places = self._start[prompt] + position
        if len(places) <= MAX_ROWS:
            return np.asarray(places)
        order = np.argpartition(shuffled(prompt, position), MAX_ROWS)[:MAX_ROWS]
        return np.sort(places[order])

    def add(self, block: WideBlock) -> None:
        """Take in the next rows."""
        first = int(self._start[block.prompt_id[0]] + block.position[0])
        a, b = np.searchsorted(self._wanted, [first, first + len(block.values)])
        self._rows[a:b] = block.values[self._wanted[a:b] - first]

    def again(self) -> bool:
        """One read is enough."""
        return False

    def values(self) -> Iterator[tuple[Cell, float]]:
        """The dimension of each cell."""
        finite = np.isfinite(self._rows.sum(axis=1, dtype=np.float64))
        first = first_equal(self._rows)
        distinct = np.unique(first[finite])
        rows = self._rows if len(distinct) == len(self._rows) else self._rows[distinct]
        search = NeighbourSearch(rows, min(len(rows), MAX_ROWS)) if len(rows) else None
        # Samples of neighbouring prefixes share most rows.
        for cell in sorted(self._drawn_of, key=lambda c: (c.n_prompts, c.first_position, c.prefix)):
            which = np.searchsorted(self._wanted, self._drawn_of[cell])
            different = np.searchsorted(distinct, np.unique(first[which]))
            dimension = float("nan")
            if search is not None and finite[which].all() and len(different) >= 3:
                dimension = fitted(search.distances(different))
            yield cell, dimension


def shuffled(prompt: Integers, position: Integers) -> npt.NDArray[np.uint64]:
    """A pseudo-random number for each token, (n,), always the same.

    The finaliser of SplitMix64 (Steele, Lea and Flood 2014), a bijection of 64 bits.
    """
    z = (prompt.astype(np.uint64) << np.uint64(32)) | position.astype(np.uint64)
    z += np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
