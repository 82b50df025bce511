"""Metrics that need rows, streamed from a store, against plain code on the rows that went in."""

import itertools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from made_runs import Made, MakeRun

from lpp.analyze.engine.cache import Cache
from lpp.analyze.engine.estimates import Request, SiteRequest
from lpp.analyze.engine.executor import LOCAL
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.metrics.row_measures.anisotropy import mean_pairwise_cosine
from lpp.analyze.metrics.row_measures.neighbours import two_nn
from lpp.analyze.metrics.row_measures.prompt_parts import Parts
from lpp.analyze.metrics.row_measures.prompt_ranks import PromptRanks, prompt_entropy
from lpp.analyze.metrics.row_measures.trajectory import curvature
from lpp.analyze.metrics.rows import ROW_METRICS
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.keys import views
from lpp.analyze.runs.rows import site_reader
from lpp.analyze.runs.rows.wide_block import WideBlock
from lpp.analyze.tables.metrics import scan_metrics

Array = npt.NDArray[np.float32]


def slow_cosine(rows: Array) -> float:
    """Every pair, one at a time."""
    held = [row.astype(np.float64) for row in rows if row.any()]
    found = [
        a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in itertools.combinations(held, 2)
    ]
    return float(np.mean(found)) if found else float("nan")


def slow_curvature(prompts: list[Array]) -> float:
    """Every angle, one at a time; the mean of the prompts' means."""
    means = []
    for rows in prompts:
        angles = []
        for a, b, c in zip(rows, rows[1:], rows[2:], strict=False):
            v, w = (b - a).astype(np.float64), (c - b).astype(np.float64)
            if v.any() and w.any():
                cosine = v @ w / np.linalg.norm(v) / np.linalg.norm(w)
                angles.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
        if angles:
            means.append(np.mean(angles))
    return float(np.mean(means)) if means else float("nan")


def slow_prompt_erank(prompts: list[Array]) -> float:
    """As the authors' definition reads, by an SVD, prompt by prompt."""
    entropies = []
    for rows in prompts:
        centred = rows.astype(np.float64) - rows.astype(np.float64).mean(axis=0)
        if not np.abs(centred).max(initial=0.0) > 1e-9:
            continue
        lengths = np.linalg.norm(centred, axis=1, keepdims=True)
        z = np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 0)
        share = np.linalg.svd(z, compute_uv=False) ** 2
        share = share[share > 1e-300] / share.sum()
        entropies.append(-(share * np.log(share)).sum())
    return float(np.exp(np.mean(entropies))) if entropies else float("nan")


def slow_robust(rows: Array) -> tuple[float, float]:
    """PR and ER of the clipped rows by an SVD."""
    x = rows.astype(np.float64)
    x = x - x.mean(axis=0)
    deviation = x.std(axis=0, ddof=1) if len(x) > 1 else np.zeros(x.shape[1])
    for column in np.argsort(-(deviation**2), kind="stable")[:5]:
        x[:, column] = np.clip(x[:, column], -3 * deviation[column], 3 * deviation[column])
    values = np.linalg.svd(x, compute_uv=False) ** 2
    if values.sum() < 1e-20:
        return 0.0, 0.0
    share = values[values > 0] / values.sum()
    return float(1 / (share**2).sum()), float(np.exp(-(share * np.log(share)).sum()))


def outliers(rows: Array) -> Array:
    """Two columns enormous, one of them heavy-tailed, one row far away: clipping does much."""
    rows[:, 2] *= 500
    rows[:, 4] = 300 * rows[:, 4] ** 3
    rows[0] *= 40
    return rows


