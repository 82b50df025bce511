"""What each saved query answers, on a store as the demo leaves it and on values by hand."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from saved_answers import answer, digits

from lpp.analyze import scan_tokens
from lpp.analyze.metrics.tokens import TOKEN_EXPRESSIONS
from lpp.analyze.quantities.correlations import MEANING as OF_CORRELATIONS
from lpp.analyze.quantities.flags import MEANING
from lpp.sql import arrow_schema, build, connect
from lpp.store import open_store

Make = Callable[..., None]
Row = Mapping[str, Any]


@pytest.fixture
def make(empty_store: Path, rows: Callable[[str, int], list[dict[str, Any]]]) -> Make:
    """Called with rows by table, each the columns that matter; distinct values fill the others."""

    def build_store(**tables: Sequence[Row]) -> None:
        made = {}
        for name, some in tables.items():
            full = [{**a, **b} for a, b in zip(rows(name, len(some)), some, strict=True)]
            made[name] = pa.Table.from_pylist(full, schema=arrow_schema(name))
        build(empty_store, made)

    return build_store


def test_profiles_are_those_of_the_table(documented_store: Path) -> None:
    found = answer(documented_store, "profiles")
    with connect(documented_store) as connection:
        profiles = pl.DataFrame(connection.sql("FROM profiles").to_arrow_table()).to_dicts()
    assert len(found) == 3 * len(profiles) == 9
    for row in found:
        (profile,) = (p for p in profiles if p["run"] == row["run"])
        metric = row["metric"]
        assert row["value"] == digits(profile[metric])
        assert row["ci_low"] == digits(profile[f"{metric}_ci_low"])
        assert row["ci_high"] == digits(profile[f"{metric}_ci_high"])
        assert row["prefix"] == profile[f"{metric}_prefix"]
        assert row["flags"] == profile["flags"]


def test_profiles_without_errors_are_listed(make: Make, empty_store: Path) -> None:
    make(profiles=[{"effective_rank_ci_low": None, "effective_rank_ci_high": None}])
    found = {row["metric"]: row for row in answer(empty_store, "profiles")}
    assert len(found) == 3
    assert found["effective_rank"]["ci_low"] is None


def parts(metric: str, values: Sequence[float], **key: Any) -> list[dict[str, Any]]:
    """Rows of `jackknife`: `metric` without each group of prompts."""
    key = {"metric": metric, "prefix": 20, "first_position": 0, "student_t": 2.0, **key}
    key = {"cluster": None, **key}
    return [{**key, "prompt_group": g, "value": value} for g, value in enumerate(values)]


FLAG = "different_prefixes"


def test_differences_by_hand(make: Make, empty_store: Path) -> None:
    key = {"context": 100, "n_prompts": 9, "site": "final", "first_position": 0}
    names = ("effective_rank", "participation_ratio", "entropy_floor")
    prefixes = {f"{name}_prefix": 20 for name in names}
    numbers: list[Row] = [
        {"effective_rank": 10, "participation_ratio": 9, "entropy_floor": None},
        {"effective_rank": 4, "participation_ratio": 4, "entropy_floor": 0.5},
        {"effective_rank": 7, "participation_ratio": 7, "entropy_floor": 0.5},
    ]
    flags = [["template", "normaliser"], ["normaliser"], []]
    runs = [
        {**key, **prefixes, **row, "run": run, "flags": some, "prompt_set": "one"}
        for run, row, some in zip("abd", numbers, flags, strict=True)
    ]
    runs[2]["effective_rank_prefix"] = 40
    of = [{**key, "run": run} for run in "abd"]
    make(
        profiles=[*runs, {**runs[0], "run": "c", "prompt_set": "other"}],
        jackknife=[
            # both move alike, so the difference is sure: d is 6, 8, 7, mean 7
            *parts("effective_rank", [10, 20, 30], **of[0]),
            *parts("effective_rank", [4, 12, 23], **of[1]),
            *parts("effective_rank", [6, 6], **of[2]),  # of other groups
            *parts("participation_ratio", [9, 11, 7], **of[0]),
            *parts("participation_ratio", [4, 2, 6], **of[1]),
            *parts("participation_ratio", [4, 2, 6], **of[1], prefix=40),  # not of the profile
        ],
        spectra=[{**of[2], "prefix": 20, "effective_rank": 6}, {**of[2], "prefix": 40}],
    )
    every = answer(empty_store, "differences")
    assert {(row["run_a"], row["run_b"]) for row in every} == {("a", "b"), ("a", "d"), ("b", "d")}
    found = {row["metric"]: row for row in every if row["run_b"] == "b"}
    rank, ratio = found["effective_rank"], found["participation_ratio"]
    half = 2 * math.sqrt(2 / 3 * 2)  # sqrt((G - 1) / G (1 + 1 + 0))
    assert (rank["value_a"], rank["value_b"], rank["difference"]) == (10, 4, -6)
    assert rank["difference_ci_low"] == digits(-6 - half)
    assert rank["verdict"] == "differs from 0"
    half = 2 * math.sqrt(2 / 3 * (4**2 + 4**2))  # d is -5, -9, -1
    assert (ratio["difference"], ratio["difference_ci_low"]) == (-5, digits(-5 - half))
    assert ratio["verdict"] == "may be 0"
    assert rank["flags"] == ["normaliser", "template"]
    assert found["entropy_floor"]["verdict"] == "missing value"
    pair = ("a", "d", "effective_rank")
    (other,) = (row for row in every if (row["run_a"], row["run_b"], row["metric"]) == pair)
    assert (other["verdict"], other["difference_ci_low"]) == ("no interval", None)
    # at the prefix of a, where d has another value than its extreme, 7
    assert (other["prefix"], other["value_b"], other["difference"]) == (20, 6, -4)
    assert (other["extreme_b"], other["extreme_b_prefix"]) == (7, 40)
    pair = ("b", "d", "effective_rank")
    (last,) = (row for row in every if (row["run_a"], row["run_b"], row["metric"]) == pair)
    assert (last["difference"], last["verdict"]) == (2, "no interval")
    of_names = (row for row in every if row["metric"] in names and FLAG in row["flags"])
    apart = [(row["run_a"], row["run_b"], row["metric"]) for row in of_names]
    assert apart == [("a", "d", "effective_rank"), ("b", "d", "effective_rank")]
    assert other["flags"] == [FLAG, "normaliser", "template"]


def test_entropy_has_each_prefix_once(make: Make, empty_store: Path) -> None:
    at = {"run": "r", "n_prompts": 4, "entropy_norm_stderr": 0.0312}
    make(
        entropy=[
            {**at, "context": 100, "prefix": 100, "entropy_norm": 0.25, "short_prompts": 2},
            {**at, "context": 200, "prefix": 100, "entropy_norm": 0.25, "short_prompts": 2},
            {**at, "context": 200, "prefix": 200, "entropy_norm": 0.12344, "short_prompts": 3},
        ]
    )
    found = answer(empty_store, "entropy")
    assert [(row["prefix"], row["entropy"], row["short"]) for row in found] == [
        (100, 0.25, 2),
        (200, 0.1234, 3),
    ]
    assert {row["stderr"] for row in found} == {0.031}


def test_an_error_of_entropy_is_that_of_its_row(make: Make, empty_store: Path) -> None:
    at = {"run": "r", "n_prompts": 4, "entropy_norm": 0.25, "prefix": 100}
    make(
        entropy=[
            {**at, "context": 100, "entropy_norm_stderr": 0.03, "cluster": "doc"},
            {**at, "context": 200, "entropy_norm_stderr": 0.02, "cluster": None},
            {**at, "context": 300, "entropy_norm_stderr": None, "cluster": None},
        ]
    )
    (row,) = answer(empty_store, "entropy")
    assert (row["stderr"], row["cluster"]) == (0.02, None)


def test_training_is_by_series_metric_and_step(make: Make, empty_store: Path) -> None:
    steps = {"a": 1000, "b": 0, "c": 20}
    at = {"context": 200, "n_prompts": 5, "first_position": 0, "prompt_set": "p", "flags": ["sink"]}
    make(
        runs=[
            *({"run": run, "series": "ours", "step": step} for run, step in steps.items()),
            {"run": "d", "series": None, "step": None},
        ],
        profiles=[
            {**at, "run": run, "effective_rank": 10.00001 + k, "effective_rank_stderr": 0.1234}
            for k, run in enumerate("abcd")
        ],
    )
    found = answer(empty_store, "training")
    metrics = sorted({row["metric"] for row in found})
    assert metrics == [
        *("effective_rank", "entropy_floor", "participation_ratio"),
    ]
    assert [(row["metric"], row["step"], row["run"]) for row in found] == [
        (metric, steps[run], run) for metric in metrics for run in "bca"
    ]
    ranks = [row for row in found if row["metric"] == "effective_rank"]
    assert [(row["value"], row["stderr"]) for row in ranks] == [(11, 0.12), (12, 0.12), (10, 0.12)]
    assert {(row["series"], row["prompts"], row["flags"][0]) for row in found} == {
        ("ours", 5, "sink")
    }


@pytest.mark.slow
@pytest.mark.parametrize("table", ["profiles", "correlations"])
def test_flags_say_why(table: str, make: Make, empty_store: Path) -> None:
    meanings = MEANING if table == "profiles" else OF_CORRELATIONS
    make(**{table: [{"flags": sorted(meanings)}, {"flags": ["different_prompts"]}]})
    found = answer(empty_store, "flags")
    assert {row["flag"]: row["why"] for row in found} == dict(meanings)
    assert {row["in_table"] for row in found} == {table}
    assert sum(row["rows"] for row in found) == len(meanings) + 1


def test_flags_are_counted_and_placed(make: Make, empty_store: Path) -> None:
    sites = [{"run": "r", "site": f"block.{k}", "flags": ["collapsed"]} for k in (4, 1, 3, 2)]
    make(site_profiles=sites, profiles=[{"run": "r", "flags": []}])
    (row,) = answer(empty_store, "flags")
    assert (row["run"], row["rows"]) == ("r", 4)
    assert row["places"] == "block.1, block.2, block.3, ..."


def test_settings_stand_beside_the_longest_context_and_most_prompts(
    make: Make, empty_store: Path
) -> None:
    values = {(50, 5): 3.0, (50, 9): 2.0, (200, 5): 8.0, (200, 9): 4.0}
    common = {"run": "r", "site": "final", "first_position": 0, "effective_rank_stderr": 0.25}
    make(
        site_profiles=[
            {**common, "context": context, "n_prompts": n, "effective_rank": value}
            for (context, n), value in reversed(values.items())
        ]
    )
    found = [row for row in answer(empty_store, "settings") if row["metric"] == "effective_rank"]
    assert [(row["context"], row["prompts"]) for row in found] == [*values]
    assert [row["value"] for row in found] == [*values.values()]
    assert [row["change"] for row in found] == [-0.25, -0.5, 1, 0]
    assert {row["stderr"] for row in found} == {0.25}


def test_correlations_the_smallest_q_first(make: Make, empty_store: Path) -> None:
    make(
        correlations=[
            {"benchmark": "none", "coefficient": None, "q_value": None, "flags": ["constant"]},
            {"benchmark": "second", "coefficient": 0.42049, "q_value": 0.1234},
            {"benchmark": "first", "coefficient": -0.75, "q_value": 0.0000123},
        ]
    )
    found = answer(empty_store, "correlations")
    assert [row["benchmark"] for row in found] == ["first", "second", "none"]
    assert [row["coefficient"] for row in found] == [-0.75, 0.42, None]
    assert [row["q"] for row in found] == [0.000012, 0.12, None]


def test_published_stand_beside_mine(documented_store: Path) -> None:
    found = answer(documented_store, "published")
    mine = [row for row in found if row["source"] == "this store"]
    assert len(found) - len(mine) == 8
    assert len(mine) == 3
    assert [row["model"].endswith("(untrained)") for row in mine] == [False, False, True]
    assert [row["entropy_floor"] for row in found] == sorted(row["entropy_floor"] for row in found)
    assert {row["corpus"] for row in found} == {"alpaca", "pydoc"}


def test_provenance_is_that_of_the_plans(documented_store: Path) -> None:
    found = answer(documented_store, "provenance")
    runs = open_store(documented_store).runs
    assert {row["run"] for row in found} == set(runs)
    for row in found:
        plan = runs[row["run"]].plan
        assert row["weights"] == plan.model.weights
        assert row["tokenizer"] == plan.tokenizer.fingerprint
        assert row["corpus_fingerprint"] == plan.corpus.fingerprint
        assert row["prompt_set"] == plan.corpus.prompt_set
        assert row["device"] == plan.compute.device
        assert json.loads(row["versions"]) == dict(plan.compute.versions)
    assert [row["untrained_seed"] for row in found].count(None) == 2
    assert len({row["weights"] for row in found}) == 3
    assert len({row["tokenizer"] for row in found}) == 1


def test_next_token_against_a_slow_count(documented_store: Path) -> None:
    tokens = scan_tokens(documented_store).collect()
    found = answer(documented_store, "next_token")
    assert [row["run"].split("-")[-2] for row in found] == ["1", "bits", "untrained"]
    for row in found:
        mine = tokens.filter(pl.col("next_logprob").is_not_null(), run=row["run"])
        confidence = np.exp(mine["max_logprob"].to_numpy().astype(np.float64))
        hits = (mine["next_rank"] == 1).to_numpy()
        gaps = 0.0
        for k in range(15):
            inside = (confidence > k / 15) & (confidence <= (k + 1) / 15)
            if inside.any():
                gaps += inside.sum() * abs(hits[inside].mean() - confidence[inside].mean())
        surprisal = -mine["next_logprob"].to_numpy().astype(np.float64).mean()
        assert row["tokens"] == len(mine) == 12 * 199
        assert row["surprisal"] == digits(surprisal)
        assert row["perplexity"] == digits(math.exp(surprisal))
        assert row["top1_accuracy"] == digits(hits.mean())
        assert row["confidence"] == digits(confidence.mean())
        assert row["ece"] == digits(gaps / len(mine))


def test_next_token_is_that_of_the_metrics(documented_store: Path) -> None:
    names = ("surprisal", "top1_accuracy", "ece")
    expressions = [TOKEN_EXPRESSIONS[name].alias(name) for name in names]
    declared = scan_tokens(documented_store).group_by("run").agg(expressions).collect()
    for row in answer(documented_store, "next_token"):
        (metrics,) = declared.filter(run=row["run"]).to_dicts()
        assert [row[name] for name in names] == [digits(metrics[name]) for name in names]


def test_surprises_against_a_sort(documented_store: Path) -> None:
    found = answer(documented_store, "surprises")
    tokens = scan_tokens(documented_store).collect()
    for run, mine in tokens.group_by("run"):
        place = ("prompt_id", "position")
        came = mine.select("prompt_id", pl.col("position") - 1, came=pl.col("token_id"))
        hardest = (
            mine.drop_nulls("next_logprob")
            .sort("next_logprob", *place)
            .head(10)
            .join(came, on=place, how="left", maintain_order="left")
        )
        rows = [row for row in found if row["run"] == run[0]]
        of_run = open_store(documented_store).runs[str(run[0])]
        words = of_run.vocabulary()
        assert words is not None
        text = dict(zip(words["id"].to_pylist(), words["text"].to_pylist(), strict=True))
        assert [row["token"] for row in rows] == [text[token] for token in hardest["came"]]
        assert [row["expected"] for row in rows] == [text[token] for token in hardest["top1_id"]]
        assert [row["position"] - 1 for row in rows] == hardest["position"].to_list()
        assert [row["next_rank"] for row in rows] == hardest["next_rank"].to_list()
        assert rows[0]["surprisal"] == digits(-hardest["next_logprob"][0])
        sources = of_run.prompts()["source_row"].to_pylist()
        assert [row["source_row"] for row in rows] == [sources[p] for p in hardest["prompt_id"]]
