"""Spectra after clipping the outliers of the widest columns, so that a few rows weigh less.

After centring, the five columns of highest variance are clipped at +-3 of their standard
deviations, and the spectrum is that of X^T X / (N - 1) with no second centring (arXiv 2605.30018).

Clipping changes five rows and columns of the scatter matrix. The engine has that matrix from a
first read, for the spectra, and its diagonal says which columns are clipped and where. A second
read accumulates the products of the clipped columns with all others: 5 d multiply-adds a row and
cell, where a scatter of its own would take d^2. Memory: 8 x 5 d bytes for each cell and the rows
of one block; the scatter is asked for again at the end rather than kept.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from lpp.analyze.metrics.summary import Demand, summarize
from lpp.analyze.numerics.moments import Floats, Moments
from lpp.analyze.numerics.spectrum import Spectrum
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.site_reader import SiteReader
from lpp.analyze.runs.wide_block import WideBlock

CLIPPED_COLUMNS: Final = 5
"""Columns of highest variance; the first among equals."""
CLIP_AT: Final = 3.0
"""Of a column's sample standard deviation (over N - 1)."""

SOLVED: Final = Demand(solved=frozenset({"covariance"}))


class RobustSpectra:
    """The spectrum of every whole cell: moments, a read of the clipped columns, moments again."""

    uses_moments = True
    wants_moments_again = True

    def __init__(self, reader: SiteReader, cells: Sequence[Cell]) -> None:
        self._width = reader.width
        self._columns: dict[Cell, _ClippedColumns] = {}
        self._products: _Products | None = None
        self._found: dict[Cell, Spectrum] = {}

    def moments(self, cell: Cell, n: int, mean: Floats, scatter: Floats) -> None:
        """The (d,) mean and (d, d) centred scatter of a cell: after the first read, and the last.

        Neither is kept.
        """
        if self._products is None:
            self._columns[cell] = _ClippedColumns(n, mean, np.diagonal(scatter))
        else:
            self._found[cell] = self._products.spectrum(cell, n, mean, scatter)

    def add(self, block: WideBlock) -> None:
        """Take in the next rows: nothing is kept of the first read."""
        if self._products is not None:
            self._products.add(block)

    def again(self) -> bool:
        """One more read, once the columns are known."""
        if self._products is not None or not self._columns:
            return False
        self._products = _Products(self._width, self._columns)
        return True

    def values(self) -> Iterator[tuple[Cell, Spectrum]]:
        """The spectrum of each cell."""
        yield from self._found.items()


class _ClippedColumns:
    """Which columns of a cell are clipped, about what, and where."""

    def __init__(self, n: int, mean: Floats, squares: Floats) -> None:
        self.index = np.argsort(-squares, kind="stable")[:CLIPPED_COLUMNS]
        self.mean = mean.copy()
        self.limit = CLIP_AT * np.sqrt(squares[self.index] / max(n - 1, 1))

    def of(self, block: WideBlock, cell: Cell) -> Floats:
        """(n, 5) clipped columns, 0 in rows of other cells."""
        inside = (block.position >= cell.first_position) & (block.position < cell.prefix)
        inside &= block.prompt_id < cell.n_prompts
        centred = block.wide[:, self.index] - self.mean[self.index]
        clipped: Floats = np.clip(centred, -self.limit, self.limit)
        clipped[~inside] = 0.0
        return clipped


class _Products:
    """Products of the clipped columns of all cells with every column, in one matrix product."""

    def __init__(self, width: int, columns: dict[Cell, _ClippedColumns]) -> None:
        self._columns = columns
        self._ends = np.cumsum([0, *(len(one.index) for one in columns.values())])
        # Near every cell's mean, so that products about it lose no digits.
        mean = columns[max(columns, key=lambda cell: (cell.n_prompts, cell.prefix))].mean
        self._reference = np.where(np.isfinite(mean), mean, 0.0)
        k = int(self._ends[-1])
        self._cross = np.zeros((k, width))  # with every column about the reference
        self._total = np.zeros(k)
        self._own = {cell: np.zeros((len(c.index), len(c.index))) for cell, c in columns.items()}

    def add(self, block: WideBlock) -> None:
        """Take in the next rows."""
        about = block.wide - self._reference
        if not math.isfinite(about.sum()):
            # Rows that are not finite spoil their own cells only: 0 times such a row is NaN.
            about[~np.isfinite(about.sum(axis=1))] = 0.0
        clipped = np.empty((len(about), self._ends[-1]))
        for place, (cell, columns) in enumerate(self._columns.items()):
            some = columns.of(block, cell)
            clipped[:, self._ends[place] : self._ends[place + 1]] = some
            self._own[cell] += some.T @ some
        self._cross += clipped.T @ about
        self._total += clipped.sum(axis=0)

    def spectrum(self, cell: Cell, n: int, mean: Floats, scatter: Floats) -> Spectrum:
        """Of the scatter with the clipped rows and columns put in."""
        columns = self._columns[cell]
        place = list(self._columns).index(cell)
        of_cell = slice(self._ends[place], self._ends[place + 1])
        cross = self._cross[of_cell] - np.outer(self._total[of_cell], mean - self._reference)
        clipped = scatter.copy()
        clipped[columns.index] = cross
        clipped[:, columns.index] = cross.T
        clipped[np.ix_(columns.index, columns.index)] = self._own[cell]
        if not math.isfinite(scatter.sum()):
            clipped[:] = np.nan
        return summarize(Moments(n, mean, clipped), SOLVED).covariance
