"""Correlations of the published profiles: the paper's numbers."""

import csv
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from profiled_store import put, run_of, score

from lpp.analyze import CorrelateSettings, correlate

PAPER_METRICS = ("entropy_floor", "effective_rank_norm", "participation_ratio_norm")
INTRINSIC = {
    "entropy_floor": "Min Entropy",
    "effective_rank_norm": "Max Rank",
    "participation_ratio_norm": "Max Participation",
}
NOMINAL = {"14B": 14, "8B": 8, "7B": 7, "3B": 3, "1.5B": 1.5, "0.5B": 0.5}


@pytest.fixture
def published_store(tmp_path: Path, paper: Path) -> Path:
    """The published profiles as runs, and the joined table as a source of scores."""
    with (paper / "final_data.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    runs = [
        {
            "run": run_of(r["Model"]),
            "model": r["Model"],
            "n_parameters": int(1e9 * NOMINAL[r["Model"].split("-")[1]]),
        }
        for r in rows
    ]
    profiles = [
        {
            "run": run_of(r["Model"]),
            "entropy_floor": float(r["Entropy"]),
            "participation_ratio_norm": float(r["Participation Ratio"]),
            "effective_rank_norm": float(r["Effective Rank"]),
        }
        for r in rows
    ]
    root = put(tmp_path / "store", runs, profiles)
    names = ("Model", "IFEval", "BBH", "MMLU-PRO", "SPC", "AR")
    score(root, "final", **{name: [r[name] for r in rows] for name in names})
    return root


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def at(found: pl.DataFrame, method: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows of one method by (the paper's name of the metric, benchmark)."""
    rows = found.filter(method=method).iter_rows(named=True)
    return {(INTRINSIC[r["profile_metric"]], r["benchmark"]): r for r in rows}


@pytest.mark.slow
def test_the_published_correlations(published_store: Path, paper: Path) -> None:
    found = at(correlate(published_store, CorrelateSettings(metrics=PAPER_METRICS)), "pearson")
    assert len(found) == 15
    published = rows_of(paper / "lpp1_res.csv") + rows_of(paper / "lpp3_res.csv")
    assert len(published) == 15
    for row in published:
        ours = found[row["intrinsic"], row["extrinsic"]]
        assert ours["n_models"] == 8
        assert ours["coefficient"] == pytest.approx(float(row["correlation"]), abs=1e-7)
        assert ours["p_value"] == pytest.approx(float(row["pvalue"]), abs=1e-7)
    for name, column in (("corr_matrix_used", "coefficient"), ("pval_matrix_used", "p_value")):
        for row in rows_of(paper / f"{name}.csv"):
            for benchmark in ("BBH", "IFEval", "MMLU-PRO"):
                ours = found[row["intrinsic"], benchmark]
                assert ours[column] == pytest.approx(float(row[benchmark]), abs=1e-7)


@pytest.mark.slow
def test_none_of_the_fifteen_survives_correction(published_store: Path) -> None:
    found = correlate(published_store, CorrelateSettings(metrics=PAPER_METRICS)).filter(
        method="pearson"
    )
    assert set(found["family_size"]) == {15}
    assert sum(found["p_value"] < 0.05) == 4
    assert round(min(found["q_value"]), 2) == 0.12


@pytest.mark.slow
def test_size_turns_the_sign_of_entropy_and_bbh(published_store: Path) -> None:
    asked = CorrelateSettings(metrics=("entropy_floor",), benchmarks=("BBH",))
    found = {r["method"]: r for r in correlate(published_store, asked).iter_rows(named=True)}
    assert found["pearson"]["coefficient"] == pytest.approx(-0.753, abs=1e-3)
    assert found["spearman"]["coefficient"] == pytest.approx(-0.619, abs=1e-3)
    assert found["rank_partial"]["coefficient"] == pytest.approx(0.42, abs=0.005)
    assert found["rank_partial"]["p_value"] > 0.3
    assert found["rank_partial"]["controlled_for"] == "n_parameters"
    assert all("sign_turns" in row["flags"] for row in found.values())
