"""Differences of two runs over the same prompts, against a jackknife in plain numpy."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from made_runs import Made, MakeRun
from scipy import stats

from lpp.analyze import ProfileSettings, analyze, build_database
from lpp.analyze.tables.build import write_database
from lpp.analyze.tables.database import profiles_and_differences
from lpp.sql import connect, saved_query

LENGTHS = (12, 7, 20, 20, 3, 15, 18, 9, 20, 11, 16, 20)


def ask(root: Path, sql: str) -> pl.DataFrame:
    with connect(root, token_stats=False) as connection:
        found: pl.DataFrame = connection.sql(sql).pl()
    return found


def differences(root: Path) -> dict[str, dict[str, Any]]:
    """The answer of the saved query, by metric, of the one pair there is."""
    found = ask(root, saved_query("differences").text)
    assert found.select("run_a", "run_b").n_unique() <= 1
    return {row["metric"]: row for row in found.iter_rows(named=True)}


def by_prefix(made: Made, keep: list[int]) -> dict[str, dict[int, float]]:
    """Numbers at each prefix over some of the prompts, the slow way."""
    found: dict[str, dict[int, float]] = {}
    for prefix in made.plan.prefixes:
        ends = [made.entropy[k][min(prefix, len(made.entropy[k])) - 1] for k in keep]
        rows = np.concatenate([made.hidden["final"][k][:prefix] for k in keep]).astype(np.float64)
        values = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2
        share = values / values.sum()
        ratio = values.sum() ** 2 / (values**2).sum()
        rank = math.exp(-(share * np.log(share)).sum())
        for name, value in (
            ("entropy_floor", float(np.mean(np.array(ends, np.float64))) / math.log(50)),
            ("participation_ratio", ratio),
            ("participation_ratio_norm", ratio / min(rows.shape)),
            ("effective_rank", rank),
            ("effective_rank_norm", rank / min(rows.shape)),
        ):
            found.setdefault(name, {})[prefix] = value
    return found


def expected(one: Any, two: Any, metric: str, groups: int = 10) -> tuple[float, float]:
    """Two minus one at the prefix of the extreme of one, and its half width: each group of prompts
    leaves both runs.
    """
    every = list(range(len(LENGTHS)))
    pick = min if metric == "entropy_floor" else max
    whole = [by_prefix(made, every)[metric] for made in (one, two)]
    at = pick(whole[0], key=whole[0].__getitem__)
    moved = []
    for first, end in itertools.pairwise(len(every) * g // groups for g in range(groups + 1)):
        rest = [k for k in every if not first <= k < end]
        moved.append(by_prefix(two, rest)[metric][at] - by_prefix(one, rest)[metric][at])
    squares = np.square(np.array(moved) - np.mean(moved)).sum()
    half = math.sqrt((groups - 1) / groups * squares) * float(stats.t.ppf(0.975, groups - 1))
    return whole[1][at] - whole[0][at], half


@pytest.mark.slow
def test_a_difference_is_a_paired_jackknife(make_run: MakeRun) -> None:
    one = make_run(LENGTHS, model="a/one")
    two = make_run(LENGTHS, model="b/two", sites=("embed", "block.1", "final"), scale=np.tanh)
    build_database(one.root)
    found = differences(one.root)
    assert len(found) == 5
    assert any(row["prefix"] != row["extreme_b_prefix"] for row in found.values())
    for metric, row in found.items():
        assert (row["run_a"], row["run_b"]) == (one.run_id, two.run_id)
        whole = by_prefix(two, [*range(len(LENGTHS))])[metric]
        pick = min if metric == "entropy_floor" else max
        assert row["extreme_b"] == pytest.approx(pick(whole.values()), rel=1e-3)
        assert row["extreme_b_prefix"] == pick(whole, key=whole.__getitem__)
        assert ("different_prefixes" in row["flags"]) == (row["prefix"] != row["extreme_b_prefix"])
        difference, half = expected(one, two, metric)
        assert row["difference"] == pytest.approx(difference, rel=1e-3, abs=1e-12), metric
        low, high = row["difference_ci_low"], row["difference_ci_high"]
        assert (high - low) / 2 == pytest.approx(half, rel=2e-3, abs=1e-12), metric
        assert row["verdict"] == ("differs from 0" if abs(difference) > half else "may be 0")


@pytest.mark.slow
def test_an_interval_is_not_clipped_near_a_bound(make_run: MakeRun) -> None:
    """One prompt alone gives a run its last direction: near 1 with it, far below without it."""

    def alone(rows: Any) -> Any:
        rows = rows / np.arange(1, 7)
        rows[:, 5] *= 3.1 if len(rows) == 18 else 0.01
        return rows.astype(np.float32)

    def tapered(rows: Any) -> Any:
        return (rows / np.arange(1, 7) * 0.85 ** np.arange(6)).astype(np.float32)

    one = make_run(LENGTHS, model="a/one", scale=alone)
    two = make_run(LENGTHS, model="b/two", scale=tapered)
    build_database(one.root, ProfileSettings(sites=["final"]))
    name = "effective_rank_norm"
    a, b = ask(one.root, f"SELECT {name}, {name}_ci_high FROM profiles ORDER BY run").rows()
    assert a[1] == 1.0  # clipped for display
    ranks = ask(one.root, "SELECT rank_bound, effective_rank_ci_high FROM spectra").drop_nulls()
    assert (ranks["effective_rank_ci_high"] <= ranks["rank_bound"]).all()
    assert (ranks["effective_rank_ci_high"] == ranks["rank_bound"]).any()
    row = differences(one.root)[name]
    difference, half = expected(one, two, name)
    assert row["difference"] == pytest.approx(difference, rel=1e-3)
    assert row["difference_ci_high"] == pytest.approx(difference + half, rel=1e-3)
    assert row["difference_ci_low"] == pytest.approx(difference - half, rel=1e-3)
    # what upper halves of both intervals, clipped, would have made of it
    assert -difference > math.hypot(a[1] - a[0], b[1] - b[0])
    assert row["verdict"] == "may be 0"


@pytest.mark.slow
def test_what_cannot_be_paired_has_no_interval(make_run: MakeRun) -> None:
    one = make_run(LENGTHS, model="a/one")
    make_run(LENGTHS, model="b/two", seed=1)
    only = [ProfileSettings(sites=["final"], runs=[f"{name}-*"]) for name in ("one", "two")]
    write_database(one.root, analyze(one.root, replace(only[0], groups=10)))
    write_database(one.root, analyze(one.root, replace(only[1], groups=4)))
    assert {row["verdict"] for row in differences(one.root).values()} == {"no interval"}
    write_database(one.root, analyze(one.root, replace(only[1], errors="none")))
    found = differences(one.root)
    assert found["effective_rank"]["verdict"] == "no interval"  # still of four groups
    assert found["entropy_floor"]["difference_ci_low"] is not None  # of ten again
    write_database(one.root, analyze(one.root, only[1]))
    assert "no interval" not in {row["verdict"] for row in differences(one.root).values()}


@pytest.mark.slow
def test_runs_that_are_not_comparable_are_not_compared(make_run: MakeRun) -> None:
    one = make_run(LENGTHS, model="a/one")
    make_run(LENGTHS, model="b/two", seed=1, prompt_set="other")
    build_database(one.root)
    assert differences(one.root) == {}


@pytest.mark.slow
def test_groups_lose_the_prompts_that_are_their_own(make_run: MakeRun) -> None:
    """The mean of the values without each group, weighted, is the mean of all: an identity."""
    one = make_run(LENGTHS)
    build_database(one.root)
    found = ask(
        one.root,
        "SELECT j.value, entropy_norm FROM jackknife j JOIN entropy USING (context, prefix) "
        "WHERE metric = 'entropy_floor' AND prefix = 20 ORDER BY prompt_group",
    )
    edges = [12 * g // 10 for g in range(11)]
    kept = np.array([12 - (end - first) for first, end in itertools.pairwise(edges)])
    mean = (found["value"].to_numpy() * kept).sum() / kept.sum()
    assert mean == pytest.approx(found["entropy_norm"][0], rel=1e-12)


def test_a_run_without_a_value_at_the_prefix_is_not_zero(make_run: MakeRun) -> None:
    one = make_run(LENGTHS, model="a/one")
    make_run(LENGTHS, model="b/two", seed=3)
    write_database(one.root, analyze(one.root))
    prefix = differences(one.root)["effective_rank"]["prefix"]
    analysis = analyze(one.root)
    gone = (pl.col("run") != one.run_id) & (pl.col("prefix") == prefix)
    tables = analysis.frames()
    tables["spectra"] = tables["spectra"].filter(~gone)
    tables["jackknife"] = tables["jackknife"].filter(~gone)
    tables["site_profiles"] = tables["site_profiles"].with_columns(
        effective_rank_prefix=pl.when(pl.col("run") == one.run_id)
        .then("effective_rank_prefix")
        .otherwise(pl.lit(2, pl.Int32))
    )
    found = profiles_and_differences(tables, one.run_id)[0]["differences"]
    row = found.row(by_predicate=pl.col("metric") == "effective_rank", named=True)
    assert (row["verdict"], row["difference"], row["value_b"]) == ("missing value", None, None)