CASES: dict[str, dict[str, Any]] = {
    "more rows than columns": {"dim": 6},
    "fewer rows than columns": {"dim": 90},
    "fewer columns than are clipped": {"dim": 3},
    "one column": {"dim": 1},
    "outliers": {"dim": 8, "scale": outliers, "lengths": [20] * 12},
    "one prompt": {"lengths": [17], "dim": 5},
    "short prompts": {"lengths": [1, 2, 20, 1, 3]},
    "equal rows": {"scale": lambda rows: np.full_like(rows, 0.1)},
    "zero matrix": {"scale": np.zeros_like},
    "enormous mean": {"scale": lambda rows: rows + np.float32(3e4)},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_streamed_values_are_those_of_the_rows(
    make_run: MakeRun, case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_reader, "READ_BYTES", 256)  # blocks end anywhere, inside prompts too
    made = make_run(**case)
    count = len(made.prompts)
    sizes = sorted({1, (count + 1) // 2, count})
    names = ["anisotropy", "curvature", "prompt_erank", "robust_*"]
    table = scan_metrics(made.root, metrics=names, contexts=[7, 20], prompts=sizes)
    found = table.filter(pl.col("site").is_in(["block.1", "final"])).collect()
    assert len(found) == 2 * 17 * len(sizes) * 7
    for row in found.iter_rows(named=True):
        prefix, n_prompts, name = row["prefix"], row["n_prompts"], row["metric"]
        rows = made.rows(row["site"], prefix, n_prompts)
        prompts = [one[:prefix] for one in made.hidden[row["site"]][:n_prompts]]
        match name:
            case "anisotropy":
                expected = slow_cosine(rows)
            case "curvature":
                expected = slow_curvature(prompts)
            case "prompt_erank":
                expected = slow_prompt_erank(prompts)
            case _:
                ratio, rank = slow_robust(rows)
                expected = ratio if "participation_ratio" in name else rank
                expected /= min(rows.shape) if name.endswith("_norm") else 1
        value = float("nan") if row["value"] is None else row["value"]
        # an angle near 0 or 180 degrees has half the digits of its cosine
        assert value == pytest.approx(expected, rel=1e-6, abs=1e-5, nan_ok=True), row


@pytest.mark.parametrize("dim", [6, 90])
@pytest.mark.parametrize("first", [1, 4])
def test_first_positions_are_left_out(
    make_run: MakeRun, first: int, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_reader, "READ_BYTES", 256)
    made = make_run(dim=dim)
    (view,) = views(made.root)
    cells = [
        Cell(n, prefix, first_position=k) for n in (4, 6) for prefix in (4, 20) for k in (0, first)
    ]
    names = ("anisotropy", "curvature", "prompt_erank", "robust_participation_ratio", "two_nn")
    request = Request(metrics=[METRICS[name] for name in names])
    work = SiteRequest(view, Cache(made.root, view.run), "final", cells, request)
    estimates = next(LOCAL.estimates([work]))
    found = {key: float("nan") if e.value is None else e.value for key, e in estimates.items()}
    for cell in cells:
        prompts = [
            one[cell.first_position : cell.prefix] for one in made.hidden["final"][: cell.n_prompts]
        ]
        together = np.concatenate(prompts)
        expected = {
            "anisotropy": slow_cosine(together),
            "curvature": slow_curvature(prompts),
            "prompt_erank": slow_prompt_erank([one for one in prompts if len(one)]),
            "robust_participation_ratio": slow_robust(together)[0] if len(together) else 0.0,
            "two_nn": two_nn(together),
        }
        for name, value in expected.items():
            assert found[cell, name] == pytest.approx(value, rel=1e-6, nan_ok=True), (cell, name)


def leave_out(made: Made, site: str, prefix: int, groups: int) -> Iterator[list[Array]]:
    """The prompts without each group, cut to the prefix."""
    prompts = [one[:prefix] for one in made.hidden[site]]
    for part in Cell(len(prompts), prefix).parts(groups):
        ((first, end),) = part.excluded
        yield prompts[:first] + prompts[end:]


@pytest.mark.parametrize(
    ("name", "slow"),
    [
        ("anisotropy", lambda prompts: slow_cosine(np.concatenate(prompts))),
        ("curvature", slow_curvature),
        ("prompt_erank", slow_prompt_erank),
    ],
)
def test_errors_are_those_of_leaving_groups_out(
    make_run: MakeRun, name: str, slow: Callable[[list[Array]], float]
) -> None:
    made = make_run(lengths=[12, 7, 20, 20, 3, 15, 9])
    table = scan_metrics(made.root, metrics=[name], groups=3).filter(site="final").collect()
    for row in table.iter_rows(named=True):
        parts = [slow(prompts) for prompts in leave_out(made, "final", row["prefix"], 3)]
        stderr = np.sqrt(2 / 3 * np.square(np.array(parts) - np.mean(parts)).sum())
        if np.isfinite(stderr):
            assert row["stderr"] == pytest.approx(stderr, rel=1e-6, abs=1e-9), row
        else:
            assert row["stderr"] is None


def test_metrics_without_an_error_say_why(make_run: MakeRun) -> None:
    made = make_run()
    without = {metric.name for metric in ROW_METRICS if metric.no_error}
    robust = {m.name for m in ROW_METRICS if m.name.startswith("robust_")}
    assert without == {"two_nn", "n_sinks", "sink_end", *robust}
    table = scan_metrics(made.root, metrics=["robust_effective_rank"], groups=3).collect()
    assert table["value"].null_count() == 0
    assert table["stderr"].null_count() == len(table)


def test_clipping_by_hand(make_run: MakeRun) -> None:
    """One row of 100 is 100 in the second column, which is 0 elsewhere: mean 1, deviation 10."""
    rows = np.zeros((100, 2), np.float32)
    rows[:, 0] = [1, -1] * 50
    rows[0, 1] = 100
    made = make_run(lengths=[100], context=100, dim=2, scale=lambda _: rows)
    table = scan_metrics(made.root, metrics=["robust_participation_ratio"])
    (value,) = table.filter(site="final", prefix=100).collect()["value"]
    # 99 is clipped to 30: squares 100 and 30^2 + 99, products 30 + 1
    assert value == pytest.approx((100 + 999) ** 2 / (100**2 + 999**2 + 2 * 31**2), rel=1e-12)


def test_hand_values() -> None:
    corner = np.array([[0, 0], [2, 0], [2, 1], [2, 3]], dtype=np.float32)
    assert curvature(corner) == pytest.approx(45.0)  # 90 degrees, then 0
    back = np.array([[0.0], [1.0], [0.0]], dtype=np.float32)
    assert curvature(back) == pytest.approx(180.0)
    assert np.isnan(curvature(corner[:2]))
    assert np.isnan(curvature(np.ones((5, 3), np.float32)))
    assert mean_pairwise_cosine(np.array([[1, 0], [-3, 0]], np.float32)) == pytest.approx(-1)
    assert mean_pairwise_cosine(np.full((9, 4), 7, np.float32)) == pytest.approx(1)
    assert np.isnan(mean_pairwise_cosine(np.array([[1, 0], [0, 0]], np.float32)))
    simplex = np.eye(5, dtype=np.float32) - np.float32(0.2)
    assert mean_pairwise_cosine(simplex) == pytest.approx(-1 / 4, abs=1e-7)  # the smallest there is
    # three rows at the corners of a triangle: two directions of equal weight
    triangle = np.array([[1, 0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]], np.float32)
    assert np.exp(prompt_entropy(triangle)) == pytest.approx(2)
    assert np.exp(prompt_entropy(np.array([[1, 1], [2, 2]], np.float32))) == pytest.approx(1)
    assert np.isnan(prompt_entropy(np.ones((3, 2), np.float32)))


def with_sinks(rows: Array) -> Array:
    """The first two rows are two hundred times as long as the others."""
    rows[:2] *= 200
    return rows


def with_copies(rows: Array) -> Array:
    """Rows 5 to 9 are equal, and the mean of rows 10 to 12 is row 11."""
    rows[5:10] = rows[5]
    rows[10:13] = np.array([[1], [2], [3]]) * np.ones_like(rows[0])
    return rows


@pytest.mark.parametrize("dim", [7, 60])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda rows: rows, id="plain"),
        pytest.param(with_sinks, id="sinks"),
        pytest.param(with_copies, id="copies"),
        pytest.param(lambda rows: rows + np.float32(1e5), id="enormous mean"),
        pytest.param(lambda rows: rows * np.float32(1e-20), id="tiny"),
        pytest.param(lambda rows: np.where(rows > 3, np.float32(np.nan), rows), id="not finite"),
    ],
)
def test_one_product_serves_every_range_of_positions(
    rng: np.random.Generator, change: Callable[[Array], Array], dim: int
) -> None:
    rows = change(rng.normal(size=(40, dim)).astype(np.float32).cumsum(axis=0, dtype=np.float32))
    edges = itertools.combinations((0, 1, 2, 5, 7, 10, 13, 30, 40, 50), 2)
    cells = [Cell(1, end, first_position=first) for first, end in edges]
    reader: Any = SimpleNamespace(lengths=np.array([40]), width=dim)
    ranks = PromptRanks(reader, cells)
    for part in (slice(0, 11), slice(11, 40)):
        position = np.arange(40, dtype=np.int32)[part]
        ranks.add(WideBlock(rows[part], np.zeros_like(position), position))
    for cell, found in ranks.values():
        some = rows[cell.first_position : cell.prefix]
        differ = len(some) > 1 and bool((some != some[0]).any())
        expected = np.exp(prompt_entropy(some)) if differ else np.nan
        assert found == pytest.approx(expected, rel=1e-10, nan_ok=True), cell


