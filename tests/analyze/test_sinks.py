"""Attention sinks against a plain reading of their definition."""

import numpy as np
import numpy.typing as npt
import pytest
from made_runs import Made, MakeRun

from lpp.analyze.engine.row_values import RowValues
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.rows import site_reader
from lpp.analyze.runs.rows.site_reader import SiteReader
from lpp.analyze.tables.metrics import scan_metrics
from lpp.store import open_store
from lpp.store.feed.measured import SINK_FACTOR, sink_positions

Array = npt.NDArray[np.float32]
NAN = float("nan")
SINKS = ("n_sinks", "sink_end")


def slow_sinks(prompts: list[Array]) -> list[int]:
    """Position by position, every length computed again."""
    lengths = [[float(np.linalg.norm(row.astype(float))) for row in rows] for rows in prompts]
    found = []
    for p in range(max(map(len, lengths))):
        here = [one[p] for one in lengths if len(one) > p]
        others = [v for one in lengths for q, v in enumerate(one) if q != p]
        if others and np.median(here) > SINK_FACTOR * np.median(others):
            found.append(p)
    return found


def values(made: Made, cells: list[Cell], site: str = "final") -> dict[tuple[Cell, str], float]:
    """Both metrics of `cells`, from one read."""
    run = open_store(made.root).runs[made.run_id]
    reader = SiteReader(run, site, np.array([len(prompt) for prompt in made.prompts]))
    both = [METRICS["n_sinks"], METRICS["sink_end"]]
    rows = RowValues(reader, dict.fromkeys(cells, both))
    for _ in reader.read([rows.n_prompts], rows):
        pass
    return rows.finish()


def with_sinks(rows: Array) -> Array:
    """Position 0 is thirty times as long, position 2 in every prompt that reaches it too."""
    rows[[0, 2] if len(rows) > 2 else [0]] *= 30
    return rows


def test_by_hand() -> None:
    lengths = np.array([[100, 10, 1, 1], [100, 10, 1, NAN], [1, 200, 1, NAN]], np.float32)
    # position 0: 100 against the median of 10, 1, 1, 10, 1, 200, 1, which is 1
    # position 1: 10 against that of 100, 1, 1, 100, 1, 1, 1: not more than ten times it
    assert sink_positions(lengths).tolist() == [0]
    assert sink_positions(lengths, 9.9).tolist() == [0, 1]
    even = np.array([[10, 0.5], [10, 1.5]], np.float32)  # ten times the median of 0.5 and 1.5
    assert sink_positions(even).tolist() == []
    assert sink_positions(lengths[:, :1]).tolist() == []  # there is no other position
    assert sink_positions(np.empty((2, 0), np.float32)).tolist() == []


@pytest.mark.parametrize("seed", range(20))
def test_any_lengths_agree_with_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prompts = [
        np.exp(rng.normal(0, 2, size=(int(rng.integers(1, 6)), 1))).astype(np.float32)
        for _ in range(int(rng.integers(1, 5)))
    ]
    padded = np.full((len(prompts), 5), NAN, np.float32)
    for row, prompt in zip(padded, prompts, strict=True):
        row[: len(prompt)] = prompt[:, 0]
    assert sink_positions(padded).tolist() == slow_sinks(prompts)
    assert sink_positions(padded[::-1] * 8).tolist() == slow_sinks(prompts)


def test_cells_count_the_sinks_in_their_positions(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_reader, "READ_BYTES", 256)
    made = make_run(lengths=[12, 7, 20, 1, 3, 15], scale=with_sinks)
    assert slow_sinks(made.hidden["final"]) == [0, 2]
    cells = [
        Cell(n, L, first_position=k) for n in (1, 3, 6) for L in (1, 2, 4, 20) for k in (0, 1, 3)
    ]
    found = values(made, cells)
    for cell in cells:
        sinks = slow_sinks(made.hidden["final"][: cell.n_prompts])
        inside = [p for p in sinks if cell.first_position <= p < cell.prefix]
        assert found[cell, "n_sinks"] == len(inside), cell
        assert found[cell, "sink_end"] == max(sinks) + 1, cell


def test_rows_that_are_not_finite_have_no_length(make_run: MakeRun) -> None:
    def broken(rows: Array) -> Array:
        with_sinks(rows)
        rows[-1, 0] = np.inf
        return rows

    made = make_run(lengths=[20, 20, 20], scale=broken)
    whole, finite, later = Cell(3, 20), Cell(3, 19), Cell(3, 20, first_position=19)
    found = values(made, [whole, finite, later])
    assert (found[finite, "n_sinks"], found[finite, "sink_end"]) == (2, 3)
    assert all(np.isnan(found[cell, name]) for cell in (whole, later) for name in SINKS)


def test_the_table_has_both_without_an_error(make_run: MakeRun) -> None:
    made = make_run(scale=with_sinks)
    table = scan_metrics(made.root, metrics=SINKS, groups=3)
    found = table.filter(site="final").collect()
    assert found["unit"].unique().to_list() == ["positions"]
    assert found.filter(metric="n_sinks")["value"].to_list() == [1] + [2] * 9  # L = 2, 4, ... 20
    assert found.filter(metric="sink_end")["value"].unique().to_list() == [3]
    assert found["stderr"].null_count() == len(found)
    plain = make_run(model="plain")
    table = scan_metrics(made.root, metrics=SINKS).filter(run=plain.run_id)
    assert set(table.collect()["value"]) == {0.0}
