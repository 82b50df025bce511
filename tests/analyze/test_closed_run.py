"""A run that this user may not read: each command names it, and none leaves it out in silence."""

import json
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from closed_files import closed
from made_runs import Made, MakeRun
from sealed import seal

from lpp.analyze import build_database
from lpp.analyze.cli.command import main as analyze
from lpp.capture.cli.command import main as capture


@pytest.fixture
def made(make_run: MakeRun) -> Made:
    """The second of two runs."""
    make_run(model="a/one")
    made = make_run(model="b/two", seed=5)
    build_database(made.root)
    return made


def without(made: Made, main: click.Command, words: Sequence[object]) -> Result:
    """What a command does while the run is closed."""
    texts = [*map(str, words)]
    CliRunner().invoke(main, [*texts[:1], "--help"])  # modules are loaded meanwhile
    with closed(made.root / "runs" / made.run_id):
        return CliRunner().invoke(main, texts)


@pytest.mark.slow
def test_status_shows_the_others(made: Made) -> None:
    done = without(made, capture, ["status", made.root, "--format", "json"])
    assert done.exit_code == 0, done.output
    runs = {run["run"]: run for run in json.loads(done.stdout)["runs"]}
    states = {name: run["state"] for name, run in runs.items()}
    assert states.pop(made.run_id) == "unreadable"
    assert [*states.values()] == ["complete"]
    assert made.run_id in runs[made.run_id]["problem"]


@pytest.mark.slow
def test_verify_verifies_the_others(made: Made) -> None:
    done = without(made, analyze, ["verify", made.root])
    assert done.exit_code == 1, done.output
    assert f"runs/{made.run_id}/COMMIT.json" in done.stdout
    assert "2 problems" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["publish", "index", "profile", "diff"])
def test_no_other_command_leaves_it_out(made: Made, tmp_path: Path, command: str) -> None:
    words: dict[str, list[object]] = {
        "publish": [made.root, "--to", tmp_path / "public"],
        "diff": [made.root, "--against", "one"],
    }
    done = without(made, analyze, [command, *words.get(command, [made.root])])
    assert done.exit_code == 2
    assert made.run_id in done.stderr
    assert "bug" not in done.stderr
    assert not (tmp_path / "public").exists()
    assert not (made.root / "index.json").exists()


def of_a_newer_release(place: Path) -> None:
    """Give a run a record of a format that no release knows."""
    record = place / "COMMIT.json"
    record.write_bytes(seal({**json.loads(record.read_bytes()), "format": 99}))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["profile", "layers", "cka"])
@pytest.mark.parametrize("harm", ["closed", "newer"])
def test_the_run_that_is_named_suffices(made: Made, command: str, harm: str) -> None:
    """The other one is named in a line, and its rows of the database stay."""
    words = [command, made.root, "one", "--format", "csv"]
    expected = CliRunner().invoke(analyze, [*map(str, words)])
    database = (made.root / "profiles.duckdb").read_bytes()
    if harm == "newer":
        of_a_newer_release(made.root / "runs" / made.run_id)
        done = CliRunner().invoke(analyze, [*map(str, words)])
    else:
        done = without(made, analyze, words)
    assert done.exit_code == expected.exit_code == 0, done.output
    assert made.run_id in done.stderr
    assert done.stdout == expected.stdout
    assert (made.root / "profiles.duckdb").read_bytes() == database


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["closed", "newer"])
def test_two_runs_that_are_named_suffice(made: Made, make_run: MakeRun, harm: str) -> None:
    make_run(model="c/three", seed=6)
    for words in (
        ["diff", made.root, "one", "three"],
        ["diff", made.root, "--against", "one", "three"],
        ["profile", made.root, "one", "three"],
    ):
        if harm == "newer":
            of_a_newer_release(made.root / "runs" / made.run_id)
            done = CliRunner().invoke(analyze, [*map(str, words)])
        else:
            done = without(made, analyze, words)
        assert done.exit_code == 0, done.output
        assert made.run_id in done.stderr
