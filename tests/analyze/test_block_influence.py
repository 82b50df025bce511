"""Block influence: the rows that go into a block beside those that come out."""

from typing import Any

import numpy as np
import pytest
from made_runs import Made, MakeRun

from lpp.analyze.engine.row_values import RowValues
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.metrics.row_measures.block_influence import block_influence, input_site
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.rows import side_by_side as module
from lpp.analyze.runs.rows import site_reader
from lpp.analyze.runs.rows.side_by_side import RowQueue
from lpp.analyze.runs.rows.site_reader import SiteReader
from lpp.analyze.tables.metrics import scan_metrics
from lpp.store import open_store
from lpp.store.errors import FormatError
from lpp.store.runs.read import Block


def slow(made: Made, site: str, cell: Cell) -> float:
    """Token by token."""
    before, cosines = input_site(site), []
    assert before is not None
    ((first, end),) = cell.excluded or ((0, 0),)
    for i in range(cell.n_prompts):
        for p in range(cell.first_position, cell.prefix):
            rows = made.hidden[site][i]
            if p < len(rows) and not first <= i < end:
                a = made.hidden[before][i][p].astype(float)
                b = rows[p].astype(float)
                cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return 1 - float(np.mean(cosines)) if cosines else float("nan")


@pytest.mark.parametrize("site", ["block.1", "block.2"])
def test_every_cell_is_that_of_its_tokens(
    make_run: MakeRun, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_reader, "READ_BYTES", 256)
    monkeypatch.setattr(module, "READ_BYTES", 700)  # blocks of the two sites end elsewhere
    made = make_run(lengths=[12, 7, 20, 1, 3, 15])
    run = open_store(made.root).runs[made.run_id]
    reader = SiteReader(run, site, np.array([len(prompt) for prompt in made.prompts]))
    whole = [Cell(n, L, first_position=k) for n in (2, 6) for L in (1, 4, 20) for k in (0, 2)]
    cells = [*whole, *whole[-1].parts(3)]
    rows = RowValues(reader, {cell: [METRICS["block_influence"]] for cell in cells})
    for _ in reader.read([6], rows):
        pass
    found = rows.finish()
    for cell in cells:
        expected = slow(made, site, cell)
        assert found[cell, "block_influence"] == pytest.approx(expected, rel=1e-10, nan_ok=True)


def test_other_sites_and_sites_without_their_input_have_none(make_run: MakeRun) -> None:
    made = make_run(sites=("embed", "block.1", "block.3", "final"))
    table = scan_metrics(made.root, metrics=["block_influence"], groups=3).filter(prefix=20)
    found = {row["site"]: row for row in table.collect().iter_rows(named=True)}
    assert {site for site, row in found.items() if row["value"] is not None} == {"block.1"}
    cell = Cell(6, 20)
    assert found["block.1"]["value"] == pytest.approx(slow(made, "block.1", cell))
    parts = [slow(made, "block.1", part) for part in cell.parts(3)]
    error = np.sqrt(2 / 3 * np.square(np.array(parts) - np.mean(parts)).sum())
    assert found["block.1"]["stderr"] == pytest.approx(error)


def test_by_hand_and_identities() -> None:
    rng = np.random.default_rng(4)
    before, after = rng.normal(size=(2, 30, 5)).astype(np.float32)
    assert block_influence(before, before) == pytest.approx(0, abs=1e-12)
    assert block_influence(before, -before) == pytest.approx(2)
    lengths = rng.uniform(0.5, 9, size=(30, 1)).astype(np.float32)
    assert block_influence(lengths * before, after) == pytest.approx(
        block_influence(before, after), rel=1e-6
    )
    assert block_influence(after, before) == pytest.approx(block_influence(before, after))
    zero = np.array([[0, 0], [1, 0]], np.float32)
    assert block_influence(zero, np.array([[1, 0], [1, 1]], np.float32)) == pytest.approx(
        1 - 0.5**0.5
    )
    assert np.isnan(block_influence(zero[:1], zero[:1]))


class Narrow:
    """A run of one prompt whose sites have blocks of different sizes."""

    path = "lpp/runs/x"

    def __init__(self, **steps: int) -> None:
        self._steps = steps

    def blocks(self, site: str, **_: Any) -> Any:
        """Rows 0 to 9, as many at a time as the site has it."""
        for start in range(0, 10, self._steps[site]):
            position = np.arange(start, min(start + self._steps[site], 10), dtype=np.int32)
            yield Block(
                values=position[:, None].astype(np.float32),
                prompt_id=np.zeros_like(position),
                position=position,
            )


def test_a_site_of_fewer_rows_than_another_is_one_message() -> None:
    run: Any = Narrow(b=4)
    queue = RowQueue(run, "b", 1)
    assert [row for count in (3, 7) for row in queue.take(count)[:, 0]] == list(range(10))
    with pytest.raises(FormatError, match="b has fewer rows than another site"):
        queue.take(1)
