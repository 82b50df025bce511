"""An analysis of items in the database: its numbers, beside those of others."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from evaluated_items import EvaluatedRun, evaluated_run
from evaluated_items import write_items as add_items
from made_runs import MakeRun
from result_frames import check_frames, check_printed

import lpp.analyze
from lpp.analyze import ItemsSettings
from lpp.analyze.cli.command import main
from lpp.analyze.evaluations.analysis import item_flags, write_items
from lpp.analyze.evaluations.evaluated import evaluated_items
from lpp.analyze.evaluations.features import item_features
from lpp.analyze.evaluations.mistakes import QUESTION_TOKENS, confident_mistakes
from lpp.analyze.evaluations.pages.verdict import Q, verdict
from lpp.analyze.evaluations.tables import (
    ANALYSIS_KEY,
    ITEM_FEATURES,
    MEANING,
    ItemAnalysis,
)
from lpp.analyze.numerics.statistics.calibration import calibration, risk_coverage
from lpp.analyze.quantities.tables import frame_schema
from lpp.analyze.tables.build import build_database
from lpp.analyze.tables.database import read_table, refresh_database
from lpp.sql import connect, saved_query
from lpp.store.errors import FormatError
from lpp.store.format.tables import VOCABULARY_SCHEMA
from lpp.store.shared.vocabularies import add_vocabulary

SCHEMA = frame_schema(ITEM_FEATURES.columns)
TABLES = ("item_analyses", "item_features", "item_reliability", "item_risk")


@pytest.fixture
def written(make_run: MakeRun) -> EvaluatedRun:
    return evaluated_run(make_run, groups=("law", "art"))


@pytest.fixture
def found(written: EvaluatedRun) -> ItemAnalysis:
    return lpp.analyze.items(
        written.root, "tiny_task", settings=ItemsSettings(skip_first=1, seed=3)
    )


def counts(root: Path) -> list[int]:
    return [len(read_table(root, name)) for name in TABLES]


@pytest.mark.slow
def test_tables_hold_the_numbers_of_the_analysis(
    written: EvaluatedRun, found: ItemAnalysis
) -> None:
    assert write_items(written.root, found) == written.root / "profiles.duckdb"
    key: dict[str, Any] = {
        "source": "lm-eval tiny",
        "task": "tiny_task",
        "run": written.made.run_id,
    }
    key |= {"filter": "none", "skip_first": 1, "seed": 3}
    for name in TABLES:
        assert read_table(written.root, name).select(ANALYSIS_KEY).unique().to_dicts() == [key]
    (row,) = read_table(written.root, "item_analyses").to_dicts()
    n_right = sum(item["correct"] for item in written.rows)
    assert (row["n_right"], row["n_wrong"], row["accuracy"]) == (
        n_right,
        60 - n_right,
        n_right / 60,
    )
    assert row["accuracy_ci_low"] < row["accuracy"] < row["accuracy_ci_high"]
    assert (row["n_groups"], row["n_within"], row["n_left_out"]) == (2, 60, 0)
    some = evaluated_items(written.root, "tiny_task")
    shares, right = item_features(some)["chosen_share"], some.table["right"].to_numpy()
    expected, curve = calibration(shares, right, seed=3), risk_coverage(shares, right)
    assert row["ece"] == expected.ece
    assert (row["ece_ci_low"], row["ece_ci_high"]) == expected.interval
    assert (row["ece_calibrated"], row["ece_by_chance"]) == expected.calibrated
    assert (row["risk_by"], row["risk_area"], row["risk_best"]) == (
        *("chosen_share", curve.area, curve.best),
    )
    check_frames(found, written.root, beside={"item_mistakes"})
    check_printed(found, "item_features", "feature", "auroc")
    order = ["feature", "site"]
    kept = read_table(written.root, "item_features")
    assert kept.select(SCHEMA.names()).sort(order).equals(found.features_frame().sort(order))
    bins = read_table(written.root, "item_reliability").sort("bin").to_dicts()
    assert [(one["n"], one["confidence"], one["accuracy"]) for one in bins] == [
        (one.n, one.confidence, one.accuracy) for one in expected.reliability
    ]
    risk = read_table(written.root, "item_risk").sort("n_answered").to_dicts()
    assert [(one["n_answered"], one["risk"]) for one in risk] == list(curve.curve)
    assert risk[-1]["coverage"] == 1.0
    assert risk[-1]["risk"] == pytest.approx(1 - row["accuracy"])


@pytest.mark.slow
def test_the_same_is_replaced_whole_and_other_settings_stay(
    written: EvaluatedRun, found: ItemAnalysis
) -> None:
    write_items(written.root, found)
    before = counts(written.root)
    assert before[0] == 1
    other = {n: found.tables[n].with_columns(skip_first=pl.lit(0, pl.Int32)) for n in TABLES}
    write_items(written.root, replace(found, tables=other))
    assert counts(written.root) == [2 * n for n in before]
    fewer = {**found.tables, "item_features": found.features_frame().head(3)}
    write_items(written.root, replace(found, tables=fewer))
    assert counts(written.root) == [2, before[1] + 3, 2 * before[2], 2 * before[3]]
    kept = read_table(written.root, "item_features").filter(skip_first=1)
    assert set(kept["feature"]) == set(found.features_frame()["feature"][:3])


@pytest.mark.slow
def test_rows_go_with_their_run(make_run: MakeRun) -> None:
    first = evaluated_run(make_run, model="tiny/first", source="s1")
    second = evaluated_run(make_run, model="tiny/second", source="s2", seed=5)
    for one in (first, second):
        write_items(first.root, lpp.analyze.items(first.root, "tiny_task", run=one.made.run_id))
    assert set(read_table(first.root, "item_features")["run"]) == {
        first.made.run_id,
        second.made.run_id,
    }
    shutil.rmtree(first.root / "runs" / second.made.run_id)
    build_database(first.root)
    for name in TABLES:
        assert set(read_table(first.root, name)["run"]) == {first.made.run_id}, name


@pytest.mark.slow
def test_rows_go_when_their_items_are_scored_anew(
    written: EvaluatedRun, found: ItemAnalysis, caplog: pytest.LogCaptureFixture
) -> None:
    write_items(written.root, found)
    before = counts(written.root)
    rescored = [row | {"correct": not row["correct"]} for row in written.rows]
    of_another_task = [row | {"task": "another"} for row in rescored]
    add_items(written.root, [*reversed(written.rows), *of_another_task])
    assert refresh_database(written.root)
    assert counts(written.root) == before
    assert not caplog.records
    add_items(written.root, rescored)
    assert refresh_database(written.root)
    assert counts(written.root) == [0, 0, 0, 0]


@pytest.mark.slow
def test_an_evaluation_has_its_counts_and_the_items_that_were_set_aside(
    written: EvaluatedRun, found: ItemAnalysis
) -> None:
    aside = {"run": None, "correct": None, "chosen": None}
    rows = [row | (aside if row["item"] < 7 else {}) for row in written.rows]
    add_items(written.root, rows)
    write_items(written.root, found)
    right = [row["correct"] for row in rows if row["correct"] is not None]
    (kept,) = read_table(written.root, "evaluations").to_dicts()
    assert len(kept.pop("items")) == 16
    assert kept == {
        "source": "lm-eval tiny",
        "task": "tiny_task",
        "run": written.made.run_id,
        "filter": "none",
        "model": "m",
        "n_items": 60,
        "n_right": sum(right),
        "n_wrong": 53 - sum(right),
    }
    (path,) = written.root.glob("benchmarks/**/items.arrow")
    path.write_bytes(path.read_bytes()[::-1])
    before = {name: read_table(written.root, name) for name in ("evaluations", "item_features")}
    with pytest.raises(FormatError):
        refresh_database(written.root)
    for name, held in before.items():  # nothing says that these are outdated
        assert len(held)
        assert read_table(written.root, name).equals(held)


def test_flags_say_what_may_mislead(found: ItemAnalysis) -> None:
    enough = found.row | {"n_right": 40, "n_wrong": 40, "cluster": "scene", "n_clusters": 40}
    beside: dict[str, Any] = {"even_clusters": 30.0, "lossy": False, "uncut": False}
    assert list(item_flags(enough, **beside)) == []
    changes: dict[str, dict[str, Any]] = {
        "few_items": {"n_wrong": 29},
        "few_clusters": {"even_clusters": 29.9},
        "first_positions": {"skip_first": 0},
        "independent_items": {"cluster": "", "n_clusters": 0, "even_clusters": 0.0},
        "items_left_out": {"n_left_out": 1},
        "no_groups": {"n_groups": 0, "n_within": 0},
        "small_groups": {"n_within": 0},
        "lossy": {"lossy": True},
        "uncut_answers": {"uncut": True},
    }
    assert set(changes) == set(MEANING)
    for flag, change in changes.items():
        more = {name: change.get(name, value) for name, value in beside.items()}
        assert list(item_flags(enough | change, **more)) == [flag]


def features(
    *rows: tuple[str, str, float, float, float, float | None], gains: dict[str, tuple[float, float]]
) -> pl.DataFrame:
    """Name, role, AUROC, its interval and q of each; within groups the same moved up by 0.1. gains:
    gain and its p, by name.
    """
    columns: list[dict[str, Any]] = [
        {"feature": name, "role": role, "auroc": value, "ci_low": low, "ci_high": high}
        | {f"within_{end}": v + 0.1 for end, v in (("auroc", value), ("ci_low", low))}
        | {"within_ci_high": high + 0.1, "q_value": q, "site": ""}
        | dict(zip(("gain", "gain_p_value"), gains.get(name, (None, None)), strict=True))
        for name, role, value, low, high, q in rows
    ]
    return pl.DataFrame([dict.fromkeys(SCHEMA) | row for row in columns], schema=SCHEMA)


def test_a_feature_beats_the_baselines_by_a_paired_test_and_q() -> None:
    frame = features(
        ("length", "baseline", 0.42, 0.3, 0.5, 0.5),
        ("place", "baseline", 0.55, 0.5, 0.6, 0.5),
        ("sure", "statistic", 0.8, 0.7, 0.9, 0.001),
        ("below", "statistic", 0.3, 0.2, 0.41, 0.01),  # as far, the other way round
        ("wide", "statistic", 0.9, 0.59, 0.99, 0.01),
        ("lucky", "rows", 0.7, 0.6, 0.8, Q),
        ("gold", "gold", 0.99, 0.98, 1.0, None),
        gains={
            "sure": (0.22, 0.001),
            "below": (0.12, 0.02),
            "wide": (0.32, 0.2),  # its interval does not reach the baseline's point
            "lucky": (0.12, 0.01),
        },
    )
    found = verdict(frame, within=False)
    assert found.baseline is not None
    assert found.baseline["feature"] == "length"
    assert [row["feature"] for row in found.tested] == ["sure", "below", "wide", "lucky"]
    assert [row["feature"] for row in found.telling] == ["sure", "below", "wide"]
    assert [row["feature"] for row in found.beyond] == ["sure", "below"]
    assert found.best is not None
    assert (found.best["feature"], found.number(found.best)) == ("sure", (0.8, 0.7, 0.9))
    within = verdict(frame, within=True)
    assert within.baseline is not None
    assert within.baseline["feature"] == "place"
    assert within.best is not None
    assert within.best["feature"] == "sure"
    assert within.number(within.best) == pytest.approx((0.9, 0.8, 1.0))
    less = frame.with_columns(gain=-pl.col("gain"))
    assert verdict(less, within=False).beyond == ()
    none = verdict(frame.filter(pl.col("role") == "baseline"), within=False)
    assert (none.telling, none.beyond, none.best) == ((), (), None)
    assert verdict(frame.clear(), within=False).baseline is None


def test_mistakes_are_those_of_the_saved_query(
    written: EvaluatedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f" w{k}" for k in range(99)]
    rows = [range(99), [word.encode() for word in words], words]
    table = pa.table(rows, schema=VOCABULARY_SCHEMA)
    add_vocabulary(written.root, written.made.plan.tokenizer.fingerprint, table)
    build_database(written.root)
    found = confident_mistakes(evaluated_items(written.root, "tiny_task"))
    with connect(written.root) as connection:
        asked = connection.sql(saved_query("confident_mistakes").text).pl().to_dicts()
    assert found["item"].to_list() == [row["item"] for row in asked]
    assert len(found) == 10
    for one, row in zip(found.to_dicts(), asked, strict=True):
        assert (one["chosen_answer"], one["gold_answer"], one["item_group"]) == (
            *(row["chosen"], row["gold"], row["item_group"]),
        )
        assert row["question"].endswith(one["question"])  # the query's begins with the shots
        assert one["confidence"] == pytest.approx(row["confidence"], rel=1e-3)
        assert one["gold_share"] == pytest.approx(row["gold_share"], rel=1e-3)
        item = written.rows[one["item"]]
        start = written.before[item["prompt_ids"][item["chosen"]]]
        context = written.context[item["prompt_ids"][item["chosen"]]]
        assert len(one["question"].split()) == context - start <= QUESTION_TOKENS
    monkeypatch.setattr("lpp.analyze.evaluations.mistakes.QUESTION_TOKENS", 2)
    cut = confident_mistakes(evaluated_items(written.root, "tiny_task"))
    short, whole = ([text.split() for text in some["question"]] for some in (cut, found))
    assert short == [words[-2:] for words in whole]
    assert max(map(len, whole)) > 2


def test_a_single_answer_has_its_probability_and_no_gold(make_run: MakeRun) -> None:
    def one_answer(item: dict[str, Any]) -> dict[str, Any]:
        k = item["chosen"]
        kept = {key: [item[key][k]] for key in ("prompt_ids", "log_likelihoods", "greedy")}
        return item | kept | {"chosen": None, "gold": None}

    written = evaluated_run(make_run, changes=one_answer)
    found = confident_mistakes(evaluated_items(written.root, "tiny_task"), 3)
    wrong = [np.exp(row["log_likelihoods"][0]) for row in written.rows if not row["correct"]]
    assert found["confidence"].to_list() == pytest.approx(sorted(wrong)[:-4:-1])
    assert {*found.select("gold_answer", "gold_share").rows()} == {(None, None)}
    assert found["question"][0].startswith("<")  # ids: the store has no vocabulary


# the command


def invoke(root: Path, *words: str) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(main, ["items", str(root), *words])


def test_the_command_keeps_its_analysis(written: EvaluatedRun) -> None:
    done = invoke(written.root, "--task", "tiny_task", "--sites", "final")
    assert done.exit_code == 0, done.output
    assert read_table(written.root, "item_analyses")["skip_first"].to_list() == [0]
    assert set(read_table(written.root, "item_features")["site"]) == {"", "final"}


@pytest.mark.slow
def test_a_database_that_cannot_be_written_costs_a_line(written: EvaluatedRun) -> None:
    build_database(written.root)
    with connect(written.root, write=True):
        done = invoke(written.root, "--task", "tiny_task")
    assert done.exit_code == 0
    assert ": 30 of 60 items of tiny_task are right" in done.stdout
    assert "profiles.duckdb" in done.stderr
    assert counts(written.root) == [0, 0, 0, 0]
