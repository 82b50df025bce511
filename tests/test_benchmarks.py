"""The benchmarks run, once and untimed, so that they cannot rot; no figure is judged here."""

import shutil
from pathlib import Path

import pytest

from benchmarks import (
    analysis_cost,
    integrity_cost,
    jackknife_cost,
    moments_cost,
    pairs,
    paper_procedure,
    query_start,
    sensitivity_cost,
    storage,
)
from benchmarks.setting import capture, prepared
from lpp.store import Run, open_store


@pytest.fixture
def run(documented_store: Path, tmp_path: Path) -> Run:
    """A store to spoil, with its database."""
    root = tmp_path / "demo"
    shutil.copytree(documented_store, root)
    return next(iter(open_store(root).runs.values()))


@pytest.fixture(autouse=True)
def _once(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (
        analysis_cost,
        integrity_cost,
        jackknife_cost,
        query_start,
        sensitivity_cost,
        storage,
    ):
        monkeypatch.setattr(module, "REPEATS", 1)


def test_reading_analysing_and_querying(run: Run, tmp_path: Path) -> None:
    rows = [
        *storage.measure(run, tmp_path),
        *analysis_cost.measure(run),
        *query_start.measure(run.path.parent.parent),
        *sensitivity_cost.measure(run),
    ]
    assert len(rows) == 6
    assert all(row.ratio > 0 for row in rows)
    assert rows[0].ratio > 1.3  # bytes, not time: bfloat16 activations do compress


def test_moments_and_rows(tmp_path: Path) -> None:
    rows = list(moments_cost.measure(tmp_path, prompts=2, wide=32, repeats=1))
    assert len(rows) == 5
    assert all(row.ratio > 0 for row in rows)


def test_errors_and_declared_metrics(run: Run) -> None:
    rows = list(jackknife_cost.measure(run))
    assert len(rows) == 3
    assert all(row.ratio > 0 for row in rows)


def test_what_never_being_wrong_costs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrity_cost, "CAPTURES", 1)
    ready = prepared(2, context=10, sites=("final",), shard_bytes=1)
    rows = list(integrity_cost.measure(run, ready))
    assert len(rows) == 3
    assert all(row.ratio > 0 for row in rows)


def test_both_procedures_end_with_the_same_profile(tmp_path: Path) -> None:
    ready = prepared(2, context=40, sites=("final",), logit_positions="schedule")
    ours = paper_procedure.one_pass(ready, tmp_path / "store")
    theirs = paper_procedure.pass_for_each_prefix(ready)
    assert len(ours) == 10
    for mine, plain in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(plain, abs=0.02)  # bfloat16 rounds by the batch


def test_a_ratio_knows_its_bar() -> None:
    row = pairs.ratio_of_times("x", ([2.0, 3.0], [1.0, 2.0]), bar=2)
    assert (row.ratio, row.spread, row.reached) == (1.75, (1.5, 2.0), True)
    gain = pairs.ratio_of_times(
        "x", ([2.0, 3.0], [1.0, 2.0]), bar=2, direction="at least", inverted=True
    )
    assert gain.reached is False


def test_capture_of_everything_verifies(tmp_path: Path) -> None:
    assert capture(prepared(2, context=20), tmp_path / "store").verify() == []
