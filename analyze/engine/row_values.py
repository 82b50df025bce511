"""Compute metrics that need the rows themselves, during the read that spectra use.

A metric declares what to keep of the rows (`Metric.measure`); metrics with the same declaration
share the measurement. Without a declaration, all rows below the longest prefix are kept: 4 N d
bytes. A site without such metrics has no extra cost.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lpp.analyze.engine.workers import Workers
from lpp.analyze.metrics.metric import Measurement, Metric, MomentsMeasurement, SiteRows, Start
from lpp.analyze.numerics.moments import Moments
from lpp.analyze.runs.cells import Cell, n_tokens
from lpp.analyze.runs.rows.site_reader import SiteReader
from lpp.analyze.runs.rows.wide_block import Tiles, WideBlock
from lpp.store.runs.read import Block

if TYPE_CHECKING:
    from concurrent.futures import Future

Values = dict[tuple[Cell, str], float]
"""Values by cell and name of the metric."""


CellMoments = Callable[[], Iterator[tuple[Cell, Moments]]]
"""Returns a fresh iterator over cells and their moments, each valid until the next."""


class RowValues:
    """Gets the rows of a site by `add`; `finish` computes the metrics.

    metrics: of each cell. workers: only the calling thread by default.

    Attributes. n_prompts: prompts to read. sizes: numbers of prompts at which the read must stop,
    as for spectra, whose moments some metrics need. moment_cells: cells whose moments some
    metric needs; the reader appends to `moments` for each number of prompts.
    """

    def __init__(
        self,
        reader: SiteReader,
        metrics: Mapping[Cell, Sequence[Metric[Any]]],
        workers: Workers | None = None,
    ) -> None:
        self.sizes = {cell.n_prompts for cell in metrics}
        self.n_prompts = max(self.sizes)
        self.moments: list[CellMoments] = []
        self._reader, self._workers = reader, workers or Workers(1)
        self._longest = max(cell.prefix for cell in metrics)
        self._count = 0
        by_measure: dict[Start, dict[Cell, list[Metric[Any]]]] = defaultdict(dict)
        for cell, cell_metrics in metrics.items():
            for metric in cell_metrics:
                by_measure[metric.measure or AllRows].setdefault(cell, []).append(metric)
        self._running = [(start(reader, list(cells)), cells) for start, cells in by_measure.items()]
        self._tiles = Tiles([m for m, _ in self._running])
        self._under_way: Future[None] | None = None
        using = [(m, cells) for m, cells in self._running if _uses_moments(m)]
        self._using = [cast("MomentsMeasurement", m) for m, _ in using]
        self.moment_cells = {cell for _, cells in using for cell in cells if not cell.excluded}

    def add(self, block: Block) -> None:
        """Add the next rows. A worker processes them while further rows are read."""
        inside = (block.position < self._longest) & (block.prompt_id < self.n_prompts)
        self._count += int(inside.sum())
        self._settle()
        self._under_way = self._workers.submit(self._tiles.add, block)

    def _settle(self) -> None:
        if self._under_way is not None:
            self._workers.result(self._under_way)
            self._under_way = None

    def _give_moments(self, *, again: bool) -> None:
        measurements = [m for m in self._using if m.wants_moments_again or not again]
        for moments in self.moments if measurements else ():
            for cell, of_cell in moments():
                for measurement in measurements:
                    measurement.moments(cell, of_cell.n, of_cell.mean, of_cell.scatter)

    def finish(self) -> Values:
        """The values, after all rows were added. Reads them again if a measurement requests it.

        Raises FormatError if the number of rows differs from that of the prompts' tokens.
        """
        self._settle()
        self._reader.check(Cell(self.n_prompts, self._longest), self._count)
        self._give_moments(again=False)
        asking = [m for m, _ in self._running if m.again()]
        while asking:
            for _ in self._reader.read([self.n_prompts], Tiles(asking)):
                pass
            asking = [m for m in asking if m.again()]
        self._give_moments(again=True)
        tasks = [self._workers.submit(_computed, m, metrics) for m, metrics in self._running]
        all_values: Values = {}
        for values in self._workers.results(tasks):
            all_values |= values
        return all_values


def _uses_moments(measurement: Measurement) -> bool:
    return getattr(measurement, "uses_moments", False)


def _computed(measurement: Measurement, metrics: Mapping[Cell, Sequence[Metric[Any]]]) -> Values:
    values: Values = {}
    for cell, cell_metrics in metrics.items():
        values |= {(cell, metric.name): float("nan") for metric in cell_metrics}
    for cell, result in measurement.values():
        values |= {(cell, m.name): m.compute(result) for m in metrics.get(cell, ())}
    return values


class AllRows:
    """The default measurement: every row below the longest prefix, in float32."""

    def __init__(self, reader: SiteReader, cells: Sequence[Cell]) -> None:
        self._reader = reader
        self._cells = cells
        self._longest = max(cell.prefix for cell in cells)
        self._prompts = max(cell.n_prompts for cell in cells)
        most = n_tokens(reader.lengths, Cell(self._prompts, self._longest))
        self._values = np.empty((most, reader.width), np.float32)
        self._prompt_id = np.empty(most, np.int32)
        self._position = np.empty(most, np.int32)
        self._filled = 0

    def add(self, block: WideBlock) -> None:
        """Add the next rows."""
        inside = (block.position < self._longest) & (block.prompt_id < self._prompts)
        which = np.flatnonzero(inside)[: len(self._values) - self._filled]
        to = slice(self._filled, self._filled + len(which))
        self._values[to] = block.values[which]
        self._prompt_id[to] = block.prompt_id[which]
        self._position[to] = block.position[which]
        self._filled = to.stop

    def again(self) -> bool:
        """False: one read is enough."""
        return False

    def values(self) -> Iterator[tuple[Cell, SiteRows]]:
        """The rows of each cell, one copy at a time."""
        prompt_id, position = self._prompt_id[: self._filled], self._position[: self._filled]
        for cell in self._cells:
            inside = (position >= cell.first_position) & (position < cell.prefix)
            inside &= prompt_id < cell.n_prompts
            inside[inside] = cell.stays[prompt_id[inside]]
            self._reader.check(cell, int(inside.sum()))
            values = self._values[: self._filled][inside]
            yield cell, SiteRows(values, prompt_id[inside], position[inside])
