"""Files of scores that are no regular ones, and logs of inspect without inspect_ai."""

import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_runs import MakeRun

from lpp.analyze.cli.command import main
from lpp.store import read_scores

LOGS = Path(__file__).parent / "inspect_logs"


@pytest.mark.parametrize("name", ["planets.eval", "planets.json"])
def test_without_inspect_its_logs_are_refused(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)  # an import of it fails
    root = make_run(lengths=(4, 5), context=5, sites=("final",)).root
    done = CliRunner().invoke(main, ["benchmarks", "add", str(root), str(LOGS / name)])
    assert done.exit_code == 2, done.output
    assert len(done.stderr.strip().splitlines()) == 1
    assert len(read_scores(root)) == 0


@pytest.mark.parametrize(
    "name",
    ["log.eval", "results_1.json", "2026-01-02T03-04-05+00-00_planets_x.json", "scores.csv"],
)
def test_a_pipe_in_a_folder_of_logs_is_one_message(
    make_run: MakeRun, tmp_path: Path, name: str
) -> None:
    root = make_run(lengths=(4, 5), context=5, sites=("final",)).root
    logs = tmp_path / "logs"
    logs.mkdir()
    os.mkfifo(logs / name)
    for given in (logs, logs / name) if name != "scores.csv" else (logs / name,):
        done = CliRunner().invoke(main, ["benchmarks", "add", str(root), str(given)])
        assert done.exit_code == 2, done.output
        assert "a pipe" in done.stderr
