"""Distances to the two nearest rows, exact, for samples that share most of their rows.

Products in float32 rule out most pairs. A bound on their error says which candidates are left for
each row; only their distances are computed from differences, in float64. Where the bound leaves
many, as where all rows share an enormous dimension, the row's products are computed in float64.

The bound. With u the unit roundoff and s = |x|^2 + |y|^2, |x|^2 + |y|^2 - 2 x.y as computed is
within c s of |x - y|^2, c = 1.01 (d + 16) u: d u s for a product of d terms, in any order (Higham
2002, section 3.1), the rest for rounding the rows, the squares and two sums. Rows are scaled to
lengths below 1, so that products which underflow add less than `TINY`.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from lpp.analyze.numerics.moments import Floats, Rows
from lpp.analyze.runs.cells import Integers

_FEW: Final = 24
"""Candidates that a row may have from float32 products."""
PAIRS: Final = 512
"""Pairs subtracted at once: 2 MiB for d = 512."""
_TILE_ROWS: Final = 256
"""Rows whose float64 products are held at once."""
SAMPLE: Final = 255
"""Rows whose median is taken off: then few rows are much longer than they lie apart."""
TINY: Final = 2.0**-100


class NeighbourSearch:
    """Samples of (N, d) finite rows, no two of them equal.

    capacity: rows of a sample at most. Near distances are kept from one sample to the next: rows
    that come take the places of rows that leave. Memory: 4 capacity^2 + 4 N d bytes.
    """

    def __init__(self, rows: Rows, capacity: int) -> None:
        self._rows = rows
        sample = rows[:: max(1, len(rows) // SAMPLE)]
        self._centre = np.median(sample.astype(np.float64), axis=0)
        self._narrow = np.empty(rows.shape, np.float32)
        for k in range(0, len(rows), PAIRS):
            self._narrow[k : k + PAIRS] = rows[k : k + PAIRS] - self._centre
        longest = np.sqrt(_squares(self._narrow).max())
        self._scale = 2.0 ** -float(np.frexp(longest)[1])  # a power of two: nothing is rounded
        self._narrow *= np.float32(self._scale)
        self._row = np.full(capacity, -1)  # at each place; -1 for none
        self._near = np.full((capacity, capacity), np.inf, np.float32)  # squares of distances
        self._keys, self._known = np.empty(0, np.int64), np.empty(0)  # distances found before

    def distances(self, sample: Integers) -> Floats:
        """(n, 2) distances of the rows at `sample`, (n,), to the nearest and the second in it.

        sample: ascending, three or more.
        """
        self._replace(sample)
        places = np.flatnonzero(self._row >= 0)
        near = self._near if len(places) == len(self._near) else self._near[places]
        squares = _squares(self._narrow[self._row])
        i, j = _candidates(near, squares[places], squares, self._error(np.float32))
        few = np.bincount(i, minlength=len(places)) <= _FEW
        pairs = [(self._row[places[i[few[i]]]], self._row[j[few[i]]])]
        pairs += self._in_float64(places[~few], places)
        ends = [np.concatenate(side) for side in zip(*pairs, strict=True)]
        return self._two_least(ends[0], ends[1], sample)

    def _error(self, kind: type[np.floating[Any]]) -> float:
        """The bound c for products of type `kind`."""
        dim = int(self._rows.shape[1])
        return 1.01 * (dim + 16) * float(np.finfo(kind).eps) / 2

    def _replace(self, sample: Integers) -> None:
        here, wanted = np.zeros((2, len(self._rows) + 1), dtype=bool)  # the last is of row -1
        here[self._row], wanted[sample] = True, True
        free, come = np.flatnonzero(~wanted[self._row]), sample[~here[sample]]
        places, holes = free[: len(come)], free[len(come) :]
        self._row[places], self._row[holes] = come, -1
        narrow = self._narrow[self._row]
        squares = _squares(narrow).astype(np.float32)
        block = (-2 * self._narrow[come]) @ narrow.T
        block += squares
        block += squares[places, None]
        block[:, holes] = np.inf
        block[np.arange(len(come)), places] = np.inf
        self._near[holes] = np.inf
        self._near[:, holes] = np.inf
        self._near[places] = block
        if len(come) < len(self._row):
            self._near[:, places] = block.T

    def _in_float64(self, places: Integers, among: Integers) -> Iterator[tuple[Integers, Integers]]:
        """Pairs of rows: those at `places` with their candidates at `among`."""
        if len(places) == 0:
            return
        wide = (self._rows[self._row[among]] - self._centre) * self._scale
        squares = _squares(wide)
        for start in range(0, len(places), _TILE_ROWS):
            tile = np.searchsorted(among, places[start : start + _TILE_ROWS])
            near = squares + squares[tile, None] - 2 * (wide[tile] @ wide.T)
            near[np.arange(len(tile)), tile] = np.inf
            i, j = _candidates(near, squares[tile], squares, self._error(np.float64))
            yield self._row[among[tile[i]]], self._row[among[j]]

    def _two_least(self, i: Integers, j: Integers, sample: Integers) -> Floats:
        """(n, 2) the least distances among pairs of rows, for each row of `sample`."""
        keys = np.minimum(i, j) * len(self._rows) + np.maximum(i, j)
        new = np.setdiff1d(keys, self._keys)
        known = np.concatenate([self._known, self._exact(*np.divmod(new, len(self._rows)))])
        self._keys = np.concatenate([self._keys, new])
        order = np.argsort(self._keys)
        self._keys, self._known = self._keys[order], known[order]
        exact = self._known[np.searchsorted(self._keys, keys)]
        order = np.lexsort((exact, i))
        first = np.searchsorted(i[order], sample)
        return np.stack([exact[order[first]], exact[order[first + 1]]], axis=1)

    def _exact(self, i: Integers, j: Integers) -> Floats:
        """(n,) distances of pairs of rows."""
        apart = np.empty(len(i))
        for start in range(0, len(i), PAIRS):
            part = slice(start, start + PAIRS)
            difference = np.subtract(self._rows[i[part]], self._rows[j[part]], dtype=np.float64)
            apart[part] = np.sqrt(_squares(difference))
        return apart


def _squares(rows: Rows | Floats) -> Floats:
    squares: Floats = np.einsum("nd,nd->n", rows, rows, dtype=np.float64)
    return squares


def _candidates(
    near: Rows | Floats, squares: Floats, others: Floats, error: float
) -> tuple[Integers, Integers]:
    """Rows and columns of `near` that may be among a row's two nearest.

    near: (m, n) squares of distances by products, infinite where there is no pair; wrong by up to
    `error` times the sum of both squared lengths, which are `squares`, (m,), and `others`, (n,).
    """
    rows = np.arange(len(near))
    first = near.argmin(axis=1)
    least = near[rows, first].copy()
    near[rows, first] = np.inf
    second = near.argmin(axis=1)
    ends = [(least, first), (near[rows, second], second)]
    near[rows, first] = least
    # No two rows are further apart than this, among the two nearest.
    reach = np.max([d + error * (squares + others[j]) for d, j in ends], axis=0) + TINY
    longest = (np.sqrt(squares) + np.sqrt(np.maximum(reach, 0.0))) ** 2  # that a neighbour may be
    limit = reach + error * (squares + longest) + TINY
    flat = np.flatnonzero(near <= np.nextafter(limit.astype(near.dtype), np.inf)[:, None])
    return np.divmod(flat, near.shape[1])
