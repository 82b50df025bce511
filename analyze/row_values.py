"""Metrics that need the rows themselves, taken from the read that the spectra use.

Memory: every row below the longest prefix that is asked for, in float32 (4 N d bytes), and what
one metric makes of them. A site without such a metric pays nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lpp.analyze.cells import Cell, n_tokens
from lpp.analyze.metric import Metric, SiteRows
from lpp.analyze.site_reader import SiteReader
from lpp.store.run import Block

Values = dict[tuple[Cell, str], float]
"""A number for each cell and name of a metric."""


class RowValues:
    """Takes in a site's rows, and the metrics of each number of prompts once they are there.

    wanted: the metrics of each cell. found: their values.
    """

    def __init__(self, reader: SiteReader, wanted: Mapping[Cell, Sequence[Metric[Any]]]) -> None:
        self.found: Values = {}
        self._reader = reader
        self._wanted = wanted
        self._longest = max(cell.prefix for cell in wanted)
        most = n_tokens(reader.lengths, Cell(max(self.sizes), self._longest))
        self._values = np.empty((most, reader.width), np.float32)
        self._prompt_id = np.empty(most, np.int32)
        self._position = np.empty(most, np.int32)
        self._filled = 0

    @property
    def sizes(self) -> set[int]:
        """Numbers of prompts at which `take` is to be called."""
        return {cell.n_prompts for cell in self._wanted}

    def add(self, block: Block) -> None:
        """Take in rows, those below the longest prefix."""
        which = np.flatnonzero(block.position < self._longest)[: len(self._values) - self._filled]
        to = slice(self._filled, self._filled + len(which))
        self._values[to] = block.values[which]
        self._prompt_id[to] = block.prompt_id[which]
        self._position[to] = block.position[which]
        self._filled = to.stop

    def take(self, n_prompts: int) -> None:
        """Compute the metrics of that many prompts, all of whose rows are in."""
        for cell, metrics in self._wanted.items():
            if cell.n_prompts == n_prompts:
                rows = self._rows(cell)
                for metric in metrics:
                    self.found[cell, metric.name] = metric.compute(rows)

    def _rows(self, cell: Cell) -> SiteRows:
        first, end = cell.gap
        prompt_id, position = self._prompt_id[: self._filled], self._position[: self._filled]
        inside = (position < cell.prefix) & (prompt_id < cell.n_prompts)
        inside &= (prompt_id < first) | (prompt_id >= end)
        self._reader.check(cell, int(inside.sum()))
        return SiteRows(self._values[: self._filled][inside], prompt_id[inside], position[inside])
