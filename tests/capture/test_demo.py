"""The demo on a few short passages: three runs, one line of drift, commands that work."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lpp.analyze import diff
from lpp.capture.cli.demo import activation
from lpp.store import open_store

SMALL = """
import sys
from lpp.capture.cli import command, demo
demo.PROMPTS, demo.CONTEXT = 12, 20
try:
    command.main(["demo", "--store", "demo"])
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""
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
        words = [sys.executable, "-c"] if code == SMALL else ["bash", "-euc"]
        return subprocess.run(
            [*words, code],
            cwd=tmp_path,
            env={**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "COLUMNS": "80"},
            capture_output=True,
            text=True,
            check=False,
        )

    return show


@pytest.mark.slow
def test_the_demo_says_what_rounding_changed_and_loads_no_model_twice(
    run_here: Show, tmp_path: Path
) -> None:
    first = run_here(SMALL)
    assert first.returncode == 0, first.stderr
    assert first.stderr.splitlines()[-1] == "True"
    trained, rounded, twin = sorted(open_store(tmp_path / "demo").runs)
    assert re.search(r"q4-1-rounded-to-4-bits-[0-9a-f]{8}$", rounded)
    assert "untrained" in twin

    found = diff(tmp_path / "demo", trained, rounded, sites=["final"], errors="none")
    said = LINE.search(first.stdout)
    assert said is not None, first.stdout
    kl, flips = found.predictions["kl"], found.predictions["flips"]
    assert flips.mean is not None
    assert said.groups() == (f"{kl.mean:.2f}", f"{kl.stderr:.2f}", f"{100 * flips.mean:.0f}")
    # of twelve passages of Python's documentation, which differ between its releases
    assert kl.mean == pytest.approx(0.86, abs=0.15)
    assert flips.mean == pytest.approx(0.51, abs=0.08)
    lines = [line for line in first.stdout.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 80

    printed = COMMAND.findall(first.stdout)
    assert [command.split()[0] for command in printed] == ["lpp-analyze", *["lpp-sql"] * 3]
    for command in printed:
        done = run_here(command)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert done.stdout

    again = run_here(SMALL)
    assert (again.returncode, again.stdout) == (0, first.stdout), again.stderr
    assert again.stderr.splitlines()[-1] == "False"  # each run was found without its model


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
