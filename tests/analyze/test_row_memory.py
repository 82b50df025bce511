"""Measurements of rows hold what they keep, not the rows."""

import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from made_runs import MakeRun

from lpp.analyze.engine.row_values import AllRows
from lpp.analyze.metrics.metric import Start
from lpp.analyze.metrics.row_measures import neighbours
from lpp.analyze.metrics.rows import ROW_METRICS
from lpp.analyze.numerics.moments import Moments
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.rows.site_reader import SiteReader
from lpp.analyze.runs.rows.wide_block import Tiles, WideBlock, WideSink
from lpp.store import open_store
from lpp.store.runs.read import Block, Run

LENGTH, DIM = 40, 64
PREFIXES = (4, 20, 40)
STARTS = {m.measure.__name__: m.measure for m in ROW_METRICS if m.measure is not None}


def blocks(prompts: int) -> Iterator[Block]:
    """A prompt at a time, made as it is asked for."""
    rng = np.random.default_rng(0)
    for prompt in range(prompts):
        yield Block(
            values=rng.normal(size=(LENGTH, DIM)).astype(np.float32),
            prompt_id=np.full(LENGTH, prompt, np.int32),
            position=np.arange(LENGTH, dtype=np.int32),
        )


def peak(start: Start, reader: SiteReader, cells: Sequence[Cell]) -> int:
    """Most bytes held at once while the rows of all prompts go by."""
    tracemalloc.start()
    measurement = start(reader, cells)
    own = CellMoments(reader, cells)
    asking: list[WideSink] = [measurement, own]
    while asking:
        for block in blocks(cells[0].n_prompts):
            Tiles(asking).add(block)
        if own in asking:
            give(measurement, own)
        asking = [measurement] if measurement.again() else []
    give(measurement, own)
    assert len(list(measurement.values())) == len(cells)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


class CellMoments:
    """The moments of each whole cell, as the engine would have them."""

    def __init__(self, reader: SiteReader, cells: Sequence[Cell]) -> None:
        self.of = {cell: Moments.empty(reader.width) for cell in cells if not cell.excluded}

    def add(self, block: WideBlock) -> None:
        for cell, moments in self.of.items():
            moments.add(Moments.from_rows(block.values[block.position < cell.prefix]))


def give(measurement: Any, own: CellMoments) -> None:
    """As the engine does, to those that use moments."""
    for cell, moments in own.of.items() if hasattr(measurement, "moments") else ():
        measurement.moments(cell, moments.n, moments.mean, moments.scatter)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*STARTS, "AllRows"])
def test_ten_times_the_prompts_hold_hardly_more(
    make_run: MakeRun, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_run(dim=DIM, lengths=[3], sites=("embed", "block.1"))
    monkeypatch.setattr(neighbours, "MAX_ROWS", 200)  # so that the few are drawn from already
    # what a measurement reads of another site
    monkeypatch.setattr(Run, "blocks", lambda self, site, prompts, **_: blocks(prompts))
    run = open_store(made.root).runs[made.run_id]
    start: Start = {**STARTS, "AllRows": AllRows}[name]
    _, few, many = (  # the first pays for what is imported on the way
        peak(
            start,
            SiteReader(run, "block.1", np.full(prompts, LENGTH)),
            [Cell(prompts, prefix) for prefix in PREFIXES],
        )
        for prompts in (8, 80, 800)
    )
    rows = 720 * LENGTH * DIM * 4  # bytes of the rows that came on top
    if name == "AllRows":
        assert many - few > rows
    else:
        assert many - few < rows / 4
