"""Measurements of rows hold what they keep, not the rows."""

import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import skdim.id  # noqa: F401 (its import is not what is measured, and slow when traced)

from lpp.analyze.engine.row_values import AllRows
from lpp.analyze.metrics.metric import Start
from lpp.analyze.metrics.rows import ROW_METRICS
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.site_reader import SiteReader
from lpp.store import open_store
from lpp.store.read import Block

LENGTH, DIM = 40, 64
PREFIXES = (4, 20, 40)
STARTS = {
    m.measure.__name__: m.measure for m in ROW_METRICS if m.own_rows and m.measure is not None
}


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
    asking = True
    while asking:
        for block in blocks(cells[0].n_prompts):
            measurement.add(block)
        asking = measurement.again()
    assert len(list(measurement.values())) == len(cells)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("name", [*STARTS, "AllRows"])
def test_ten_times_the_prompts_hold_hardly_more(make_run: Callable[..., Any], name: str) -> None:
    made = make_run(dim=DIM, lengths=[3], sites=("final",))
    run = open_store(made.root).runs[made.run_id]
    start: Start = {**STARTS, "AllRows": AllRows}[name]
    _, few, many = (  # the first pays for what is imported on the way
        peak(
            start,
            SiteReader(run, "final", np.full(prompts, LENGTH)),
            [Cell(prompts, prefix) for prefix in PREFIXES],
        )
        for prompts in (8, 80, 800)
    )
    rows = 720 * LENGTH * DIM * 4  # bytes of the rows that came on top
    if name == "AllRows":
        assert many - few > rows
    else:
        assert many - few < rows / 4