def test_rotations_lengths_and_shifts_change_what_they_must(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(40, 12)).astype(np.float32) + np.float32(0.5)
    turn = np.linalg.qr(rng.normal(size=(12, 12)))[0].astype(np.float32)
    lengths = rng.uniform(0.5, 3, size=(40, 1)).astype(np.float32)
    assert mean_pairwise_cosine(rows @ turn * lengths) == pytest.approx(
        mean_pairwise_cosine(rows), abs=1e-6
    )
    moved = 3 * rows @ turn + np.float32(2)
    assert curvature(moved) == pytest.approx(curvature(rows), rel=1e-4)
    assert prompt_entropy(moved) == pytest.approx(prompt_entropy(rows), rel=1e-5)
    assert mean_pairwise_cosine(moved) > 2 * mean_pairwise_cosine(rows)
    walk = rng.normal(size=(2000, 400)).astype(np.float32)
    assert curvature(walk) == pytest.approx(120, abs=1)  # independent states share a step
    assert curvature(walk.cumsum(axis=0)) == pytest.approx(90, abs=1)  # independent steps do not


def test_rows_that_are_not_finite_have_no_number_and_spoil_no_other(
    make_run: MakeRun,
) -> None:
    def broken(rows: Array) -> Array:
        rows[-1, 0] = np.inf  # the last position of each prompt
        return rows

    names = [m.name for m in ROW_METRICS if m.name not in {"diff_erank"}]
    whole = make_run(lengths=[20, 20, 20])
    clean = scan_metrics(whole.root, metrics=names).filter(site="final").drop("run").collect()
    made = make_run(lengths=[20, 20, 20], scale=broken, model="broken")
    found = scan_metrics(made.root, metrics=names).filter(run=made.run_id, site="final").collect()
    again = scan_metrics(made.root, metrics=names).filter(run=made.run_id, site="final").collect()
    assert found.equals(again)  # what is kept says NaN too
    clean = clean.filter(pl.col("prefix") < 20)
    for row in found.iter_rows(named=True):
        if row["prefix"] == 20:
            assert row["value"] is None, row
    kept = found.filter(pl.col("prefix") < 20)["value"].to_numpy()
    np.testing.assert_allclose(kept, clean["value"].to_numpy(), rtol=1e-9)


def test_parts_make_up_every_cell() -> None:
    whole = Cell(n_prompts=7, prefix=6)
    cells = [whole, Cell(3, 2), Cell(3, 6), *whole.parts(3), *Cell(7, 2).parts(2)]
    cells += [Cell(7, 6, first_position=1), *Cell(5, 6, first_position=4).parts(2)]
    parts = Parts(cells)
    prompt, position = (part.ravel().astype(np.int32) for part in np.indices((9, 8)))
    part = parts.of(prompt, position)
    for cell in cells:
        ((first, end),) = cell.excluded or ((0, 0),)
        inside = (prompt < cell.n_prompts) & (position < cell.prefix)
        inside &= position >= cell.first_position
        inside &= (prompt < first) | (prompt >= end)
        np.testing.assert_array_equal(np.append(parts.inside(cell), False)[part], inside)


@pytest.fixture
def rng() -> np.random.Generator:
    """Always the same."""
    return np.random.default_rng(5)
