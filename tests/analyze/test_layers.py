"""Ranks against depth, on small synthetic stores."""

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
from made_runs import Made, MakeRun
from result_frames import check_frames, check_printed

from lpp.analyze import (
    LayersSettings,
    ProfileSettings,
    build_database,
    scan_metrics,
    scan_spectra,
)
from lpp.analyze.cli.command import main
from lpp.analyze.pages.words import signed
from lpp.analyze.studies.layers import layers, write_layers
from lpp.analyze.studies.layers_tables import SURE, without_sinks
from lpp.analyze.studies.pages.layers_page import layers_page

SITES = ("embed", *(f"block.{k}" for k in range(1, 7)), "final")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def deep(make_run: MakeRun) -> Made:
    """Six blocks; the third and fourth along one direction, the first wide."""
    calls = iter(range(10**6))
    lengths = [20] * 8

    def scale(rows: Any) -> Any:
        site = SITES[next(calls) // len(lengths)]  # the fixture scales site by site
        if site in ("block.3", "block.4"):
            return rows * np.array([1e3, 1, 1, 1, 1, 1], np.float32)
        return rows

    return make_run(lengths, sites=SITES, scale=scale)


@pytest.mark.slow
def test_numbers_are_those_of_the_scans(make_run: MakeRun) -> None:
    made = make_run(sites=SITES)
    make_run(model="b/two", seed=4, sites=SITES)
    found = layers(made.root, LayersSettings(contexts=[10, 20], prompts=[3, 6])).layers_frame()
    scan = scan_spectra(made.root, contexts=[10, 20], prompts=[3, 6]).collect()
    whole = scan.filter(prefix=scan["context"])
    assert len(found) == len(whole) == 2 * 8 * 2 * 2
    keys = ["run", "site", "context", "n_prompts"]
    ranks = ("participation_ratio", "effective_rank")
    names = (*keys, "depth", "n_tokens", "rank_bound", "top_share", *ranks)
    names += tuple(f"{name}_norm" for name in ranks)
    pairs = zip(found.sort(keys).rows(named=True), whole.sort(keys).rows(named=True), strict=True)
    for mine, other in pairs:
        assert [mine[name] for name in names] == pytest.approx([other[name] for name in names])
    variant = scan_metrics(made.root, metrics=["zscore_effective_rank"], prompts=[6]).collect()
    variant = variant.filter(prefix=20).sort("run", "site")
    of_runs = found.filter(context=20, n_prompts=6).sort("run", "site")
    assert of_runs["zscore_effective_rank"].to_list() == pytest.approx(variant["value"].to_list())


def test_depth_is_relative_to_the_model(make_run: MakeRun) -> None:
    made = make_run(sites=SITES)
    found = layers(made.root).layers_frame()
    assert found["site"].to_list() == list(SITES)
    assert found["relative_depth"].to_list() == pytest.approx([0, *(k / 6 for k in range(1, 7)), 1])


def test_layers_have_the_rows_of_the_database_as_frames(make_run: MakeRun) -> None:
    made = make_run(sites=SITES)
    found = layers(made.root)
    write_layers(made.root, found)
    check_frames(found, made.root)
    assert found.layers_frame().equals(found.frames()["layers"])
    assert found.hourglass_frame()["metric"].unique().to_list() == ["zscore_effective_rank"]
    check_printed(found, "layers", "site", "participation_ratio")


def test_the_score_sees_past_a_collapse(deep: Made) -> None:
    found = layers(deep.root)
    flagged = {row["site"]: row["flags"] for row in found.layers_frame().iter_rows(named=True)}
    assert [site for site, flags in flagged.items() if "collapsed" in flags] == [
        "block.3",
        "block.4",
    ]
    (row,) = found.hourglass_frame().iter_rows(named=True)
    # of z-scored columns no layer is collapsed, and every layer is as wide as any other
    assert (row["n_layers"], row["n_collapsed"], row["reason"]) == (6, 0, None)
    assert abs(row["score"]) < 0.05


@pytest.mark.slow
def test_score_is_made_of_the_papers_layers(make_run: MakeRun) -> None:
    made = make_run([20] * 8, sites=SITES)
    found = layers(made.root)
    rank = {
        row["site"]: row["zscore_effective_rank"]
        for row in found.layers_frame().iter_rows(named=True)
    }
    (row,) = found.hourglass_frame().iter_rows(named=True)
    assert row["n_layers"] == 6
    assert row["first"] == pytest.approx(np.sqrt(rank["block.1"] * rank["block.2"]))
    assert row["last"] == pytest.approx(np.sqrt(rank["block.5"] * rank["final"]))
    end = min(row["first"], row["last"])
    assert row["score"] == pytest.approx((end - row["middle"]) / (end + row["middle"]))
    some = layers(made.root, LayersSettings(sites=["block.*"])).hourglass_frame()
    assert some.item(0, "last") == pytest.approx(np.sqrt(rank["block.5"] * rank["block.6"]))


def test_a_few_sites_have_ranks_and_no_score(make_run: MakeRun) -> None:
    made = make_run(sites=("block.1", "block.2", "final"))
    row = layers(made.root).hourglass_frame().row(0, named=True)
    assert row["score"] is None
    assert "of the first third can be used" in row["reason"]


@pytest.mark.slow
def test_rows_that_are_not_finite_are_flagged_and_left_out(make_run: MakeRun) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        made = make_run([20] * 4, sites=SITES, scale=lambda rows: rows * np.float32(np.inf))
    found = layers(made.root)
    assert {tuple(flags) for flags in found.layers_frame()["flags"]} == {("not_finite",)}
    assert set(found.hourglass_frame()["n_missing"]) == {6}
    assert found.hourglass_frame()["score"].null_count() == 1
    assert run("layers", made.root).exit_code == 0


@pytest.mark.slow
def test_errors_are_those_of_the_jackknife_and_small_samples_flagged(make_run: MakeRun) -> None:
    made = make_run([20, 20, 4], sites=("block.1", "final"))
    plain = layers(made.root).layers_frame()
    assert plain["effective_rank_stderr"].null_count() == len(plain)
    sure = layers(made.root, LayersSettings(errors="all")).layers_frame()
    scan = scan_spectra(made.root, groups=10).collect().filter(prefix=20)
    assert sure["effective_rank_stderr"].to_list() == pytest.approx(
        scan["effective_rank_stderr"].to_list()
    )
    of_final = ["effective_rank_ci_low", "participation_ratio_ci_high"]
    assert sure.select(of_final).rows() == [
        pytest.approx(row) for row in scan.select(of_final).rows()
    ]
    assert all("no_error" in flags for flags in plain["flags"].to_list())
    for row in sure.iter_rows(named=True):
        assert "no_error" not in row["flags"]
        wide = any(row[f"{name}_stderr"] > 0.2 * row[name] for name in SURE)
        assert ("small_sample" in row["flags"]) == wide
        assert "short_text" in row["flags"]  # one prompt in three ends at 4 tokens
    (one,) = layers(made.root, LayersSettings(sites=["final"], prompts=[1])).layers_frame()["flags"]
    assert "small_sample" in one.to_list()


@pytest.mark.slow
def test_runs_that_hold_less_are_named(make_run: MakeRun) -> None:
    made = make_run(model="long")
    short = make_run(model="short", context=10)
    result = run("layers", made.root, "--context", "20")
    line = f"{short.run_id}: captured at context 10, so it has no rows at 20"
    assert line in result.stderr
    assert line in " ".join(result.stdout.split())


@pytest.mark.slow
def test_tables_join_the_database_and_lose_no_other(deep: Made) -> None:
    assert run("layers", deep.root).exit_code == 0
    build_database(deep.root, ProfileSettings(sites=["final"]))
    with duckdb.connect(str(deep.root / "profiles.duckdb"), read_only=True) as connection:
        found = connection.execute(
            "SELECT site, participation_ratio_norm FROM layers WHERE list_contains(flags, "
            "'collapsed') ORDER BY depth"
        ).fetchall()
        assert [site for site, _ in found] == ["block.3", "block.4"]
        assert connection.execute("SELECT count(*) FROM hourglass").fetchall() == [(1,)]


@pytest.mark.slow
def test_csv_and_json_hold_the_same_rows(deep: Made) -> None:
    document = json.loads(run("layers", deep.root, "--format", "json").stdout)["tables"]
    lines = list(csv.DictReader(io.StringIO(run("layers", deep.root, "--format", "csv").stdout)))
    assert len(lines) == len(document["layers"]) == len(SITES)
    for line, one in zip(lines, document["layers"], strict=True):
        assert list(line) == list(one)
        assert float(line["effective_rank"]) == one["effective_rank"]
        assert line["flags"].split() == one["flags"]
    assert len(document["hourglass"]) == 1


@pytest.mark.slow
def test_a_terminal_shows_the_score_and_on_demand_every_site(deep: Made) -> None:
    brief = run("layers", deep.root)
    assert len(brief.stdout.splitlines()) <= 40
    assert "block.3" not in brief.stdout
    assert "--all adds: ranks of every site, how to read them." in brief.stdout
    for errors in ((), ("--errors", "all")):
        result = run("layers", deep.root, "--all", *errors)
        shown = [line for line in result.stdout.splitlines() if str(deep.root) not in line]
        assert max(map(len, shown)) <= 80
        text = " ".join(result.stdout.split())
        assert "collapsed: the participation ratio is within 1 % of 1" in text
        assert all(site in text for site in SITES)
        assert ("±" in result.stdout) == bool(errors)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--context", "50"), "--context 50: no run holds that many"),
        (("--sites", "block.9"), "no site 'block.9'"),
        (("nope",), "'nope' names no run"),
        (("--prompts", "0"), "--prompts 0"),
    ],
)
def test_bad_input_is_one_message(
    make_run: MakeRun, arguments: tuple[str, ...], message: str
) -> None:
    result = run("layers", make_run().root, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_not_a_store(tmp_path: Path) -> None:
    assert "is not an lpp store" in run("layers", tmp_path).stderr


@pytest.mark.slow
def test_layers_of_other_texts_are_flagged(make_run: MakeRun) -> None:
    make_run(model="a/six", prompt_set="p6", texts="p")
    made = make_run((12, 7, 20, 20, 3, 15) * 2, model="b/twelve", prompt_set="p12", texts="p")
    same = layers(made.root, LayersSettings(prompts=[6])).layers_frame()
    assert not same["flags"].list.contains("different_prompts").any()
    make_run(model="c/other", prompt_set="q6", first_row=500)
    found = layers(made.root, LayersSettings(prompts=[6, 12])).layers_frame()
    assert found.filter(n_prompts=6)["flags"].list.contains("different_prompts").all()
    assert not found.filter(n_prompts=12)["flags"].list.contains("different_prompts").any()
    assert found["run"].is_sorted()
    done = run("layers", made.root, "--prompts", "6", "--all")
    assert "different_prompts: the runs shown read different texts" in done.stdout


@pytest.mark.slow
def test_a_run_with_sinks_leads_with_the_curve_without_them(make_run: MakeRun) -> None:
    def with_sink(rows: np.ndarray) -> np.ndarray:
        rows[0, 0] += 30_000
        return rows

    made = make_run([20] * 8, sites=SITES, scale=with_sink)
    found = layers(made.root)
    assert set(found.layers_frame()["first_position"]) == {0, 2}
    assert set(without_sinks(found.layers_frame())["first_position"]) == {2}
    opening = layers_page(
        "lpp",
        found.layers_frame(),
        found.hourglass_frame(),
        (),
        found.names,
        experts=found.expert_load_frame(),
    ).opening
    (score,) = found.hourglass_frame().filter(first_position=2)["score"]
    assert opening.rows[0][-1].text == signed(score)
    assert "without the first 2 positions" in str(opening.sentence)
    clean = found.layers_frame().with_columns(flags=pl.lit([], pl.List(pl.String)))
    assert len(without_sinks(clean)) == len(clean)
