"""Scores that are no source: twice there, of units that do not go together, in odd files."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_runs import MakeRun

from lpp.analyze.cli.command import main
from lpp.analyze.questions import Unit
from lpp.analyze.scores.scores import Added
from lpp.store import read_scores
from lpp.store.errors import InputError

AddFile = Callable[..., Added]


def table(*values: float, benchmark: str = "BBH") -> bytes:
    rows = [f"m{k},{benchmark},acc,{value}\n" for k, value in enumerate(values, start=1)]
    return ("model,benchmark,metric,value\n" + "".join(rows)).encode()


def test_twice_names_both_places(add_file: AddFile) -> None:
    again = table(0.5, 0.25) + b"m1,BBH,acc,0.75\n"
    with pytest.raises(InputError, match=r"BBH \(acc\) of m1 .* 0\.5 at .*w 1, 0\.75 at .*w 3"):
        add_file(again, "m.csv")


def test_percent_beside_fraction_is_a_mixture(add_file: AddFile) -> None:
    message = r"BBH \(acc\) mixes .* 0\.34 at m.csv, row 2, 34 at m.csv, row 1"
    with pytest.raises(InputError, match=message) as refused:
        add_file(table(34.0, 0.34, 0.0), "m.csv")
    assert "--unit percent" in str(refused.value)


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        ((0.0, 0.5, 1.0), "auto"),
        ((0.0, 1.0, 34.0, 99.0), "auto"),
        ((0.34, 34.0), "percent"),
        ((0.34, 34.0, -7.0, 900.0), "other"),
        ((0.0, 1.0), "fraction"),
    ],
)
def test_one_unit_passes(add_file: AddFile, values: tuple[float, ...], unit: Unit) -> None:
    assert add_file(table(*values), "m.csv", unit=unit).table["value"].to_pylist() == [*values]


def test_each_benchmark_has_a_unit_of_its_own(add_file: AddFile) -> None:
    other = table(0.3, 0.4, benchmark="AR").partition(b"\n")[2]
    assert len(add_file(table(34.0, 45.0) + other, "m.csv").table) == 4


@pytest.mark.parametrize(
    ("values", "unit"), [((101.0,), "percent"), ((-1.0,), "percent"), ((1.5,), "fraction")]
)
def test_what_a_stated_unit_excludes(
    add_file: AddFile, values: tuple[float, ...], unit: Unit
) -> None:
    with pytest.raises(InputError, match=f"no {unit}, at m.csv, row 1"):
        add_file(table(*values), "m.csv", unit=unit)


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
