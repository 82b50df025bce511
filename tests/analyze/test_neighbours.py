"""Two-NN: distances against every pair, the estimate against known dimensions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from made_runs import MakeRun
from polars.testing import assert_frame_equal
from scipy.spatial.distance import cdist

from lpp.analyze.metrics.row_measures import neighbours
from lpp.analyze.metrics.row_measures.neighbour_search import NeighbourSearch
from lpp.analyze.metrics.row_measures.neighbours import (
    NeighbourSamples,
    first_equal,
    neighbour_distances,
    shuffled,
    two_nn,
)
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.rows.site_reader import SiteReader
from lpp.analyze.runs.rows.wide_block import Tiles
from lpp.analyze.tables.metrics import scan_metrics
from lpp.store import open_store

Array = npt.NDArray[np.float32]


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


# By scikit-dimension 0.4, TwoNN(discard_fraction=0.1, dist=True), on distances of cdist in float64.
ELSEWHERE = {
    "cube": 3.6840905728968556,
    "gauss": 7.013216152722707,
    "ring": 0.8953998947707847,
    "three": 1.0153628383444187,
    "eleven": 7.8736190658080245,
}


def test_equals_another_implementation() -> None:
    rng = np.random.default_rng(2026)
    cube, gauss = rng.uniform(size=(500, 4)), rng.normal(size=(301, 7))
    angle = rng.uniform(0, 6, size=400)
    sets = {
        "cube": cube,
        "gauss": gauss,
        "ring": np.column_stack([np.cos(angle), np.sin(angle)]),
        "three": np.array([[0, 0], [1, 0], [0, 3.0]]),
        "eleven": rng.normal(size=(11, 3)),
    }
    found = {name: two_nn(rows.astype(np.float32)) for name, rows in sets.items()}
    assert found == pytest.approx(ELSEWHERE, rel=1e-12)


def test_by_hand() -> None:
    # three corners of a triangle, sides 1, 3 and sqrt(10): mu = 3, sqrt(10) and sqrt(10) / 3; the
    # two least are fitted to -ln(1 - 1/3) and -ln(1 - 2/3)
    x = np.log([10**0.5 / 3, 3.0])
    y = np.log([1.5, 3.0])
    corners = np.array([[0, 0], [1, 0], [0, 3]], np.float32)
    assert two_nn(corners) == pytest.approx(x @ y / (x @ x), rel=1e-12)


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
    assert np.isnan(two_nn(np.zeros((3, 2), np.float32)))


def test_the_draw_is_known_and_even() -> None:
    tokens = np.arange(100_000) % 500
    keys = shuffled(np.arange(100_000) // 500, tokens)
    assert len(np.unique(keys)) == len(keys)
    # SplitMix64 of 0, as its authors publish it
    assert int(shuffled(np.zeros(1, np.int64), np.zeros(1, np.int64))[0]) == 0xE220A8397B1DCDAF
    first = tokens[np.argsort(keys)[:5000]]
    assert first.mean() == pytest.approx(249.5, abs=6)


def massive(rng: np.random.Generator, n: int, dim: int) -> Array:
    """Rows of some sinks, hundreds of times longer than the others, which share one direction."""
    rows = rng.normal(size=(n, dim)) * np.exp(-np.arange(dim) / 20)
    rows[::20] *= 300
    rows[:, 2] += 900
    return rows.astype(np.float32)


def shared(rng: np.random.Generator, n: int, dim: int) -> Array:
    """One enormous dimension in which rows form clusters: float32 products tell nothing."""
    rows = rng.normal(size=(n, dim)).astype(np.float32)
    rows[:, 0] = rng.choice([-9e4, 2e4, 4e5], size=n)
    return rows


def near_copies(rng: np.random.Generator, n: int, dim: int) -> Array:
    """Every row has copies that differ in the last digits."""
    rows = np.repeat(rng.normal(size=(n // 5 + 1, dim)), 5, axis=0)[:n].astype(np.float32)
    return rows * (1 + np.float32(2**-22) * rng.integers(-2, 3, size=rows.shape).astype(np.float32))


@pytest.mark.parametrize("make", [massive, shared, near_copies])
@pytest.mark.parametrize("dim", [3, 40])
def test_samples_that_share_rows_have_the_distances_of_every_pair(
    rng: np.random.Generator, make: Callable[..., Array], dim: int
) -> None:
    rows = make(rng, 400, dim)
    rows = rows[np.unique(first_equal(rows))]
    n = len(rows)
    search = NeighbourSearch(rows, 250)
    samples = [np.arange(50), np.arange(20, 270), np.arange(min(250, n)), np.arange(n - 250, n)]
    samples += [np.sort(rng.choice(n, size, replace=False)) for size in (250, 3, 249, 250)]
    for sample in samples:
        wide = rows[sample].astype(np.float64)
        expected = np.sort(cdist(wide, wide), axis=1)[:, 1:3]
        np.testing.assert_allclose(search.distances(sample), expected, rtol=1e-12)


@pytest.mark.parametrize("scale", [2.0**-70, 2.0**60])
def test_tiny_and_enormous_rows_have_neighbours_too(rng: np.random.Generator, scale: float) -> None:
    rows = (rng.normal(size=(60, 4)) * scale).astype(np.float32)
    wide = rows.astype(np.float64)
    expected = np.sort(cdist(wide, wide), axis=1)[:, 1:3]
    np.testing.assert_allclose(neighbour_distances(rows), expected, rtol=1e-12)


def test_samples_are_rows_of_their_cell_and_the_same_beside_others(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "MAX_ROWS", 25)
    made = make_run(lengths=[12, 7, 20, 20, 3, 15])
    run = open_store(made.root).runs[made.run_id]
    lengths = np.array([len(prompt) for prompt in made.prompts])
    reader = SiteReader(run, "block.1", lengths)

    def dimensions(cells: list[Cell]) -> dict[Cell, Any]:
        sample = NeighbourSamples(reader, cells)
        for _ in reader.read([6], Tiles([sample])):
            pass
        return dict(sample.values())

    cells = [Cell(n, prefix) for n in (1, 4, 6) for prefix in (2, 5, 13, 20)]
    together = dimensions([*cells, *cells[-1].parts(2)])
    assert set(together) == set(cells)
    for cell, found in together.items():
        prompts = made.hidden["block.1"][: cell.n_prompts]
        at = [(i, p) for i, rows in enumerate(prompts) for p in range(min(cell.prefix, len(rows)))]
        drawn = sorted(at, key=lambda token: int(shuffled(*np.array([token]).T)[0]))[:25]
        rows = np.stack([made.hidden["block.1"][i][p] for i, p in drawn])
        assert found == pytest.approx(two_nn(rows), rel=1e-12, nan_ok=True)
        assert dimensions([cell])[cell] == pytest.approx(found, rel=1e-12, nan_ok=True)
    made_again = make_run(lengths=[12, 7, 20, 20, 3, 15], context=13, root=made.root / "short")
    table = scan_metrics(made.root, metrics=["two_nn"], contexts=[13]).drop("run").collect()
    again = scan_metrics(made_again.root, metrics=["two_nn"]).drop("run").collect()
    # a shorter context draws what a capture at it would
    assert_frame_equal(table, again, rel_tol=1e-12)


def test_equal_rows_of_a_run_count_once(make_run: MakeRun) -> None:
    def repeated(rows: Any) -> Any:
        rows[1::3] = rows[0]
        return rows

    made = make_run(lengths=[20, 20], scale=repeated)
    table = scan_metrics(made.root, metrics=["two_nn"]).filter(site="final")
    for row in table.collect().iter_rows(named=True):
        rows = made.rows("final", row["prefix"])
        expected = two_nn(np.unique(rows, axis=0))
        value = float("nan") if row["value"] is None else row["value"]
        assert value == pytest.approx(expected, rel=1e-12, nan_ok=True)
