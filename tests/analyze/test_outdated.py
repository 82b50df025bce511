"""A run that grew or changed since its numbers were computed: every reader of them says so."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from made_runs import Made, MakeRun
from on_disk import on_disk

from lpp.analyze import (
    LayersSettings,
    ProfileSettings,
    analyze,
    build_database,
    write_report,
)
from lpp.analyze.cli.command import main as lpp_analyze
from lpp.analyze.pages.words import plain
from lpp.analyze.report.content import report
from lpp.analyze.studies import layers as study
from lpp.analyze.tables.build import write_database
from lpp.capture.cli.command import main as lpp_capture
from lpp.sql import connect
from lpp.sql.cli import main as lpp_sql
from lpp.sql.database.connect import recorded_in
from lpp.store import open_store
from lpp.store.runs.fingerprint import stated_fingerprints

COUNT = "SELECT n_prompts FROM runs ORDER BY run"


@pytest.fixture
def grown(make_run: MakeRun) -> Made:
    """A run of three shards, profiled when it had two, beside a whole run."""
    make_run(model="a/one", shards=[0, 1])
    made = make_run(model="b/two", seed=5)
    with pytest.warns(UserWarning, match="shards are missing"):
        build_database(made.root)
    return make_run(model="a/one", shards=[2])


def said(done: Result) -> str:
    assert done.exit_code == 0, done.output
    return done.stdout


def status(root: Path, form: str) -> str:
    return said(CliRunner().invoke(lpp_capture, ["status", str(root), "--format", form]))


def outdated(root: Path) -> list[int | None]:
    return [run["outdated_prompts"] for run in json.loads(status(root, "json"))["runs"]]


@pytest.mark.slow
def test_every_reader_names_it_and_the_next_command(
    grown: Made, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    root, command = grown.root, f"lpp-analyze profile {grown.root}"
    assert said(CliRunner().invoke(lpp_sql, [str(root), COUNT, "--format", "csv"])) == (
        "n_prompts\n4\n6\n"
    )
    connect(root).close()
    messages = [one.getMessage() for one in caplog.records if one.name == "lpp.sql"]
    for message in messages:
        assert f"{grown.run_id} (the tables have 4 prompts of it)" in message
        assert command in message
    assert len(messages) == 2, caplog.messages
    assert outdated(root) == [4, None]
    table = "".join(status(root, "table").split())  # a long path is broken at any letter
    for words in ("since its numbers were computed, of 4 prompts", command):
        assert "".join(words.split()) in table
    page = report(str(root))
    (problem, whole) = (origin.problem for origin in page.origin.runs)
    assert problem is not None
    assert "its numbers are of 4 prompts" in problem
    assert whole is None
    for name in ("page.html", "page.md"):
        (path,) = write_report(str(root), tmp_path / name)
        assert "its numbers are of 4 prompts" in path.read_text("utf-8")


@pytest.mark.slow
def test_correlations_of_old_numbers_are_said_to_be(
    grown: Made, caplog: pytest.LogCaptureFixture
) -> None:
    CliRunner().invoke(lpp_analyze, ["correlate", str(grown.root)])
    assert any("(the tables have 4 prompts of it)" in message for message in caplog.messages)


@pytest.mark.slow
def test_nothing_is_said_once_the_numbers_are_new(
    grown: Made, caplog: pytest.LogCaptureFixture
) -> None:
    build_database(grown.root)
    caplog.clear()
    connect(grown.root).close()
    assert caplog.messages == []
    assert outdated(grown.root) == [None, None]
    assert "profile" not in status(grown.root, "table")
    assert all(origin.problem is None for origin in report(str(grown.root)).origin.runs)


@pytest.mark.slow
def test_a_shard_that_was_written_again_counts(
    make_run: MakeRun, caplog: pytest.LogCaptureFixture
) -> None:
    made = make_run()
    build_database(made.root)
    run = open_store(made.root).runs[made.run_id]
    assert stated_fingerprints(made.root) == {made.run_id: run.fingerprint}
    assert recorded_in(made.root)[made.run_id][0] == run.fingerprint
    shutil.rmtree(on_disk(run.shards[1].path))
    connect(made.root).close()
    assert made.run_id in caplog.text
    assert outdated(made.root) == [6]


@pytest.mark.slow
def test_a_shard_that_is_committed_during_an_analysis_is_not_in_its_numbers(
    make_run: MakeRun,
) -> None:
    made = make_run(shards=[0, 1])
    analysis = analyze(made.root)
    make_run(shards=[2])
    write_database(made.root, analysis)
    assert outdated(made.root) == [4]


def test_a_store_without_numbers_has_no_old_ones(make_run: MakeRun) -> None:
    assert outdated(make_run().root) == [None]


@pytest.mark.slow
def test_a_report_says_that_runs_lack_a_curve(make_run: MakeRun) -> None:
    sites = ("block.1", "block.2", "final")
    one = make_run(model="a/one", sites=sites)
    make_run(model="b/two", sites=sites, seed=5)
    root = str(one.root)
    build_database(root, ProfileSettings(sites=["final"]))
    study.write_layers(root, study.layers(root, LayersSettings(runs=["one-*"], skip_first=(0, 2))))
    curves = ("Ranks by depth of 1 run", "Ranks by depth without the first 2 positions of 1 run")
    lacking = plain(report(root).lacking)
    assert all(curve in lacking for curve in curves)
    study.write_layers(root, study.layers(root, LayersSettings(runs=["two-*"], skip_first=(0, 2))))
    assert "Ranks by depth" not in plain(report(root).lacking)


@pytest.mark.slow
def test_a_report_says_that_runs_were_compared_with_no_other(make_run: MakeRun) -> None:
    runs = [make_run(model=f"lab/{name}", seed=5) for name in "abc"]
    root = str(runs[0].root)
    build_database(root)
    a, b, c = (made.run_id for made in runs)
    for other, lacks in ((b, True), (c, False)):
        assert CliRunner().invoke(lpp_analyze, ["diff", root, a, other]).exit_code == 0
        lacking = plain(report(root).lacking)
        assert ("A comparison of 1 run" in lacking) == lacks
