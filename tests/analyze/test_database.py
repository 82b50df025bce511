"""The database holds all that has been computed: commands add to it, and never take away."""

import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from made_runs import MakeRun
from polars.testing import assert_frame_equal

from lpp.analyze import LayersSettings, ProfileSettings, analyze, build_database
from lpp.analyze.cli.command import main
from lpp.analyze.studies import layers as study
from lpp.analyze.tables import run_rows
from lpp.analyze.tables.build import write_database
from lpp.analyze.tables.database import read_table
from lpp.sql import connect
from lpp.sql.schema import TABLES
from lpp.store.format.plan import Series

MADE = ("spectra", "entropy", "metrics", "profiles", "site_profiles", "jackknife")


def tables(root: Path, names: tuple[str, ...] = MADE) -> dict[str, pl.DataFrame]:
    """Every row, in order of its key."""
    return {name: read_table(root, name).sort(TABLES[name].key) for name in names}


def assert_same(root: Path, before: dict[str, pl.DataFrame]) -> None:
    now = tables(root, tuple(before))
    # numbers are of the deepest site that was asked for: another site adds rows
    if "jackknife" in now:
        sites = before["jackknife"].select("run", "site").unique()
        now["jackknife"] = now["jackknife"].join(sites, on=["run", "site"], how="semi")
    for name, frame in now.items():
        assert_frame_equal(frame, before[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ProfileSettings(sites=["final"]),
        ProfileSettings(sites=["block.1"], errors="none"),
        ProfileSettings(runs=["one-*"]),
        ProfileSettings(contexts=[10]),
        ProfileSettings(prompts=[6]),
        ProfileSettings(errors="none"),
        ProfileSettings(metrics=["participation_ratio"]),
        ProfileSettings(sites=["final"], metrics=["participation_ratio"], errors="none"),
    ],
)
def test_asking_for_less_takes_nothing_away(make_run: MakeRun, settings: ProfileSettings) -> None:
    root = make_run(model="a/one").root
    make_run(model="b/two", seed=5)
    every = ProfileSettings(contexts=[10, 20], prompts=[3, 6])
    write_database(root, analyze(root, replace(every, metrics=["paper", "rankme"])))
    before = tables(root)
    assert {name: len(frame) for name, frame in before.items()} == {
        **{"spectra": 2 * 2 * 4 * 20, "entropy": 2 * 2 * 20, "metrics": 2 * 2 * 4 * 20},
        **{"profiles": 8, "site_profiles": 32, "jackknife": len(before["jackknife"])},
    }
    write_database(root, analyze(root, settings))
    assert_same(root, before)


@pytest.mark.slow
def test_scores_take_no_numbers_away(make_run: MakeRun) -> None:
    root = make_run(model="a/one").root
    build_database(root)
    study.write_layers(root, study.layers(root))
    before = tables(root, (*MADE, "layers", "hourglass"))
    (root.parent / "mine.csv").write_text("model,BBH\na/one,34.5\n")
    for words in (["benchmarks", "add", root, root.parent / "mine.csv"], ["correlate", root]):
        CliRunner().invoke(main, [str(word) for word in words])
        assert_same(root, before)
    assert len(read_table(root, "correlations")) > 0


@pytest.mark.slow
def test_errors_and_numbers_of_two_commands_are_one_row(make_run: MakeRun) -> None:
    root = make_run().root
    write_database(
        root, analyze(root, ProfileSettings(metrics=["participation_ratio"], errors="all"))
    )
    write_database(root, analyze(root, ProfileSettings(errors="none")))
    once = analyze(root, ProfileSettings(errors="all"))
    row, whole = (f.filter(site="block.1").to_dicts()[0] for f in (
        read_table(root, "site_profiles"), once.profiles()))  # fmt: skip
    assert row["effective_rank"] == whole["effective_rank"]
    assert row["participation_ratio_stderr"] == whole["participation_ratio_stderr"] is not None
    assert row["effective_rank_stderr"] is None
    assert "no_error" in row["flags"]  # the effective rank has none
    write_database(root, once)
    assert "no_error" not in read_table(root, "site_profiles")["flags"].explode().to_list()


@pytest.mark.slow
def test_other_prefixes_make_another_profile(make_run: MakeRun) -> None:
    root = make_run().root
    build_database(root)
    (before,) = read_table(root, "profiles").to_dicts()
    only = analyze(root, ProfileSettings(metrics=["participation_ratio"], errors="none"))
    write_database(root, only, profiles=only.profiles(drop_prefixes=[2]))
    (row,) = read_table(root, "profiles").to_dicts()
    assert row["prefixes"] == list(range(4, 21, 2))
    assert row["effective_rank"] is None  # that of the other list is another number
    name = "participation_ratio"
    assert (row[name], row[f"{name}_prefix"]) == (before[name], before[f"{name}_prefix"])
    assert row[f"{name}_stderr"] == before[f"{name}_stderr"]  # of the same number


