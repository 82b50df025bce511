"""What a person at a terminal, and a script, see of success and failure."""

import os
import re
import subprocess
import sys

import pytest
from terminal import on_terminal

SCRIPT = """
import os, signal, sys, threading, time
import click
from lpp.store.terminal.console import LppGroup, debug_option
from lpp.store.terminal.progress import progress
from lpp.store.process.signals import end_at_once
from lpp.store.errors import ErrorKind, InputError


@click.group(cls=LppGroup)
def main():
    pass


@main.command()
@click.option("--times", type=int, default=1)
@debug_option
def act(times):
    what = sys.stdin.readline().strip()
    if what == "lpp":
        raise InputError("no such model: 'x'. Try `lpp-capture run --help`.",
                         kind=ErrorKind.NOT_FOUND)
    if what == "interrupt":
        raise KeyboardInterrupt
    if what in ("SIGINT", "SIGTERM", "SIGHUP"):
        try:
            os.kill(os.getpid(), getattr(signal, what))
            time.sleep(60)
        except KeyboardInterrupt:  # what a library did that was interrupted
            raise InputError("cannot be loaded", kind=ErrorKind.CORRUPT) from None
    if what.startswith("dropped"):
        end_at_once()  # as the three programs do before anything else
        if what == "dropped on a busy machine":
            start = threading.Thread.start
            threading.Thread.start = lambda thread: (start(thread), time.sleep(0.5))
        class Dropping:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)
        Dropping()
        time.sleep(60)
    if what == "native import":
        from importlib.machinery import ExtensionFileLoader
        class Native(ExtensionFileLoader):
            def exec_module(self, module):  # as nanobind: an error here aborts the process
                try:
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(0.2)
                except KeyboardInterrupt:
                    os.abort()
        Native("native", "native.so").exec_module(None)
        time.sleep(60)
    if what == "panic":
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        except KeyboardInterrupt:
            raise BaseException("panic") from None
    if what == "closed":
        raise PermissionError(13, "Permission denied", "/data/lpp/runs")
    if what == "bug":
        raise ZeroDivisionError("by nothing")
    if what == "code":
        return 7
    if what == "exit":
        sys.exit(5)
    click.echo("done")


@main.command()
def work():
    with progress("capture", 3, "shards") as bar:
        for k in range(3):
            bar.advance()
            bar.note(f"shard {k} of [markup]")


@main.command()
def wait():
    with progress("capture", 3, "shards") as bar:
        time.sleep(2.5)


main()
"""


def call(what: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    kept = {k: v for k, v in os.environ.items() if k not in ("LPP_DEBUG", "NO_COLOR", "COLUMNS")}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *(arguments or ("act",))],
        input=what + "\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env=kept | environment,
    )


def test_success() -> None:
    done = call("")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    assert call("code").returncode == 7
    assert call("exit").returncode == 5


def test_a_file_of_somebody_else_is_no_bug() -> None:
    done = call("closed")
    assert (done.returncode, done.stdout) == (2, "")
    assert "/data/lpp/runs" in done.stderr
    assert "bug" not in done.stderr


def test_help_is_success() -> None:
    done = call("", "act", "--help")
    assert done.returncode == 0
    assert "--debug" in done.stdout


def test_error_on_purpose_is_one_message() -> None:
    done = call("lpp")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "Error: no such model: 'x'. Try `lpp-capture run --help`.\n"


@pytest.mark.parametrize("arguments", [("act", "--times", "x"), ("act", "--nope"), ("nope",)])
def test_usage_error(arguments: tuple[str, ...]) -> None:
    done = call("", *arguments)
    assert done.returncode == 2
    assert "Usage:" in done.stderr
    assert "Traceback" not in done.stderr


