"""Profiles and tokens on a terminal, which may lack a character or room."""

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from made_runs import MakeRun

from lpp.analyze.cli.command import main
from lpp.analyze.pages.terminal import tail
from lpp.analyze.runs.words import Words
from lpp.store.format.tables import VOCABULARY_SCHEMA


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


def test_words_put_characters_together_and_name_what_has_no_bytes() -> None:
    spelled = [b"a", "é".encode()[:1], "é".encode()[1:], None]
    table = pa.table([[0, 1, 2, 5], spelled, ["a", "?", "?", "<s>"]], schema=VOCABULARY_SCHEMA)
    words = Words(table)
    assert words.text([5, 0, 1, 2, 0]) == "<s>aéa"
    assert words.text([1, 0]) == "\ufffda"
    assert words.text([3, 9]) == "<3><9>"  # ids that no token has
    assert words.text([]) == ""
    assert Words(None).text([4, 5]) == "<4><5>"


# text


def test_a_long_context_ends_at_the_token() -> None:
    assert tail("字" * 30, 11) == "…" + "字" * 5
    assert tail("\n" * 9, 8) == "…" + "\\n" * 3
