"""The demo: the table and the line that the README shows, and commands that work."""

import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from printed import alike, differences

from lpp.analyze import DiffSettings, ProfileSettings, analyze, diff
from lpp.capture.cli.demo import activation
from lpp.store import open_store

DEMO = """
import sys
from lpp.capture.cli import command
try:
    command.main(["demo", "--store", "demo"])
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""
ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(
    r"^Rounded to 4 bits: KL (\d+\.\d\d) ± (\d+\.\d\d) nats a token, (\d+)% of predictions flip\.",
    re.MULTILINE,
)
COMMAND = re.compile(r"^  (lpp-[a-z]+ (?:diff )?demo .*\\(?:\n   +.*)+)", re.MULTILINE)

Show = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_here(tmp_path: Path) -> Show:
    """Runs Python code, or else a line of a shell, beside the demo's store."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def show(code: str) -> "subprocess.CompletedProcess[str]":
        words = [sys.executable, "-c"] if code == DEMO else ["bash", "-euc"]
        return subprocess.run(
            [*words, code],
            cwd=tmp_path,
            env={**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "COLUMNS": "80"},
            capture_output=True,
            text=True,
            check=False,
        )

    return show


def rank_of(store: Path, run: str, prompts: int) -> str:
    """The participation ratio at `final`, with its error, as tables of the documents have it."""
    some = ProfileSettings(runs=[run], sites=["final"], contexts=[200], prompts=[prompts])
    row = analyze(store, some).profiles().row(0, named=True)
    return f"{row['participation_ratio']:.1f} ± {row['participation_ratio_stderr']:.1f}"


def test_the_words_of_the_readme_agree_with_its_table() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    labels = "entropy(?: / ln V)?|participation ratio|effective rank"
    table = re.findall(rf"^(?:{labels}) +([\d.]+) +([\d.]+) +([\d.]+)$", readme, re.M)
    share, nats, participation, effective = (list(map(float, numbers)) for numbers in table)
    assert f"among {math.exp(nats[0]):.0f} equally likely tokens ({nats[0]:.2f} nats)" in readme
    assert share[2] > 0.98  # near ln V
    assert 1.4 < nats[1] / nats[0] < 1.5  # raised by nearly half
    assert all(0.9 < ranks[1] / ranks[0] < 1.1 for ranks in (participation, effective))
    assert all(ranks[0] < ranks[2] for ranks in (participation, effective))
    prefix = re.findall(r"\((\d+)\)", readme.partition("\nparticipation ratio ")[2])[0]
    assert f"{participation[0]:.2f} with ({prefix}) below it" in readme
    said = LINE.search(readme)
    assert said is not None
    assert f"most likely next token at {said[3]} % of the positions" in readme


@pytest.mark.slow
@pytest.mark.timeout(1800)  # the whole demo: two minutes on quiet cores
def test_the_demo_prints_what_the_readme_shows_and_loads_no_model_twice(
    run_here: Show, tmp_path: Path
) -> None:
    first = run_here(DEMO)
    assert first.returncode == 0, first.stderr
    assert first.stderr.splitlines()[-1] == "True"
    trained, rounded, twin = sorted(open_store(tmp_path / "demo").runs)
    assert re.search(r"q4-1-rounded-to-4-bits-[0-9a-f]{8}$", rounded)
    assert "untrained" in twin

    readme = (ROOT / "README.md").read_text("utf-8")
    *_, shown = re.findall(r"^```text\n(.*?)^```$", readme, re.DOTALL | re.M)
    found = differences(shown, first.stdout)
    assert not found, "\n".join(found)
    (size,) = re.findall(r"^\| SmolLM2-135M, .* \| 100 \| (\d+) MB \(measured\)", readme, re.M)
    files = filter(Path.is_file, (tmp_path / "demo" / "runs" / trained).rglob("*"))
    assert sum(path.stat().st_size for path in files) == pytest.approx(1e6 * int(size), rel=0.01)

    drift = diff(tmp_path / "demo", trained, rounded, DiffSettings(sites=["final"], errors="none"))
    said = LINE.search(first.stdout)
    assert said is not None, first.stdout
    kl, flips = drift.predictions["kl"], drift.predictions["flips"]
    assert flips.mean is not None
    assert said.groups() == (f"{kl.mean:.2f}", f"{kl.stderr:.2f}", f"{100 * flips.mean:.0f}")
    lines = [line for line in first.stdout.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 80

    printed = COMMAND.findall(first.stdout)
    assert [command.split()[0] for command in printed] == ["lpp-analyze", *["lpp-sql"] * 3]
    for command in printed:
        done = run_here(command)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert done.stdout

    again = run_here(DEMO)
    assert (again.returncode, again.stdout) == (0, first.stdout), again.stderr
    assert again.stderr.splitlines()[-1] == "False"  # each run was found without its model
    steady = (ROOT / "docs" / "how-to" / "steadiness.md").read_text("utf-8")
    for row, run in (("SmolLM2-135M", trained), ("its untrained twin", twin)):
        (cells,) = re.findall(rf"^\| {row} \| (.+? \| .+?) \|", steady, re.M)
        assert alike(cells, " | ".join(rank_of(tmp_path / "demo", run, n) for n in (10, 100)))
    shutil.rmtree(tmp_path / "demo")  # 1.5 GB


def test_what_to_source_is_named_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "project" / ".venv" / "bin" / "activate"
    script.parent.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(sys, "executable", str(script.with_name("python")))
    monkeypatch.chdir(tmp_path / "project")
    assert activation() is None
    script.touch()
    assert activation() == Path(".venv/bin/activate")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert activation() == script