def test_interrupt() -> None:
    done = call("interrupt")
    assert done.returncode == 2
    assert done.stderr.strip().startswith("Interrupted. Everything committed so far stays")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("request_to_end", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("words", [("act",), ("act", "--debug")])
def test_an_error_that_a_library_made_of_an_interrupt_is_one(
    request_to_end: str, words: tuple[str, ...]
) -> None:
    done = call(request_to_end, *words)
    assert done.returncode == 2
    assert done.stderr.startswith("Interrupted. Everything committed so far stays")
    assert "cannot be loaded" not in done.stderr


@pytest.mark.parametrize("what", ["dropped", "dropped on a busy machine", "native import", "panic"])
def test_an_interrupt_that_python_or_a_library_drops_ends_the_command(what: str) -> None:
    done = call(what)
    assert done.returncode == 2
    assert done.stderr.strip().startswith("Interrupted. Everything committed so far stays")
    assert "Traceback" not in done.stderr
    assert "panic" not in done.stderr


def test_unexpected_exception_tells_how_to_see_more() -> None:
    done = call("bug")
    assert done.returncode == 1
    assert "Error: ZeroDivisionError: by nothing" in done.stderr
    assert "--debug" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("what", "name"), [("lpp", "lpp.store.errors.InputError"), ("bug", "ZeroDivisionError")]
)
def test_debug_shows_the_traceback(what: str, name: str) -> None:
    for done in (call(what, "act", "--debug"), call(what, LPP_DEBUG="1")):
        assert done.returncode == (2 if what == "lpp" else 1)
        assert "Traceback (most recent call last)" in done.stderr
        assert done.stderr.strip().splitlines()[-1].startswith(f"{name}: ")


BUFFERED = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
"""An ordinary environment: with that variable, nothing stays in a buffer until the process ends."""


@pytest.mark.parametrize("variables", [{}, {"PYTHONUNBUFFERED": "1"}])
def test_reader_that_goes_away_is_no_bug(variables: dict[str, str]) -> None:
    command = f"{sys.executable} -c '{SCRIPT_PRINTING}' | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env=BUFFERED | variables,
    )
    assert (done.stdout, done.stderr) == ("0\n1\n", "")


SCRIPT_PRINTING = """
import click
from lpp.store.terminal.console import LppCommand

@click.command(cls=LppCommand)
def main():
    for k in range(100000):
        click.echo(k)

main()
"""


def test_progress_in_a_log_is_the_first_note_and_the_last_one() -> None:
    """And one every few seconds between: three come at once."""
    done = call("", "work")
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    for k, line in zip((0, 2), lines, strict=True):
        assert re.fullmatch(
            rf"capture: {k + 1}/3 shards after \d+ s: shard {k} of \[markup\]", line
        )


def test_progress_on_a_terminal_is_a_bar() -> None:
    code, received = on_terminal([sys.executable, "-c", SCRIPT, "work"])
    shown = received.decode()
    assert code == 0
    assert "━" in shown
    assert "3/3" in shown
    assert "shard 2 of [markup]" in shown
    assert "after" not in shown


@pytest.mark.slow
def test_seconds_move_on_a_terminal_while_the_count_stands_still() -> None:
    code, received = on_terminal([sys.executable, "-c", SCRIPT, "wait"])
    assert code == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", received.decode())
    assert {*re.findall(r"(\d)/3 shards", plain)} == {"0"}
    assert len({*re.findall(r"(\d+) s, +-:--:-- left", plain)}) > 1


FULL = "no room to write (No space left on device)"


@pytest.mark.parametrize("flags", [(), ("-u",)])
def test_a_full_standard_output_is_one_message(flags: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        for script in (SCRIPT, SCRIPT_PRINTING):
            done = subprocess.run(
                [sys.executable, *flags, "-c", script, *(["act"] if script is SCRIPT else [])],
                stdin=subprocess.DEVNULL,
                stdout=full,
                stderr=subprocess.PIPE,
                env=BUFFERED,
                text=True,
                check=False,
                timeout=30,
            )
            assert done.returncode == 2
            assert done.stderr.startswith(f"Error: standard output: {FULL}")
            assert len(done.stderr.splitlines()) == 1


def test_a_full_standard_error_is_no_traceback_and_keeps_the_exit_code() -> None:
    with open("/dev/full", "wb") as full:
        for what, command, code in (
            ("lpp", "act", 2),
            ("bug", "act", 1),
            ("code", "act", 7),
            ("usage", "no such command", 2),
        ):
            done = subprocess.run(
                [sys.executable, "-c", SCRIPT, command],
                input=what.encode(),
                stdout=subprocess.PIPE,
                stderr=full,
                env=BUFFERED,
                check=False,
                timeout=30,
            )
            assert (done.returncode, done.stdout) == (code, b"")


def test_library_use_of_a_command_raises() -> None:
    import click

    from lpp.store.errors import ErrorKind, InputError
    from lpp.store.terminal.console import LppCommand

    @click.command(cls=LppCommand)
    def fails() -> None:
        raise InputError("no", kind=ErrorKind.NOT_FOUND)

    with pytest.raises(InputError):
        fails.main([], standalone_mode=False)
