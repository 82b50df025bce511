"""What a terminal receives of names that steer, and what a file or a pipe keeps."""

import os
import subprocess
import sys

import pytest
from terminal import HOSTILE, SHOWN, STEERING, on_terminal, steering

from lpp.store.terminal.escaping import escape

SCRIPT = f"""
import sys, time, warnings
import click
from lpp.sql.results.output import text_output
from lpp.store.terminal.console import LppGroup
from lpp.store.terminal.progress import progress
from lpp.store.errors import ErrorKind, InputError

NAME = {HOSTILE!r}


@click.group(cls=LppGroup)
def main():
    pass


@main.command()
def caption():
    click.echo(f"model {{NAME}}")
    click.echo(f"run {{NAME}}", err=True)


@main.command()
def fails():
    raise InputError(f"no model {{NAME}}", kind=ErrorKind.NOT_FOUND)


@main.command()
def bug():
    raise ZeroDivisionError(NAME)


@main.command()
def warns():
    warnings.warn(NAME)


@main.command()
def usage():
    raise click.BadParameter(f"no such option {{NAME}}")


@main.command()
def data():
    with text_output(None) as stream:
        stream.write(f"{{NAME}},é\\n")


@main.command()
def bar():
    with progress(f"Read {{NAME}}", 2, "runs") as shown:
        shown.advance()
        shown.note(f"note {{NAME}}")
        click.echo(f"above {{NAME}}")
        time.sleep(0.2)
        shown.advance()


@main.command()
def table():
    click.echo("┌──┬──┐ │ 1 ± 2 █ é \\udcff")


main()
"""
PYTHON = (sys.executable, "-c", SCRIPT.encode("ascii", "backslashreplace").decode())


def test_every_steering_character_is_shown_and_every_other_is_kept() -> None:
    for character in STEERING:
        assert escape(f"a{character}b") not in (f"a{character}b", "ab")
    assert escape("\ud800") == r"\ud800"
    kept = "a é 漢 \u3000 \u00a0 👩\u200d💻 \\x1b \n\t"
    assert escape(kept) == kept
    assert escape(HOSTILE) == SHOWN
    assert escape("a\nb\tc", keep="") == r"a\x0ab\x09c"


@pytest.mark.parametrize(
    ("command", "code", "count"),
    [
        *(("caption", 0, 2), ("fails", 2, 1), ("bug", 1, 1)),
        *(("warns", 0, 1), ("usage", 2, 1), ("data", 0, 1)),
    ],
)
@pytest.mark.parametrize("debug", ["", "1"])
def test_no_name_steers_a_terminal(command: str, code: int, count: int, debug: str) -> None:
    done, received = on_terminal((*PYTHON, command), {"LPP_DEBUG": debug})
    text = received.decode()
    assert done == code
    assert steering(text) == set()
    assert text.count(SHOWN) >= count


def test_an_option_that_does_not_exist_is_named_without_steering() -> None:
    done, received = on_terminal((*PYTHON, "caption", "--" + HOSTILE.replace("\0", "")))
    assert done == 2
    assert steering(received.decode()) == set()
    assert SHOWN in received.decode()


def test_a_bar_steers_and_the_names_in_it_do_not() -> None:
    done, received = on_terminal((*PYTHON, "bar"), {"COLUMNS": "300"})
    text = received.decode()
    assert done == 0
    assert "━" in text
    assert "\x1b[2K" in text  # the bar's own
    for name in ("Read ", "note ", "above "):
        assert name + SHOWN in text
    for steers in ("\x1b[2J", "\x1b]", "\x9b", "\u202e", "\u2066", "\x7f", "\x07"):
        assert steers not in text


def test_lines_printed_under_a_bar_go_where_standard_output_goes() -> None:
    read, write = os.pipe()
    done, received = on_terminal((*PYTHON, "bar"), {"COLUMNS": "300"}, stdout=write)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read().decode().startswith("above ")
    assert done == 0
    assert b"above" not in received


def test_a_pipe_keeps_data_exact_and_in_utf_8_whatever_the_locale() -> None:
    for locale in ({}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}):
        done = run("data", locale)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == f"{HOSTILE},é\n".encode()


@pytest.mark.parametrize(
    "locale",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
def test_an_encoding_that_lacks_a_character_gets_a_stand_in(locale: dict[str, str]) -> None:
    done, received = on_terminal((*PYTHON, "table"), locale)
    assert done == 0
    assert received == b"+--+--+ | 1 +- 2 # \\xe9 \\udcff\r\n"
    piped = run("table", locale)
    assert (piped.returncode, piped.stderr) == (0, b"")
    assert piped.stdout == "┌──┬──┐ │ 1 ± 2 █ é \\udcff\n".encode()


def test_a_command_without_standard_output_ends_well() -> None:
    done = subprocess.run(
        ["bash", "-c", '"$@" >&-', "_", *PYTHON, "caption"], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"Traceback" not in done.stderr


def run(command: str, environment: dict[str, str]) -> "subprocess.CompletedProcess[bytes]":
    kept = {k: v for k, v in os.environ.items() if k not in ("LPP_DEBUG", "PYTHONUTF8", "LC_ALL")}
    return subprocess.run(
        [*PYTHON, command], capture_output=True, check=False, timeout=30, env=kept | environment
    )
