"""Intrinsic dimension from the two nearest neighbours of each row (Facco et al. 2017).

The ratio of a row's distances to its second and first neighbour follows a Pareto law whose
exponent is the dimension of the set the rows lie on. scikit-dimension makes the estimate; the
distances are ours: its own come from products of rows in many columns, where near rows that share
an enormous dimension lose the digits that tell them apart.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lpp.analyze.numerics.moments import Floats, Rows
from lpp.analyze.runs.cells import Cell, Integers
from lpp.analyze.runs.site_reader import SiteReader
from lpp.store.errors import ErrorKind, MachineError
from lpp.store.read import Block

MAX_ROWS: Final = 2048
"""Rows of a cell at most: N^2 d multiply-adds, and an error of the estimate about 1 / sqrt(N)."""
DISCARDED: Final = 0.1
"""Share of the largest ratios that the fit leaves out, as in the paper."""
CANDIDATES: Final = 4
"""Nearest rows by products, whose distances are then taken exactly."""
TILE_ROWS: Final = 256
"""Rows whose distances to all others are held at once: 4 MiB, and as much for d = 512 beside it."""


def two_nn(rows: Rows, /) -> float:
    """Intrinsic dimension of (N, d) rows, each counted once however often it is there.

    A line through the origin is fitted to (ln mu, -ln(1 - F)), F the empirical distribution of
    the ratio mu, without the largest tenth. NaN for fewer than three different rows, for rows
    that are not finite, and where all ratios are 1.

    Raises MachineError(NO_PACKAGE) without scikit-dimension.
    """
    estimator = _estimator()
    if not np.isfinite(rows).all():
        return float("nan")
    different = distinct(rows)
    if len(different) < 3:
        return float("nan")
    distances = neighbour_distances(different)
    if (distances[:, 0] == distances[:, 1]).all():
        return float("nan")
    return float(estimator.fit(distances).dimension_)


def distinct(rows: Rows) -> Rows:
    """The different ones of (N, d) rows, in order of first appearance; -0 is 0."""
    plain = rows + np.float32(0)  # -0 + 0 is 0
    first = {row.tobytes(): index for index, row in reversed(list(enumerate(plain)))}
    return plain[sorted(first.values())]


def neighbour_distances(rows: Rows) -> Floats:
    """(N, 2) distances to the nearest and to the second nearest of (N, d) different rows."""
    wide = rows - rows.mean(axis=0, dtype=np.float64)
    squares = np.einsum("nd,nd->n", wide, wide)
    count = min(CANDIDATES, len(wide) - 1)
    found = np.empty((len(wide), 2))
    for start in range(0, len(wide), TILE_ROWS):
        tile = wide[start : start + TILE_ROWS]
        near = squares - 2 * (tile @ wide.T)  # the distances' squares but for a constant of the row
        near[np.arange(len(tile)), np.arange(start, start + len(tile))] = np.inf
        candidates = np.argpartition(near, count - 1, axis=1)[:, :count]
        exact = np.linalg.norm(wide[candidates] - tile[:, None], axis=2)
        exact.sort(axis=1)
        found[start : start + len(tile)] = exact[:, :2]
    return found


def _estimator() -> Any:
    try:
        from skdim.id import TwoNN
    except ImportError:
        raise MachineError(
            "two_nn needs scikit-dimension, which is not installed: "
            "pip install 'lpp-engine[dimension]', or leave two_nn out of --metrics.",
            kind=ErrorKind.NO_PACKAGE,
        ) from None
    return TwoNN(discard_fraction=DISCARDED, dist=True)


class NeighbourSamples:
    """At most `MAX_ROWS` rows of every whole cell, from one read of a site's rows.

    A row's place in the draw depends on its prompt and position alone: the sample of a prefix is
    the same whatever else is asked for, and samples of nested prefixes share rows. Memory: 4 d
    bytes for each row drawn, some three times `MAX_ROWS` for ten prefixes.
    """

    def __init__(self, reader: SiteReader, cells: Sequence[Cell]) -> None:
        _estimator()  # said before anything is read
        self._start = np.append(0, np.cumsum(reader.lengths))
        drawn = {cell: self._drawn(reader.lengths, cell) for cell in cells if not cell.groups}
        self._drawn_of = drawn
        self._wanted = np.unique(np.concatenate([np.empty(0, np.int64), *drawn.values()]))
        self._rows = np.empty((len(self._wanted), reader.width), np.float32)

    def _drawn(self, lengths: Integers, cell: Cell) -> npt.NDArray[np.int64]:
        """Places of the rows drawn for `cell` among all rows of the site, ascending."""
        below = np.minimum(lengths[: cell.n_prompts], cell.prefix).astype(np.int64)
        prompt = np.repeat(np.arange(len(below)), below)
        position = np.arange(len(prompt)) - np.repeat(np.cumsum(below) - below, below)
        places = self._start[prompt] + position
        if len(places) <= MAX_ROWS:
            return np.asarray(places)
        order = np.argpartition(shuffled(prompt, position), MAX_ROWS)[:MAX_ROWS]
        return np.sort(places[order])

    def add(self, block: Block) -> None:
        """Take in the next rows."""
        if len(block.prompt_id) == 0 or len(self._wanted) == 0:
            return
        first = int(self._start[block.prompt_id[0]] + block.position[0])
        a, b = np.searchsorted(self._wanted, [first, first + len(block.values)])
        self._rows[a:b] = block.values[self._wanted[a:b] - first]

    def again(self) -> bool:
        """One read is enough."""
        return False

    def values(self) -> Iterator[tuple[Cell, Rows]]:
        """The rows drawn for each cell."""
        for cell, places in self._drawn_of.items():
            yield cell, self._rows[np.searchsorted(self._wanted, places)]


def shuffled(prompt: Integers, position: Integers) -> npt.NDArray[np.uint64]:
    """A number for each token, (n,), as good as random and always the same.

    The finaliser of SplitMix64 (Steele, Lea and Flood 2014), a bijection of 64 bits.
    """
    z = (prompt.astype(np.uint64) << np.uint64(32)) | position.astype(np.uint64)
    z += np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
