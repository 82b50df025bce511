"""Drift in the database: the numbers of a comparison, beside those of others, in SQL."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from kept_heads import keep_head
from made_runs import Made, MakeRun
from polars.testing import assert_frame_equal
from result_frames import check_frames, check_printed

from lpp.analyze import DiffSettings, build_database, diff
from lpp.analyze.cli.command import main
from lpp.analyze.drift.tables import stores, write_drift
from lpp.analyze.drift.worst import worst_tokens
from lpp.analyze.numerics.jackknife import error_names
from lpp.analyze.quantities.drift import PREDICTIONS, SITE_CHANGES
from lpp.analyze.tables.database import read_table
from lpp.sql import connect, saved_query
from lpp.store.format.tables import VOCABULARY_SCHEMA
from lpp.store.shared.vocabularies import add_vocabulary

LENGTHS = (12, 7, 20, 20, 3, 15, 9, 11)
TABLES = ("drift_predictions", "drift_sites", "drift_tokens")
PAIR = ["run_a", "run_b"]


@pytest.fixture
def two(make_run: MakeRun) -> tuple[Made, Made]:
    """Two models of the same texts, with their head and their vocabulary."""
    a = make_run(LENGTHS, model="tiny/base", vary_tokens=True)
    b = make_run(LENGTHS, model="tiny/tuned", seed=1, vary_tokens=True)
    keep_head(a.root, a.plan)
    words = [f" w{k}" for k in range(50)]
    rows = [range(50), [word.encode() for word in words], words]
    add_vocabulary(a.root, a.plan.tokenizer.fingerprint, pa.table(rows, schema=VOCABULARY_SCHEMA))
    return a, b


def invoke(root: Path, *words: str) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(main, ["diff", str(root), *words])


def told(done: Result) -> list[str]:
    """Lines on standard error that are not of progress."""
    return [line for line in done.stderr.splitlines() if not line.startswith("Drift: ")]


def counts(root: Path) -> list[int]:
    return [len(read_table(root, name)) for name in TABLES]


@pytest.mark.slow
def test_tables_hold_the_numbers_of_the_drift(two: tuple[Made, Made]) -> None:
    a, b = two
    found = diff(a.root, "base", "tuned", DiffSettings(skip_first=2))
    assert write_drift(found) == a.root / "profiles.duckdb"
    predictions = {row["number"]: row for row in read_table(a.root, TABLES[0]).to_dicts()}
    assert [*predictions] == [*PREDICTIONS] == [*found.predictions]
    for name, one in found.predictions.items():
        row = predictions[name]
        assert (row["run_a"], row["run_b"]) == (a.run_id, b.run_id)
        assert (row["n_prompts"], row["first_position"], row["n_drawn"]) == (len(LENGTHS), 2, 0)
        assert row["unit"] == PREDICTIONS[name].unit
        parts = ("mean", "median", "p99", "stderr", "ci_low", "ci_high", "n_tokens")
        assert [row[part] for part in parts] == [getattr(one, part) for part in parts]
        assert row["maximum"] == one.max
    sites = read_table(a.root, TABLES[1]).sort("depth", pl.col("site") == "final").to_dicts()
    assert [row["site"] for row in sites] == [one.site for one in found.sites]
    for row, site in zip(sites, found.sites, strict=True):
        assert (row["depth"], row["n_tokens"]) == (site.depth, site.n_tokens)
        for name in SITE_CHANGES:
            assert tuple(row[c] for c in (name, *error_names(name))) == getattr(site, name)[:4]
        assert row["flags"] == ([] if row["site"] == "final" else ["no_error"])
    tokens = read_table(a.root, TABLES[2]).sort("prompt_id", "position")
    assert_frame_equal(tokens.drop(PAIR), found.tokens)


@pytest.mark.slow
def test_a_comparison_has_the_rows_of_the_database_as_frames(two: tuple[Made, Made]) -> None:
    a, _ = two
    found = diff(a.root, "base", "tuned", DiffSettings(skip_first=2, errors="all"))
    write_drift(found)
    check_frames(found, a.root)
    assert_frame_equal(found.sites_frame(), found.frames()["drift_sites"])
    assert found.predictions_frame()["mean"][0] == found.predictions["kl"].mean
    assert len(found.tokens_frame()) == len(found.tokens)
    check_printed(found, "drift_predictions", "number", "unit", "mean")


@pytest.mark.slow
def test_without_logits_there_are_no_rows_of_them(make_run: MakeRun) -> None:
    a = make_run(LENGTHS, model="tiny/base")
    make_run(LENGTHS, model="tiny/tuned", seed=1, most_likely=8)
    write_drift(diff(a.root, "base", "tuned"))
    assert read_table(a.root, TABLES[0])["number"].to_list() == [
        *("flips", "same_top_p", "next_logprob", "rms_logprob"),
        *("log_perplexity", "perplexity_ratio", "entropy"),
    ]
    tokens = read_table(a.root, TABLES[2])
    assert tokens["kl"].null_count() == len(tokens) == sum(LENGTHS)


@pytest.mark.slow
def test_sinks_of_either_run_and_prompts_set_aside_are_flagged(make_run: MakeRun) -> None:
    def sunk(rows: Any) -> Any:
        return np.concatenate([rows[:1] * 500, rows[1:]])

    a = make_run(LENGTHS, model="tiny/base")
    make_run(LENGTHS, model="tiny/tuned", seed=1, scale=sunk, set_aside=[2])
    every = {"quarantined", "sink"}
    for first, flags in ((0, every), (1, every - {"sink"})):
        found = diff(a.root, "base", "tuned", DiffSettings(skip_first=first)).sites_frame()
        assert [{*row} - {"no_error"} for row in found["flags"]] == [flags] * 4


# beside earlier comparisons


@pytest.mark.slow
def test_settings_stand_beside_each_other_and_the_same_is_replaced(two: tuple[Made, Made]) -> None:
    a, _ = two
    every = sum(LENGTHS)
    found = diff(a.root, "base", "tuned", DiffSettings(sites=["final"]))
    write_drift(found)
    assert counts(a.root) == [13, 1, every]
    write_drift(diff(a.root, "base", "tuned", DiffSettings(sites=["final"], skip_first=3)))
    assert counts(a.root) == [26, 2, every]
    write_drift(diff(a.root, "tuned", "base", DiffSettings(sites=["final"])))
    assert counts(a.root) == [39, 3, 2 * every]
    kl = replace(found.predictions["kl"], mean=7.5)
    write_drift(replace(found, predictions={**found.predictions, "kl": kl}))
    assert counts(a.root) == [39, 3, 2 * every]
    rows = read_table(a.root, TABLES[0]).filter(
        number="kl", run_a=found.pair.a.run.id, first_position=0
    )
    assert rows["mean"].to_list() == [7.5]


@pytest.mark.slow
def test_a_draw_adds_tokens(two: tuple[Made, Made]) -> None:
    a, _ = two
    whole = diff(a.root, "base", "tuned", DiffSettings(sites=["final"]))
    several = [
        diff(a.root, "base", "tuned", DiffSettings(sites=["final"], tokens=30, seed=k))
        for k in (1, 2)
    ]
    for found in several:
        write_drift(found)
    drawn = pl.concat([found.tokens for found in several]).unique().sort("prompt_id", "position")
    assert 30 < len(drawn) < 60
    tokens = read_table(a.root, TABLES[2]).sort("prompt_id", "position")
    assert_frame_equal(tokens.drop(PAIR), drawn)
    drawn_of = dict(read_table(a.root, TABLES[0]).select("number", "n_drawn").iter_rows())
    assert drawn_of == {**dict.fromkeys(PREDICTIONS, 30), "entropy": 0}
    write_drift(whole)
    write_drift(several[0])
    assert len(read_table(a.root, TABLES[2])) == sum(LENGTHS)
    assert len(read_table(a.root, TABLES[0])) == 13 + 12


@pytest.mark.slow
def test_errors_of_an_earlier_comparison_stay(two: tuple[Made, Made]) -> None:
    a, _ = two
    write_drift(diff(a.root, "base", "tuned", DiffSettings(errors="all")))
    before = read_table(a.root, TABLES[1]).sort("site")
    assert before["cka_stderr"].null_count() == 0
    write_drift(diff(a.root, "base", "tuned", DiffSettings(errors="none")))
    assert_frame_equal(read_table(a.root, TABLES[1]).sort("site"), before)


@pytest.mark.slow
def test_rows_go_when_either_run_changed_or_left(make_run: MakeRun) -> None:
    a = make_run(LENGTHS, model="tiny/base")
    b = make_run(LENGTHS, model="tiny/tuned", seed=1)
    c = make_run(LENGTHS, model="tiny/other", seed=2, shards=[0, 1])
    for pair in (("base", "tuned"), ("base", "other"), ("other", "base")):
        write_drift(diff(a.root, *pair, settings=DiffSettings(sites=["final"])))
    assert {*read_table(a.root, TABLES[1]).select(PAIR).rows()} == {
        *((a.run_id, b.run_id), (a.run_id, c.run_id), (c.run_id, a.run_id))
    }
    make_run(LENGTHS, model="tiny/other", seed=2, shards=[2, 3])  # a run that goes on
    build_database(a.root)
    for name in TABLES:
        assert {*read_table(a.root, name).select(PAIR).rows()} == {(a.run_id, b.run_id)}, name
    shutil.rmtree(a.root / "runs" / b.run_id)
    build_database(a.root)
    assert counts(a.root) == [0, 0, 0]


# the command


@pytest.mark.slow
def test_the_command_keeps_what_it_compares(two: tuple[Made, Made]) -> None:
    a, _ = two
    done = invoke(a.root, "base", "tuned")
    assert (done.exit_code, told(done)) == (0, [])
    assert counts(a.root) == [13, 4, sum(LENGTHS)]


@pytest.mark.slow
def test_a_run_with_itself_is_not_kept(two: tuple[Made, Made]) -> None:
    done = invoke(two[0].root, "base", "base")
    assert (done.exit_code, told(done)) == (0, [])
    assert not (two[0].root / "profiles.duckdb").exists()


@pytest.mark.slow
def test_runs_of_two_stores_are_compared_and_told_once(make_run: MakeRun, tmp_path: Path) -> None:
    a = make_run(LENGTHS, model="tiny/base")
    b = make_run(LENGTHS, model="tiny/tuned", seed=1, root=tmp_path / "far")
    assert write_drift(diff(a.root, "base", f"{b.root}::tuned")) is None
    done = invoke(a.root, "base", f"{b.root}::tuned")
    assert done.exit_code == 0
    assert len(told(done)) == 1
    assert not any((made.root / "profiles.duckdb").exists() for made in (a, b))
    (tmp_path / "link").symlink_to(a.root)
    same = diff(a.root, "base", f"{tmp_path / 'link'}::base")
    assert len(stores(same.pair)) == 1


@pytest.mark.slow
def test_a_database_that_cannot_be_written_costs_a_line(two: tuple[Made, Made]) -> None:
    a, _ = two
    build_database(a.root)
    with connect(a.root, write=True):
        done = invoke(a.root, "base", "tuned")
    assert done.exit_code == 0
    assert done.stdout.startswith("A  base")
    (line,) = told(done)
    assert "profiles.duckdb" in line
    assert counts(a.root) == [0, 0, 0]


# saved queries


@pytest.mark.slow
def test_the_saved_query_has_every_number_of_the_pair(two: tuple[Made, Made]) -> None:
    a, _ = two
    small, large = (
        diff(a.root, *pair, settings=DiffSettings(prompts=n))
        for pair, n in ((("base", "tuned"), 8), (("tuned", "base"), 5))
    )
    for found in (small, large):
        kl = replace(found.predictions["kl"], mean=2.0 if found is large else 1.0)
        write_drift(replace(found, predictions={**found.predictions, "kl": kl}))
    with connect(a.root) as connection:
        rows = connection.sql(saved_query("drift").text).pl()
    of_rows = [name for name in SITE_CHANGES if name != "expert_change"]  # of routers
    assert rows["number"].to_list() == [*PREDICTIONS, *of_rows] * 2
    assert rows["run_a"].unique(maintain_order=True).to_list() == [
        large.pair.a.run.id,
        small.pair.a.run.id,
    ]
    first = {row["number"]: row for row in rows.head(len(rows) // 2).to_dicts()}
    for name, one in large.predictions.items():
        mean = 2.0 if name == "kl" else one.mean
        assert first[name]["value"] == pytest.approx(mean, rel=1e-3)
        assert first[name]["ci_low"] == pytest.approx(one.ci_low, rel=1e-3)
        assert (first[name]["site"], first[name]["unit"]) == (None, PREDICTIONS[name].unit)
    for name in of_rows:
        one = getattr(large.sites[-1], name)
        assert first[name]["value"] == pytest.approx(one.value, rel=1e-3)
        assert first[name]["ci_high"] == pytest.approx(one.ci_high, rel=1e-3)
        assert first[name]["site"] == "final"


@pytest.mark.slow
def test_the_saved_query_has_the_tokens_that_changed_most(two: tuple[Made, Made]) -> None:
    a, _ = two
    found = diff(a.root, "base", "tuned", DiffSettings(sites=["final"]))
    write_drift(found)
    with connect(a.root) as connection:
        rows = connection.sql(saved_query("drift_tokens").text).pl().to_dicts()
    worst = worst_tokens(found, 10).to_dicts()
    assert [row["position"] for row in rows] == [one["position"] for one in worst]
    assert [row["kl"] for row in rows] == pytest.approx([one["kl"] for one in worst], rel=1e-3)
    assert [row["source_row"] for row in rows] == [100 + 3 * one["prompt_id"] for one in worst]
    for row, one in zip(rows, worst, strict=True):
        assert one["text_so_far"].endswith(row["text_so_far"])
        assert len(row["text_so_far"].split()) == min(12, one["position"] + 1)
        assert (row["came"], row["expected_a"]) == (one["came"], one["expected_a"])
        assert row["expected_b"] == one["expected_b"]