@pytest.mark.slow
def test_fewer_groups_replace_all_of_them(make_run: MakeRun) -> None:
    root = make_run().root
    build_database(root)
    assert read_table(root, "jackknife")["prompt_group"].max() == 5
    write_database(root, analyze(root, ProfileSettings(groups=3)))
    assert read_table(root, "jackknife")["prompt_group"].max() == 2
    assert read_table(root, "jackknife")["student_t"].unique().to_list() == [
        pytest.approx(4.302653)
    ]


@pytest.mark.slow
def test_rows_of_a_run_that_changed_or_vanished_go(
    make_run: MakeRun, caplog: pytest.LogCaptureFixture
) -> None:
    made = make_run(model="a/one", shards=[0, 1])
    other = make_run(model="b/two", seed=5)
    with pytest.warns(UserWarning, match="shards are missing"):
        build_database(made.root)
    study.write_layers(made.root, study.layers(made.root))
    make_run(model="a/one", shards=[2])  # a run that goes on
    build_database(made.root, ProfileSettings(sites=["final"], runs=["two-*"]))
    for name in (*MADE[:2], "layers", "hourglass"):
        assert read_table(made.root, name)["run"].unique().to_list() == [other.run_id], name
    assert "rows of table layers (their runs changed or left the store)" in caplog.text
    shutil.rmtree(made.root / "runs" / other.run_id)
    build_database(made.root)
    assert read_table(made.root, "spectra")["run"].unique().to_list() == [made.run_id]
    assert read_table(made.root, "layers").is_empty()


@pytest.mark.slow
def test_rows_of_other_arithmetic_go(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_run().root
    build_database(root)
    monkeypatch.setattr(run_rows, "KERNEL_VERSION", 999)
    build_database(root, ProfileSettings(sites=["final"]))
    assert read_table(root, "spectra")["site"].unique().to_list() == ["final"]


@pytest.mark.slow
def test_texts_are_compared_as_they_stand_side_by_side(make_run: MakeRun) -> None:
    def flagged(name: str) -> set[str]:
        rows = read_table(root, name).filter(pl.col("flags").list.contains("different_prompts"))
        return {run.split("-")[0] for run in rows["run"]}

    root = make_run(model="a/one").root
    make_run(model="b/two", seed=5, prompt_set="other")
    third = make_run(model="c/six", seed=6)
    compared = ("profiles", "site_profiles", "metrics", "layers")
    for run in ("one-*", "six-*", "two-*"):
        only = ProfileSettings(runs=[run])
        write_database(root, analyze(root, replace(only, metrics=["rankme"])))
        study.write_layers(root, study.layers(root, LayersSettings(runs=[run])))
        mixed = {"one", "six", "two"} if run == "two-*" else set()
        assert {name: flagged(name) for name in compared} == dict.fromkeys(compared, mixed)
    shutil.rmtree(root / "runs" / third.run_id)
    for folder in (root / "runs").glob("two-*"):
        shutil.rmtree(folder)
    build_database(root)
    assert {name: flagged(name) for name in compared} == {name: set() for name in compared}


@pytest.mark.slow
def test_fewer_layers_make_no_score_of_a_whole_model(make_run: MakeRun) -> None:
    sites = ("embed", *(f"block.{k}" for k in range(1, 7)), "final")
    root = make_run(sites=sites).root
    study.write_layers(root, study.layers(root, LayersSettings(errors="all")))
    before = tables(root, ("layers", "hourglass"))
    study.write_layers(
        root, study.layers(root, LayersSettings(sites=["block.1", "block.2", "final"]))
    )
    assert_same(root, before)


@pytest.mark.slow
def test_the_command_prints_what_it_was_asked_and_counts_what_is_held(make_run: MakeRun) -> None:
    root = str(make_run().root)
    for arguments in ((), ("--sites", "final")):
        done = CliRunner().invoke(main, ["profile", root, "--all", *arguments])
        assert done.exit_code == 0, done.output
        words = " ".join(done.stdout.split())
        assert f"4 profiles of 4 sites are in {root}/profiles.duckdb." in words


@pytest.mark.slow
def test_rows_of_a_database_from_before_series_stay(
    make_run: MakeRun, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_run(model="a/one").root
    make_run(model="b/two", seed=5, series=Series(name="ours", step=3))
    write_database(root, analyze(root))
    before = tables(root)
    with connect(root, write=True) as connection:
        for column in ("series", "step"):
            connection.execute(f"ALTER TABLE lpp.runs DROP COLUMN {column}")
    write_database(root, analyze(root, ProfileSettings(runs=["one-*"], sites=["final"])))
    assert_same(root, before)
    assert "not kept" not in caplog.text
    runs = read_table(root, "runs").sort("model")
    assert runs.select("series", "step").rows() == [(None, None), ("ours", 3)]
