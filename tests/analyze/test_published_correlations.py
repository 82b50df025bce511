"""Correlations with the published profiles: the paper's numbers, and when its models take part."""

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from profiled_store import MODELS, profiled_store, put, run_of, score

from lpp.analyze import CorrelateSettings, correlate
from lpp.store.errors import InputError

PAPER_METRICS = ("entropy_floor", "effective_rank_norm", "participation_ratio_norm")
INTRINSIC = {
    "entropy_floor": "Min Entropy",
    "effective_rank_norm": "Max Rank",
    "participation_ratio_norm": "Max Participation",
}
NOMINAL = {"14B": 14, "8B": 8, "7B": 7, "3B": 3, "1.5B": 1.5, "0.5B": 0.5}


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., Path]:
    """`store(n)`: a store of the first n MODELS; `runs` and `profiles` alter rows by model."""
    return partial(profiled_store, tmp_path / "store")


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


@pytest.mark.slow
def test_the_published_reference_gives_the_same_when_asked(
    store: Callable[..., Path],
) -> None:
    """From the package's own table, without the files of the paper."""
    asked = CorrelateSettings(metrics=PAPER_METRICS, sources=("published",), with_published=True)
    found = correlate(store(1), asked).filter(method="pearson")
    assert len(found) == 15
    assert round(min(found["q_value"]), 2) == 0.12
    assert all("published" in flags for flags in found["flags"].to_list())
    assert all(len(models) == 8 for models in found["models"].to_list())


@pytest.mark.slow
def test_published_rows_take_no_part_unless_asked(store: Callable[..., Path]) -> None:
    root = store()
    score(root)
    for asked, n in ((CorrelateSettings(), 0), (CorrelateSettings(with_published=True), 8)):
        found = correlate(root, asked)
        names = {name for models in found["models"].to_list() for name in models}
        assert sum(name.startswith("published:") for name in names) == n
        assert ("published" in set(found["source"])) == bool(n)
    with pytest.raises(InputError, match="--with-published"):
        correlate(root, CorrelateSettings(sources=("published",)))


def test_the_published_are_left_out_of_another_site(store: Callable[..., Path]) -> None:
    root = store(profiles={m[0]: {"site": "block.1"} for m in MODELS})
    score(root)
    asked = CorrelateSettings(site="block.1", with_published=True, metrics=("entropy_floor",))
    found = correlate(root, asked)
    assert not any("published" in flags for flags in found["flags"].to_list())
    reason = "published:Qwen/Qwen2.5-7B-Instruct: published at final only, not block.1"
    assert all(reason in left_out for left_out in found["left_out"].to_list())


@pytest.mark.slow
@pytest.mark.parametrize(("context", "n_prompts"), [(100, 100), (150, 50), (150, 100)])
def test_the_published_at_another_setting_are_flagged(
    store: Callable[..., Path], context: int, n_prompts: int
) -> None:
    at = {"context": context, "n_prompts": n_prompts}
    root = store(profiles={m[0]: at for m in MODELS})
    score(root)
    asked = CorrelateSettings(with_published=True, metrics=("entropy_floor",))
    found = correlate(root, asked)
    other = (context, n_prompts) != (150, 100)
    for row in found.iter_rows(named=True):
        published = row["source"] == "published"
        assert ("different_settings" in row["flags"]) == (other and published)


def test_a_run_of_ones_own_stands_in_for_the_published(store: Callable[..., Path]) -> None:
    model = "Qwen/Qwen2.5-7B-Instruct"
    root = store(runs={"org/a": {"model": model}})
    found = correlate(root, CorrelateSettings(with_published=True, metrics=("entropy_floor",)))
    row = found.row(0, named=True)
    assert "a-0000" in row["models"]
    assert f"published:{model}" not in row["models"]
    assert f"published:{model}: a-0000 is of the same model" in row["left_out"]
    assert {"different_prompts", "published"} <= set(row["flags"])
