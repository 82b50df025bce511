"""Sums over one site of two runs, collected while the rows of both are read."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from lpp.analyze.metrics.parts import Parts
from lpp.analyze.numerics.cka import CrossScatters
from lpp.analyze.numerics.moments import Floats, Rows
from lpp.analyze.numerics.row_drift import RowDrift
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.groups import Groups, Integers

BOTH: Final = ((0, 0), (0, 1), (1, 1))
"""The products of two runs."""


class RowMeans:
    """Means of relative distance and cosine over the tokens of `cell`: 24 bytes for each group."""

    def __init__(self, cell: Cell, groups: Groups) -> None:
        self._cell = cell
        self._without = cell.parts(groups)
        self._parts = Parts([cell, *self._without])
        self._sums = np.zeros((2, self._parts.count + 1))  # the last is of no cell
        self._counts = np.zeros(self._parts.count + 1, dtype=np.int64)

    def add(self, prompt_id: Integers, position: Integers, drift: RowDrift) -> None:
        """Add some tokens of the cell."""
        part = self._parts.of(prompt_id, position)
        size = len(self._counts)
        self._counts += np.bincount(part, minlength=size)
        with np.errstate(invalid="ignore", over="ignore"):
            self._sums += [np.bincount(part, values, minlength=size) for values in drift]

    def means(self) -> dict[Cell, Floats]:
        """(2,) relative distance and cosine of the cell, and without each group of prompts."""
        return {cell: self._mean(cell) for cell in (self._cell, *self._without)}

    def _mean(self, cell: Cell) -> Floats:
        inside = np.flatnonzero(self._parts.inside(cell))
        with np.errstate(invalid="ignore"):  # no token: 0 over 0; infinite less infinite
            means: Floats = self._sums[:, inside].sum(axis=1) / self._counts[inside].sum()
        return means


class PairScatters:
    """Products of both runs' rows: `scatters`, only those of one run while all rows are `equal`."""

    def __init__(self, widths: Sequence[int]) -> None:
        self.equal = widths[0] == widths[1]
        self.scatters = (
            CrossScatters(widths[:1], BOTH[:1]) if self.equal else CrossScatters(widths, BOTH)
        )

    def add(self, a: Rows, b: Rows, *, equal: bool) -> None:
        """Add (n, d) and (n, e) rows of the same n tokens. equal: whether all of them are equal."""
        if self.equal and not equal:
            self.scatters, self.equal = self.scatters.twice(), False
        self.scatters.add([a] if self.equal else [a, b])
