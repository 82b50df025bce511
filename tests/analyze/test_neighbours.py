"""Two-NN: distances against every pair, the estimate against known dimensions."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from polars.testing import assert_frame_equal
from scipy.spatial.distance import cdist

from lpp.analyze.cli.command import main
from lpp.analyze.metrics import neighbours
from lpp.analyze.metrics.neighbours import (
    NeighbourSamples,
    distinct,
    neighbour_distances,
    shuffled,
    two_nn,
)
from lpp.analyze.metrics.registry import chosen, unavailable
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.site_reader import SiteReader
from lpp.analyze.tables.metrics import scan_metrics
from lpp.store import open_store
from lpp.store.errors import ErrorKind, MachineError


@pytest.fixture
def rng() -> np.random.Generator:
    """Always the same."""
    return np.random.default_rng(11)


@pytest.mark.parametrize("dimension", [2, 5, 10])
def test_the_dimension_of_a_flat_sheet_in_many_columns(
    rng: np.random.Generator, dimension: int
) -> None:
    sheet = rng.uniform(size=(2000, dimension)) @ rng.normal(size=(dimension, 60)) + 40
    estimate = two_nn(sheet.astype(np.float32))
    # the edges of a cube pull it down, the more the higher the dimension
    assert 0.8 * dimension < estimate < 1.1 * dimension


def test_a_curved_line_has_one_dimension(rng: np.random.Generator) -> None:
    t = np.sort(rng.uniform(size=(1500, 1))) * 6
    curve = np.concatenate([np.cos(t), np.sin(t), t], axis=1).astype(np.float32)
    assert two_nn(curve) == pytest.approx(1, abs=0.08)
    assert two_nn(t.astype(np.float32)) == pytest.approx(1, abs=0.08)


def test_equals_the_fit_written_out(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(301, 7)).astype(np.float32)
    nearest = np.sort(cdist(rows.astype(np.float64), rows), axis=1)[:, 1:3]
    mu = np.sort(nearest[:, 1] / nearest[:, 0])[: int(301 * 0.9)]
    x, y = np.log(mu), -np.log(1 - np.arange(1, len(mu) + 1) / 301)
    assert two_nn(rows) == pytest.approx(x @ y / (x @ x), rel=1e-9)


def test_scaling_shifting_and_repeating_rows_change_nothing(rng: np.random.Generator) -> None:
    rows = rng.integers(-50, 50, size=(400, 6)).astype(np.float32)
    estimate = two_nn(rows)
    assert two_nn(np.concatenate([rows, rows[::-1], rows[:7]])) == pytest.approx(estimate)
    assert two_nn(4 * rows + 8) == pytest.approx(estimate)


def test_distances_beside_an_enormous_dimension_are_exact(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(1100, 5)).astype(np.float32)
    rows[:, 0] = np.where(np.arange(1100) % 7 == 0, 3e4, -2e4)
    expected = np.sort(cdist(rows.astype(np.float64), rows), axis=1)[:, 1:3]
    wide = rows.astype(np.float64)
    products = (wide**2).sum(1)[:, None] + (wide**2).sum(1) - 2 * wide @ wide.T
    np.fill_diagonal(products, np.inf)
    nearest = np.sqrt(np.sort(products, axis=1)[:, :2].clip(0))
    assert np.abs(nearest / expected - 1).max() > 1e-7  # what products alone would give
    np.testing.assert_allclose(neighbour_distances(rows), expected, rtol=1e-12)


def test_distances_are_those_of_every_pair(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(1100, 12)).astype(np.float32)
    expected = np.sort(cdist(rows.astype(np.float64), rows), axis=1)[:, 1:3]
    np.testing.assert_allclose(neighbour_distances(rows), expected, rtol=1e-12)


def test_degenerate_rows_have_no_dimension() -> None:
    assert np.isnan(two_nn(np.empty((0, 4), np.float32)))
    assert np.isnan(two_nn(np.ones((50, 4), np.float32)))
    assert np.isnan(two_nn(np.array([[0, 0], [0, 1], [0, 0]], np.float32)))
    assert np.isnan(two_nn(np.eye(9, dtype=np.float32)))  # all at one distance
    assert np.isnan(two_nn(np.full((9, 3), np.nan, np.float32)))
    assert distinct(np.array([[0.0], [-0.0], [2.0], [0.0]], np.float32)).tolist() == [[0], [2]]


def test_the_draw_is_known_and_even() -> None:
    tokens = np.arange(100_000) % 500
    keys = shuffled(np.arange(100_000) // 500, tokens)
    assert len(np.unique(keys)) == len(keys)
    # SplitMix64 of 0, as its authors publish it
    assert int(shuffled(np.zeros(1, np.int64), np.zeros(1, np.int64))[0]) == 0xE220A8397B1DCDAF
    first = tokens[np.argsort(keys)[:5000]]
    assert first.mean() == pytest.approx(249.5, abs=6)


def test_samples_are_rows_of_their_cell_and_the_same_beside_others(
    make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "MAX_ROWS", 25)
    made = make_run(lengths=[12, 7, 20, 20, 3, 15])
    run = open_store(made.root).runs[made.run_id]
    lengths = np.array([len(prompt) for prompt in made.prompts])
    reader = SiteReader(run, "block.1", lengths)

    def samples(cells: list[Cell]) -> dict[Cell, Any]:
        sample = NeighbourSamples(reader, cells)
        for _ in reader.read([6], sample):
            pass
        return dict(sample.values())

    cells = [Cell(n, prefix) for n in (1, 4, 6) for prefix in (2, 5, 13, 20)]
    together = samples([*cells, *cells[-1].parts(2)])
    assert list(together) == cells
    for cell, rows in together.items():
        every = made.rows("block.1", cell.prefix, cell.n_prompts)
        assert len(rows) == min(25, len(every))
        assert {row.tobytes() for row in rows} <= {row.tobytes() for row in every}
        np.testing.assert_array_equal(samples([cell])[cell], rows)
    made_again = make_run(lengths=[12, 7, 20, 20, 3, 15], context=13, root=made.root / "short")
    table = scan_metrics(made.root, metrics=["two_nn"], contexts=[13]).drop("run").collect()
    again = scan_metrics(made_again.root, metrics=["two_nn"]).drop("run").collect()
    # a shorter context draws what a capture at it would
    assert_frame_equal(table, again, rel_tol=1e-12)


def test_without_the_library_the_message_says_what_to_install(
    make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_run()
    for name in ("skdim", "skdim.id"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MachineError, match=r"pip install 'lpp-engine\[dimension\]'") as caught:
        scan_metrics(made.root, metrics=["two_nn", "anisotropy"]).collect()
    assert caught.value.kind is ErrorKind.NO_PACKAGE
    others = scan_metrics(made.root, metrics=["two_nn", "anisotropy"])
    assert others.filter(pl.col("metric") == "anisotropy").collect()["value"].null_count() == 0


def test_a_pattern_leaves_out_what_no_package_is_there_for(
    make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_run(sites=("final",))
    assert "two_nn" in {metric.name for metric in chosen(["*"])}
    assert unavailable(["all"]) == []
    monkeypatch.setitem(sys.modules, "skdim", None)
    (line,) = unavailable(["all"])
    assert line.startswith("two_nn: left out, skdim is not installed: pip install")
    assert unavailable(["two_nn", "*"]) == []  # by its name it is refused, not left out
    with pytest.warns(UserWarning, match="two_nn: left out"):
        scan = scan_metrics(made.root)
    assert "two_nn" not in scan.collect()["metric"]
    done = CliRunner().invoke(main, ["profile", str(made.root), "--metrics", "all"])
    assert done.exit_code == 0, done.output
    assert line in done.stderr
