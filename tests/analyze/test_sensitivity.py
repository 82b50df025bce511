"""The grid of settings, on small synthetic stores."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result
from made_runs import MakeRun

from lpp.analyze import (
    ProfileSettings,
    Selection,
    SensitivitySettings,
    analyze,
    build_database,
    scan_spectra,
)
from lpp.analyze.cli.command import main
from lpp.analyze.metrics.registry import RANKS
from lpp.analyze.runs.keys import views
from lpp.analyze.studies import sensitivity as library
from lpp.analyze.studies.grid import METRICS, grid_axes, profile_rows
from lpp.analyze.studies.pages.sensitivity_page import sensitivity_page
from lpp.analyze.studies.sensitivity import sensitivity
from lpp.analyze.tables.profile import AGGREGATIONS
from lpp.store.errors import InputError
from lpp.store.objects.place import Place

LENGTHS = (12, 7, 20, 20, 3, 15)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def four_models(make_run: MakeRun) -> Path:
    """Four models on one corpus, each with rows of its own."""
    for seed, name in enumerate(("a/one", "b/two", "c/three", "d/four")):
        made = make_run(model=name, seed=seed, scale=lambda rows, s=seed: rows**2 / (1 + s))
    return made.root


@pytest.mark.slow
def test_every_number_is_that_of_a_separate_profile(make_run: MakeRun) -> None:
    make_run(model="a/one")
    made = make_run(model="b/two", seed=5)
    asked = SensitivitySettings(sites=["final", "block.1"], contexts=[10, 20], prompts=[2, 6])
    found = sensitivity(made.root, asked).values
    assert len(found) == 2 * 2 * 2 * 2 * len(METRICS) * len(AGGREGATIONS)
    for context in (10, 20):
        for size in (2, 6):
            alone = analyze(
                made.root,
                ProfileSettings(sites=["final", "block.1"], contexts=[context], prompts=[size]),
            )
            for how in AGGREGATIONS:
                for row in alone.profiles(entropy=how, ranks=how).iter_rows(named=True):
                    for metric in METRICS:
                        here = found.filter(
                            run=row["run"], site=row["site"], context=context, n_prompts=size,
                            metric=metric, aggregation=how,
                        )  # fmt: skip
                        assert here["value"].to_list() == [row[metric]]
                        assert here["prefix"].to_list() == [row[f"{metric}_prefix"]]
                        assert here.item(0, "model") == row["model"]


def test_default_grid_is_the_papers_and_the_most_that_every_run_holds(make_run: MakeRun) -> None:
    made = make_run([60] * 12, context=60, model="long")
    make_run([60] * 11, context=55, model="short")
    axes = grid_axes(views(made.root), Selection())
    assert axes.contexts == (50, 55)
    assert axes.sizes == (10, 11)


def test_small_stores_have_a_grid_too(make_run: MakeRun) -> None:
    axes = grid_axes(views(make_run().root), Selection())
    assert (axes.contexts, axes.sizes) == ((20,), (6,))


def test_order_of_four_models_is_compared(four_models: Path) -> None:
    found = sensitivity(
        four_models, SensitivitySettings(sites=["final"], contexts=[10, 20], prompts=[3, 6])
    )
    table = found.agreement
    assert table["n_models"].unique().to_list() == [4]
    # of each metric: 6 pairs of 2 x 2 settings, and 6 pairs of aggregations at each of them
    assert len(table) == len(METRICS) * (6 + 4 * 6)
    (row,) = table.filter(
        metric="effective_rank",
        setting_a="corpus=words, site=final, context=10, n_prompts=3, aggregation=max",
        setting_b="corpus=words, site=final, context=20, n_prompts=3, aggregation=max",
    ).iter_rows(named=True)
    assert row["differ"] == ["context"]
    values = found.values.filter(
        site="final", n_prompts=3, metric="effective_rank", aggregation="max"
    )
    orders = [values.filter(context=c).sort("run")["value"].to_list() for c in (10, 20)]
    one, other = (np.argsort(np.argsort(order)) for order in orders)
    assert row["spearman_rho"] == pytest.approx(np.corrcoef(one, other)[0, 1])
    # an order agrees with itself, whatever entropy is divided by
    assert table.filter(metric="entropy")["kendall_tau"].to_list() == (
        table.filter(metric="entropy_norm")["kendall_tau"].to_list()
    )


@pytest.mark.slow
def test_fewer_than_three_models_say_so(make_run: MakeRun) -> None:
    make_run(model="a/one")
    made = make_run(model="b/two", seed=5)
    result = run("sensitivity", made.root, "--context", "10,20")
    assert result.exit_code == 0, result.output
    assert "Rank agreement: none. 2 models: an order of fewer than 3 says nothing." in result.stdout
    assert "1.0" not in result.stdout.split("Rank agreement")[1]
    reasons = sensitivity(made.root, SensitivitySettings(contexts=[10, 20])).agreement
    assert reasons["kendall_tau"].null_count() == len(reasons)
    assert reasons["reason"].unique().to_list() == [
        "2 models: an order of fewer than 3 says nothing"
    ]


def test_one_setting_has_nothing_to_compare(four_models: Path) -> None:
    found = sensitivity(four_models, SensitivitySettings(sites=["final"]))
    assert {tuple(d) for d in found.agreement["differ"]} == {("aggregation",)}


@pytest.mark.slow
def test_runs_on_two_corpora_are_one_model(make_run: MakeRun) -> None:
    for name in ("a/one", "b/two", "c/three"):
        for corpus in ("prose", "songs and verse"):
            seed = len(name) + 10 * len(corpus)
            made = make_run(model=name, seed=seed, corpus=corpus, prompt_set=corpus)
    found = sensitivity(made.root, SensitivitySettings(sites=["final"]))
    across = [one for one in found.compared if one.differ == ("corpus",)]
    assert len(across) == len(METRICS)
    assert {one.agreement.n_models for one in across} == {3}
    assert found.left_out == ()
    # each corpus has texts of its own, which is what is varied: no trap
    assert "different_prompts" not in flags_of(found.values)


@pytest.mark.slow
def test_other_texts_of_one_corpus_are_flagged(make_run: MakeRun) -> None:
    made = make_run(model="a/one")
    assert "different_prompts" not in flags_of(sensitivity(made.root).values)
    make_run(model="b/two", seed=1, prompt_set="p1")
    values = sensitivity(made.root).values
    assert values["flags"].list.contains("different_prompts").all()
    result = run("sensitivity", made.root)
    assert "different_prompts" in result.stdout


@pytest.mark.slow
def test_what_a_run_lacks_is_in_the_table_and_on_the_terminal(make_run: MakeRun) -> None:
    full = make_run(model="full")
    cut = make_run(model="cut", context=10)
    sites = make_run(model="sites", sites=("block.1", "block.2"))
    few = make_run(model="few", shards=[0])
    sparse = make_run(model="sparse", logit_positions="schedule")
    result = run("sensitivity", full.root, "--context", "10,20", "--prompts", "2,6")
    assert result.exit_code == 0, result.output
    printed = " ".join(result.stdout.split())
    for made, reason in (
        (cut, "captured at context 10, so nothing at site final; context 20; prompts 2, 6"),
        (sites, "no site final: captured at block.1, block.2, so nothing at"),
        (few, "2 prompts are committed, so nothing at site final; context 10, 20; prompts 6"),
        (few, "2 of 3 shards are missing (1, 2), so it counts as its first 2 of 6 prompts"),
        (sparse, "logit statistics at its own prefixes only (--logit-positions schedule)"),
    ):
        line = f"{made.run_id}: {reason}"
        assert line in result.stderr
        assert line in printed
    values = sensitivity(
        full.root, SensitivitySettings(sites=["final"], contexts=[10, 20], prompts=[2, 6])
    )
    held = {
        (made.run_id, context, size)
        for made, context, size in (
            *((full, c, n) for c in (10, 20) for n in (2, 6)),
            *((cut, 10, n) for n in (2, 6)),
            *((few, c, 2) for c in (10, 20)),
            *((sparse, 20, n) for n in (2, 6)),
        )
    }
    table = values.values
    assert set(table.select("run", "context", "n_prompts").rows()) == {
        (made.run_id, c, n)
        for made in (full, cut, sites, few, sparse)
        for c in (10, 20)
        for n in (2, 6)
    }
    present = table.filter(pl.col("left_out").is_null())
    ranks_alone = present.filter(run=sparse.run_id, context=10)
    assert set(ranks_alone["metric"]) == set(RANKS)
    assert ranks_alone["value"].null_count() == 0
    present = present.filter(~((pl.col("run") == sparse.run_id) & (pl.col("context") == 10)))
    assert set(present.select("run", "context", "n_prompts").rows()) == held
    absent = table.filter(pl.col("left_out").is_not_null())
    assert absent["value"].null_count() == len(absent)


def test_an_untrained_twin_is_a_model_of_its_own(make_run: MakeRun) -> None:
    make_run(model="a/one")
    made = make_run(model="a/one", seed=1, untrained_seed=0)
    make_run(model="b/two", seed=2)
    found = sensitivity(made.root, SensitivitySettings(sites=["final"]))
    assert {one.agreement.n_models for one in found.compared} == {3}
    assert found.left_out == ()


def test_a_model_takes_part_once(make_run: MakeRun) -> None:
    for seed, name in enumerate(("a/one", "b/two", "c/three")):
        make_run(model=name, seed=seed)
    again = make_run(model="a/one", context=10)
    found = sensitivity(again.root, SensitivitySettings(sites=["final"], contexts=[10]))
    assert {one.agreement.n_models for one in found.compared} == {3}
    (line,) = found.left_out
    assert line.startswith(
        f"{again.run_id}: takes no part in rank agreement, same model and corpus"
    )
    assert again.run_id in found.values["run"]


def test_flags_stay_with_the_numbers_they_concern(make_run: MakeRun) -> None:
    made = make_run(LENGTHS[:2], logits_width=61)  # 12 and 7 tokens, 6 columns
    long = sensitivity(made.root, SensitivitySettings(sites=["final"])).values
    for row in long.iter_rows(named=True):
        flags = row["flags"]
        assert ("padded_vocab" in flags) == row["metric"].startswith("entropy")
        if row["prefix"] is not None:
            assert ("short_text" in flags) == (row["prefix"] > 7), row
            wide = row["stderr"] is not None and row["stderr"] > 0.2 * abs(row["value"])
            assert ("small_sample" in flags) == wide
        if not row["metric"].endswith("_norm"):
            assert "normaliser" not in flags
        assert "small_sample" not in flags or row["stderr"] is not None
    found = long.filter(pl.col("flags").list.contains("normaliser"))
    assert set(found["metric"]) == {"participation_ratio_norm", "effective_rank_norm"}
    clean = sensitivity(
        make_run([20] * 40, logits_width=48, seed=3, root=made.root.with_name("clean")).root,
        SensitivitySettings(sites=["final"]),
    )
    assert flags_of(profile_rows(clean.values)) == set()


def test_normaliser_is_of_each_rank_alone(make_run: MakeRun) -> None:
    made = make_run((3, 20, 20, 4, 20, 20), dim=24, seed=7, sites=("final",))
    found = sensitivity(made.root).values.filter(pl.col("metric").is_in(RANKS))
    spectra = scan_spectra(made.root).collect()
    homes = {row["metric"]: row for row in found.filter(aggregation="max").iter_rows(named=True)}
    marked = {}
    for rank in ("participation_ratio", "effective_rank"):
        row = homes[f"{rank}_norm"]
        (at,) = spectra.filter(prefix=row["prefix"]).to_dicts()
        moved = at["n_tokens"] < at["dim"] or homes[rank]["prefix"] != row["prefix"]
        assert ("normaliser" in row["flags"]) == moved
        marked[rank] = moved
    assert set(marked.values()) == {True, False}  # else it shows nothing
    means = found.filter(pl.col("aggregation").is_in(["mean", "median"]))
    flagged = means.filter(pl.col("flags").list.contains("normaliser"))["metric"]
    assert set(flagged) == {"participation_ratio_norm", "effective_rank_norm"}


def test_saving_counts_what_each_run_holds(make_run: MakeRun) -> None:
    made = make_run(LENGTHS)
    cut = make_run(LENGTHS, model="cut", context=10)
    found = sensitivity(made.root, SensitivitySettings(contexts=[10, 20], prompts=[2, 6]))
    saving = {one.run: one for one in found.savings}
    theirs = sum(
        min(length, prefix)
        for step in (1, 2)  # of the schedules of 10 and of 20 tokens
        for prefix in range(step, 10 * step + 1, step)
        for size in (2, 6)
        for length in LENGTHS[:size]
    )
    assert saving[made.run_id].paper_tokens == theirs
    assert saving[made.run_id].our_tokens == sum(LENGTHS)
    assert saving[cut.run_id].our_tokens == sum(min(length, 10) for length in LENGTHS)
    assert saving[cut.run_id].paper_tokens == sum(
        min(length, prefix)
        for prefix in range(1, 11)
        for size in (2, 6)
        for length in LENGTHS[:size]
    )


@pytest.mark.slow
def test_tables_join_the_database_and_lose_no_other(four_models: Path) -> None:
    database = build_database(four_models, ProfileSettings(sites=["final"]))
    before = query(database, "FROM site_profiles ORDER BY ALL")
    assert run("sensitivity", four_models, "--context", "10,20").exit_code == 0
    assert query(database, "FROM site_profiles ORDER BY ALL") == before
    assert query(database, "SELECT count(*) FROM sensitivity") == [(4 * 2 * 6 * 4,)]
    ((agree, tau),) = query(
        database,
        "SELECT count(*), max(abs(kendall_tau)) FROM agreement WHERE n_models = 4",
    )
    assert agree == 6 * (1 + 2 * 6)
    assert 0 <= tau <= 1
    build_database(four_models, ProfileSettings(sites=["final"]))  # and the other way round
    assert query(database, "SELECT count(*) FROM sensitivity") == [(4 * 2 * 6 * 4,)]


@pytest.mark.slow
def test_a_store_without_a_database_gets_its_runs(four_models: Path) -> None:
    assert run("sensitivity", four_models).exit_code == 0
    found = query(
        four_models / "profiles.duckdb",
        "SELECT count(*) FROM sensitivity JOIN runs USING (run) WHERE n_blocks = 2",
    )
    assert found == [(4 * 6 * 4,)]


@pytest.mark.slow
def test_csv_and_json_hold_the_same_rows(four_models: Path) -> None:
    asked = ("sensitivity", four_models, "--context", "10,20", "--site", "final")
    document = json.loads(run(*asked, "--format", "json").stdout)
    assert set(document) == {"values", "agreement", "tokens", "left_out"}
    lines = list(csv.DictReader(io.StringIO(run(*asked, "--format", "csv").stdout)))
    assert len(lines) == len(document["values"]) == 4 * 2 * 6 * 4
    for line, one in zip(lines, document["values"], strict=True):
        assert list(line) == list(one)
        assert line["value"] == ("" if one["value"] is None else str(one["value"]))
        assert line["flags"].split() == one["flags"]
    text = run(*asked, "--format", "csv", "--part", "agreement").stdout
    pairs = list(csv.DictReader(io.StringIO(text)))
    assert [pair["setting_a"] for pair in pairs] == [a["setting_a"] for a in document["agreement"]]
    assert document["tokens"][-1]["run"] == "all runs"


@pytest.mark.slow
def test_the_page_fits_a_screen_and_has_the_rest_on_demand(four_models: Path) -> None:
    asked = ("sensitivity", four_models, "--context", "10,20", "--site", "final,block.1")
    brief, whole = (run(*asked, *more).stdout for more in ((), ("--all",)))
    for text in (brief, whole):
        shown = [line for line in text.splitlines() if str(four_models) not in line]
        assert max(map(len, shown)) <= 80
    assert len(brief.splitlines()) <= 55
    words = " ".join(brief.split())
    assert words.partition("The order of 4 models ")[2].startswith(
        ("changes most in", "is the same")
    )
    for word in ("context 10 | 20", "by min | mean", "site ", "Kendall tau"):
        assert word in words
    assert "Of 4 models, chance alone puts two orders alike once in 24." in words
    for word in ("short_text: ", "spearman rho", "one capture"):
        assert word in whole
    grid = run("sensitivity", four_models, "--part", "grid").stdout
    assert "chance alone" not in grid
    agreement = run("sensitivity", four_models, "--part", "agreement", "--all").stdout
    assert "one capture" not in agreement


@pytest.mark.slow
def test_flags_of_the_grid_are_those_of_its_numbers(four_models: Path) -> None:
    found = sensitivity(four_models, SensitivitySettings(sites=["final"], contexts=[10, 20]))
    page = sensitivity_page("lpp", found, {run: run for run in found.values["run"].unique()})
    (grid,) = (table for table in page.tables if table.name == "grid")
    numbers = profile_rows(found.values)
    assert len(grid.frame) == 4 * 2
    for row in grid.frame.iter_rows(named=True):
        at = numbers.filter(run=row["run"], context=row["context"])
        assert set(row["flags"]) == flags_of(at)
        assert at.filter(metric="effective_rank")["value"].to_list() == [row["effective_rank"]]
    assert flags_of(found.values) == set(page.flags)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--context", "50"), "--context 50: no run holds that many"),
        (("--prompts", "7"), "--prompts 7: no run holds that many"),
        (("--context", "long"), "not a list of whole numbers"),
        (("--site", "block.9"), "no site 'block.9'"),
        (("--run", "nope"), "'nope' names no run"),
    ],
)
def test_bad_input_is_one_message(
    make_run: MakeRun, arguments: tuple[str, ...], message: str
) -> None:
    result = run("sensitivity", make_run().root, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_no_final_anywhere_is_told(make_run: MakeRun) -> None:
    made = make_run(sites=("block.1", "block.2"))
    assert "Name one with --site" in run("sensitivity", made.root).stderr
    assert run("sensitivity", made.root, "--site", "block.2").exit_code == 0
    with pytest.raises(InputError):
        library.sensitivity(made.root, SensitivitySettings(sites=["final"]))


def query(database: Place, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(database), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def flags_of(values: pl.DataFrame) -> set[str]:
    return {flag for flags in values["flags"] for flag in flags}


@pytest.mark.slow
def test_the_first_texts_of_a_corpus_are_compared(make_run: MakeRun) -> None:
    make_run(model="a/six", prompt_set="p6", texts="p")
    made = make_run((12, 7, 20, 20, 3, 15) * 2, model="b/twelve", prompt_set="p12", texts="p")
    assert "different_prompts" not in flags_of(sensitivity(made.root).values)
    make_run(model="c/other", prompt_set="q6", first_row=500)
    found = sensitivity(made.root, SensitivitySettings(prompts=[6, 12])).values
    at = found.filter(pl.col("left_out").is_null())
    assert at.filter(n_prompts=6)["flags"].list.contains("different_prompts").all()
    assert not at.filter(n_prompts=12)["flags"].list.contains("different_prompts").any()


def test_without_errors_an_entropy_has_its_own(make_run: MakeRun) -> None:
    made = make_run((20, 20, 20))
    found = sensitivity(made.root, SensitivitySettings(errors="none")).values
    unsure = found.filter(pl.col("flags").list.contains("small_sample"))
    assert set(unsure["metric"]) == {"entropy", "entropy_norm"}
