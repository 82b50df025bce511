"""What the three programs share: -h, --version and `python -m`."""

import subprocess
import sys
from importlib.metadata import version

import pytest
from click.testing import CliRunner

from lpp.analyze.cli.command import main as lpp_analyze
from lpp.capture.cli.command import main as lpp_capture
from lpp.sql.cli import main as lpp_sql

PROGRAMS = {"capture": lpp_capture, "analyze": lpp_analyze, "sql": lpp_sql}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("flag", ["-h", "--help", "--version"])
def test_options_of_every_program(name: str, flag: str) -> None:
    done = CliRunner().invoke(PROGRAMS[name], [flag], prog_name=f"lpp-{name}")
    assert done.exit_code == 0
    expected = version("lpp-engine") if flag == "--version" else f"Usage: lpp-{name}"
    assert expected in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_each_program_is_a_module_too(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"lpp.{name}", "--version"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert version("lpp-engine") in done.stdout
