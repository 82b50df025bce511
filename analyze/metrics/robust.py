"""Spectra with the outliers of the widest columns clipped: a few rows weigh less in them.

After centring, the five columns of highest variance are clipped at +-3 of their standard
deviations, and the spectrum is that of X^T X / (N - 1) with no second centring (arXiv 2605.30018).
Clipping needs means and deviations, which are known after a first read; a second one clips.

Clipping changes five rows and columns of the scatter matrix. So the second read accumulates the
ordinary scatter, in bands as the spectra do, and beside it, for each cell, the products of its
clipped columns with all others: 5 d multiply-adds a row and cell, where a scatter of its own would
take d^2. Memory: that of `bands`, and 8 x (5 d + 2 d for each part) bytes for each cell.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from lpp.analyze.engine.bands import Bands, band_counts
from lpp.analyze.engine.summary import Demand, summarize
from lpp.analyze.metrics.parts import Parts, add_by_part
from lpp.analyze.numerics.moments import Floats, Moments
from lpp.analyze.numerics.spectrum import Spectrum
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.site_reader import SiteReader
from lpp.store.read import Block

CLIPPED_COLUMNS: Final = 5
"""Columns of highest variance; the first among equals."""
CLIP_AT: Final = 3.0
"""Of a column's sample standard deviation (over N - 1)."""

_SOLVED: Final = Demand(solved=frozenset({"covariance"}))


class RobustSpectra:
    """The spectrum of every whole cell: a read for the columns, one for each number of prompts."""

    def __init__(self, reader: SiteReader, cells: Sequence[Cell]) -> None:
        self._reader = reader
        self._columns = ColumnMoments(reader.width, [cell for cell in cells if not cell.groups])
        self._sizes: dict[int, list[Cell]] = defaultdict(list)  # to be read yet
        for cell in cells:
            if not cell.groups:
                self._sizes[cell.n_prompts].append(cell)
        self._clipped: _Clipped | None = None
        self._found: dict[Cell, Spectrum] = {}

    def add(self, block: Block) -> None:
        """Take in the next rows, of the first read or of a later one."""
        if self._clipped is None:
            self._columns.add(block)
        else:
            self._clipped.add(block)

    def again(self) -> bool:
        """A read more for each number of prompts, so that the bands of one are held at a time."""
        if self._clipped is not None:
            self._found |= dict(self._clipped.spectra())
        if not self._sizes:
            return False
        _, cells = self._sizes.popitem()
        self._clipped = _Clipped(self._reader, cells, self._columns)
        return True

    def values(self) -> Iterator[tuple[Cell, Spectrum]]:
        """The spectrum of each cell."""
        yield from self._found.items()


class ColumnMoments:
    """Count, mean and variance of the columns of every cell; 16 d bytes for each part."""

    def __init__(self, width: int, cells: Sequence[Cell]) -> None:
        self._parts = Parts(cells)
        self._n = np.zeros(self._parts.count)
        self._mean = np.zeros((self._parts.count, width))
        self._squares = np.zeros((self._parts.count, width))  # about the part's own mean

    def add(self, block: Block) -> None:
        """Take in the next rows: merged with those before as `Moments` merge."""
        if len(block.values) == 0:
            return
        part = self._parts.of(block)
        n, total = np.zeros_like(self._n), np.zeros_like(self._mean)
        add_by_part(n, part, np.ones(len(part)))
        # from the first row: columns whose mean is enormous keep their digits, constant ones are 0
        first = block.values[0].astype(np.float64)
        wide = block.values - first
        add_by_part(total, part, wide)
        mean = total / np.maximum(n, 1)[:, None]
        inside = part < len(n)
        about = wide[inside] - mean[part[inside]]
        squares = np.zeros_like(self._squares)
        add_by_part(squares, part[inside], np.square(about, out=about))
        for k in np.flatnonzero(n):
            self._merge(int(k), float(n[k]), mean[k] + first, squares[k])

    def _merge(self, k: int, n: float, mean: Floats, squares: Floats) -> None:
        held = self._n[k]
        delta = mean - self._mean[k]
        self._n[k] = held + n
        self._squares[k] += squares + delta**2 * (held * n / self._n[k])
        self._mean[k] = mean if held == 0 else self._mean[k] + delta * (n / self._n[k])

    def of(self, cell: Cell) -> tuple[Floats, Floats]:
        """(d,) mean and (d,) sample variance of the columns of `cell`."""
        inside = np.flatnonzero(self._parts.inside(cell) & (self._n > 0))
        n = self._n[inside, None]
        total = max(float(n.sum()), 1.0)
        if len(inside) == 0:
            return np.zeros(self._mean.shape[1]), np.zeros(self._mean.shape[1])
        about = self._mean[inside] - self._mean[inside[0]]
        shift = (n * about).sum(axis=0) / total
        squares = self._squares[inside].sum(axis=0) + (n * (about - shift) ** 2).sum(axis=0)
        return self._mean[inside[0]] + shift, squares / max(total - 1, 1.0)


