"""Profiles on a terminal, which may lack a character."""

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_runs import MakeRun

from lpp.analyze.cli.command import main


def printed(*arguments: object) -> str:
    result = CliRunner().invoke(main, ["profile", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def on_a_terminal(*arguments: object, **environment: str) -> str:
    """What a terminal shows of `lpp-analyze profile`."""
    program = str(Path(sys.executable).with_name("lpp-analyze"))
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [program, "profile", *map(str, arguments)],
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "80", **environment},
    ) as process:
        os.close(theirs)
        shown = io.BytesIO()
        try:
            while part := os.read(ours, 1 << 16):
                shown.write(part)
        except OSError:  # Linux ends the reading of a terminal so
            pass
        finally:
            os.close(ours)
        errors = process.stderr.read() if process.stderr else b""
    assert process.returncode == 0, errors.decode()
    return shown.getvalue().decode().replace("\r\n", "\n")


@pytest.mark.slow
def test_a_terminal_of_ascii_gets_the_same_words(make_run: MakeRun) -> None:
    root = make_run().root
    shown = on_a_terminal(root, PYTHONIOENCODING="ascii", NO_COLOR="1")
    assert shown.isascii()
    known = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹─–", "0123456789--")
    full = printed(root).translate(known)
    for plain, line in zip(shown.splitlines(), full.splitlines(), strict=True):
        assert plain.replace("+-", " ± ").split() == line.split()
        assert len(plain) <= max(len(line), 80)
