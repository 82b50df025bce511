"""Spectra after clipping the outliers of the widest columns, so that a few rows weigh less.

After centring, the five columns of highest variance are clipped at +-3 of their standard
deviations, and the spectrum is that of X^T X / (N - 1) with no second centring (arXiv 2605.30018).

Clipping changes five rows and columns of the scatter matrix. The engine has that matrix from a
first read, for the spectra, and its diagonal says which columns are clipped and where. A second
read accumulates the products of the clipped columns with all others: 5 d multiply-adds a row and
cell, where a scatter of its own would take d^2. Each cell has products of its own, of its own rows
alone, so that other cells move no bit. Memory: 8 x 5 d bytes for each cell and the rows of one
block; the scatter is asked for again at the end rather than kept.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from lpp.analyze.metrics.summary import Demand, summarize
from lpp.analyze.numerics.moments import Floats, Moments
from lpp.analyze.numerics.spectrum import Spectrum
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.rows.site_reader import SiteReader
from lpp.analyze.runs.rows.wide_block import WideBlock

CLIPPED_COLUMNS: Final = 5
"""Columns of highest variance; the first among equals."""
CLIP_AT: Final = 3.0
"""Limit in sample standard deviations of a column (over N - 1)."""

SOLVED: Final = Demand(solved=frozenset({"covariance"}))


class RobustSpectra:
    """The spectrum of every whole cell: moments, a read of the clipped columns, moments again."""

    uses_moments = True
    wants_moments_again = True

    def __init__(self, reader: SiteReader, cells: Sequence[Cell]) -> None:
        self._products: dict[Cell, _ClippedProducts] = {}
        self._reading = False
        self._spectra: dict[Cell, Spectrum] = {}

    def moments(self, cell: Cell, n: int, mean: Floats, scatter: Floats) -> None:
        """The (d,) mean and (d, d) centred scatter of a cell: after the first read, and the last.

        Neither is kept.
        """
        if self._reading:
            self._spectra[cell] = self._products[cell].spectrum(n, mean, scatter)
        else:
            self._products[cell] = _ClippedProducts(cell, n, mean, np.diagonal(scatter))

    def add(self, block: WideBlock) -> None:
        """Take in the next rows: nothing is kept of the first read."""
        if self._reading:
            for products in self._products.values():
                products.add(block)

    def again(self) -> bool:
        """One more read, once the columns are known."""
        if self._reading or not self._products:
            return False
        self._reading = True
        return True

    def values(self) -> Iterator[tuple[Cell, Spectrum]]:
        """The spectrum of each cell."""
        yield from self._spectra.items()


class _ClippedProducts:
    """Products of the clipped columns of a cell with every column, about the cell's mean."""

    def __init__(self, cell: Cell, n: int, mean: Floats, squares: Floats) -> None:
        self._cell = cell
        self._index = np.argsort(-squares, kind="stable")[:CLIPPED_COLUMNS]
        self._mean = mean.copy()
        self._limit = CLIP_AT * np.sqrt(squares[self._index] / max(n - 1, 1))
        self._cross = np.zeros((len(self._index), len(mean)))
        self._clipped_products = np.zeros((len(self._index), len(self._index)))

    def add(self, block: WideBlock) -> None:
        """Take in the rows of the cell among the next rows."""
        cell = self._cell
        inside = (block.position >= cell.first_position) & (block.position < cell.prefix)
        inside &= block.prompt_id < cell.n_prompts
        if not inside.any():
            return
        centred = block.wide[inside] - self._mean
        clipped = np.clip(centred[:, self._index], -self._limit, self._limit)
        self._cross += clipped.T @ centred
        self._clipped_products += clipped.T @ clipped

    def spectrum(self, n: int, mean: Floats, scatter: Floats) -> Spectrum:
        """Spectrum of the scatter, with the clipped rows and columns in place."""
        clipped = scatter.copy()
        clipped[self._index] = self._cross
        clipped[:, self._index] = self._cross.T
        clipped[np.ix_(self._index, self._index)] = self._clipped_products
        if not math.isfinite(scatter.sum()):
            clipped[:] = np.nan
        return summarize(Moments(n, mean, clipped), SOLVED).covariance