class _Cell:
    """What the second read keeps of one cell: products of its clipped columns."""

    def __init__(self, mean: Floats, variance: Floats) -> None:
        self.mean = mean
        self.top = np.argsort(-variance, kind="stable")[:CLIPPED_COLUMNS]
        self._limit = CLIP_AT * np.sqrt(variance[self.top])
        self.cross = np.zeros((len(self.top), len(mean)))  # with every column, about the reference
        self.total = np.zeros(len(self.top))
        self.products = np.zeros((len(self.top), len(self.top)))

    def add(self, block: Block, prefix: int, about: Floats) -> None:
        """about: (n, d) rows of the block less the reference."""
        below = block.position < prefix
        centred = block.values[:, self.top] - self.mean[self.top]
        clipped = np.where(below[:, None], np.clip(centred, -self._limit, self._limit), 0.0)
        self.cross += clipped.T @ about
        self.total += clipped.sum(axis=0)
        self.products += clipped.T @ clipped


class _Clipped:
    """The cells of one number of prompts in the second read."""

    def __init__(self, reader: SiteReader, cells: Sequence[Cell], columns: ColumnMoments) -> None:
        upper = sorted({cell.prefix for cell in cells})
        self._size = cells[0].n_prompts
        self._bands = Bands(reader.width, upper, band_counts(reader.lengths[: self._size], upper))
        self._kept = {cell: _Cell(*columns.of(cell)) for cell in cells}
        mean, _ = columns.of(max(cells, key=lambda cell: cell.prefix))
        # near every cell's mean, so that products about it lose no digits
        self._reference = np.where(np.isfinite(mean), mean, 0.0)

    def add(self, block: Block) -> None:
        """Take in the next rows; those of prompts beyond the cells' own are left out."""
        end = int(np.searchsorted(block.prompt_id, self._size))
        if end == 0:
            return
        block = Block(
            values=block.values[:end],
            prompt_id=block.prompt_id[:end],
            position=block.position[:end],
        )
        self._bands.add(block)
        about: Floats = np.subtract(block.values, self._reference, dtype=np.float64)
        # Rows that are not finite spoil their own bands only: a product with 0 is NaN for them.
        about[~np.isfinite(about.sum(axis=1))] = 0.0
        for cell, kept in self._kept.items():
            kept.add(block, cell.prefix, about)

    def spectra(self) -> Iterator[tuple[Cell, Spectrum]]:
        """Each cell with its spectrum: the scatter with the clipped rows and columns put in."""
        of_prefix = {cell.prefix: cell for cell in self._kept}
        for prefix, moments in self._bands.moments(of_prefix):
            cell = of_prefix[prefix]
            kept = self._kept[cell]
            cross = kept.cross - np.outer(kept.total, kept.mean - self._reference)
            scatter = moments.scatter.copy()
            scatter[kept.top] = cross
            scatter[:, kept.top] = cross.T
            scatter[np.ix_(kept.top, kept.top)] = kept.products
            if not np.isfinite(moments.scatter.sum()):
                scatter[:] = np.nan
            clipped = Moments(moments.n, moments.mean, scatter)
            yield cell, summarize(clipped, _SOLVED).covariance
