"""Every command of the three programs: help with an example, interrupts, a full output."""

import inspect
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from terminal import HOSTILE, on_terminal, steering

from lpp.store.terminal.options import RunArgument


def commands() -> Iterator[tuple[str, click.Command]]:
    """(words to type, command) of every command, groups included."""
    from lpp.analyze.cli.command import main as analyze
    from lpp.capture.cli.command import main as capture
    from lpp.sql.cli import main as sql

    for name, command in (("lpp-analyze", analyze), ("lpp-capture", capture), ("lpp-sql", sql)):
        yield from below(name, command)


def below(words: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """A command and, of a group, all of its commands."""
    yield words, command
    if isinstance(command, click.Group):
        for word, inner in sorted(command.commands.items()):
            yield from below(f"{words} {word}", inner)


COMMANDS = dict(commands())
SNAPSHOT = Path(__file__).parent / "snapshots" / "help.txt"


@pytest.mark.parametrize(
    "words", [w for w, c in COMMANDS.items() if not isinstance(c, click.Group)]
)
def test_help_shows_an_example_and_describes_every_option(words: str) -> None:
    command = COMMANDS[words]
    text = help_text(command)
    assert words.split(maxsplit=1)[0] in text.partition("Options:")[0].partition("\n\n")[2], (
        "no example"
    )
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            said = parameter.help or ""
            assert re.fullmatch(r"[A-Z].*\.", said, re.DOTALL), (
                f"{words} {parameter.opts[-1]}: {said}"
            )


def test_help_is_as_the_snapshot_says() -> None:
    """What commands say is written down in one place, so that no change of it goes unseen."""
    text = "\n\n".join(snapshot(words, command) for words, command in COMMANDS.items()) + "\n"
    if os.environ.get("LPP_WRITE_SNAPSHOTS"):
        SNAPSHOT.write_text(text, "utf-8")
    assert text == SNAPSHOT.read_text("utf-8"), (
        "Help has changed. If it should: "
        "LPP_WRITE_SNAPSHOTS=1 python -m pytest tests/test_commands.py -k snapshot"
    )


def snapshot(words: str, command: click.Command) -> str:
    """A command's own words, whatever click makes of them on a terminal."""
    lines = [f"=== {words}", "", inspect.cleandoc(command.help or "").replace("\b\n", ""), ""]
    for parameter in command.params:
        if isinstance(parameter, RunArgument):
            lines += [parameter.make_metavar(click.Context(command)), f"    {parameter.help}"]
        if isinstance(parameter, click.Option):
            names = ", ".join(sorted(parameter.opts, key=len))
            choices = getattr(parameter.type, "choices", ())
            value = parameter.metavar or "|".join(map(str, choices))
            lines += [f"{names} {value}".rstrip(), f"    {parameter.help}"]
    return "\n".join(lines)


@pytest.mark.parametrize("words", COMMANDS)
def test_help_fits_eighty_columns(words: str) -> None:
    assert [line for line in help_text(COMMANDS[words]).splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("words", COMMANDS)
def test_a_typo_is_one_message_and_exit_code_two(words: str) -> None:
    result = CliRunner().invoke(COMMANDS[words], ["--no-such-option"])
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize("words", COMMANDS)
def test_run_was_an_option_where_it_is_an_argument(words: str) -> None:
    command = COMMANDS[words]
    result = CliRunner().invoke(command, ["lpp", "--run", "base"])
    named = any(parameter.name in {"run", "runs"} for parameter in command.params)
    assert ("Name the run: " in result.output) == named
    if named:
        assert (result.exit_code, "STORE RUN" in result.output) == (2, True)


@pytest.mark.parametrize("words", COMMANDS)
def test_a_list_is_given_once(words: str) -> None:
    """Click would take the last one and drop the others without a word."""
    for option in COMMANDS[words].params:
        if not isinstance(option, click.Option) or option.is_flag or option.multiple:
            continue
        for name in option.opts if listed(option) else ():
            result = CliRunner().invoke(COMMANDS[words], [name, "1", name, "2"])
            assert result.exit_code == 2, name
            assert f"{option.opts[0]} is given 2 times" in " ".join(result.output.split()), name


def listed(option: click.Option) -> bool:
    """Whether a user reads that the option takes a list."""
    return (option.metavar or "").endswith((",...", "NAMES"))


def test_lists_are_those_that_commas_separate() -> None:
    options = [one for command in COMMANDS.values() for one in command.params]
    for one in options:
        if isinstance(one, click.Option):
            of_settings = getattr(one.callback, "__qualname__", "").startswith("callback_of.")
            several = of_settings and not one.multiple and one.metavar != "N"  # a number, or a word
            assert listed(one) == several, one.name


def help_text(command: click.Command) -> str:
    """What `--help` prints on a terminal of 80 columns."""
    result = CliRunner(env={"COLUMNS": "80"}).invoke(command, ["--help"], terminal_width=80)
    assert result.exit_code == 0, result.output
    return result.output


PROGRAMS = {"lpp-sql": ("SELECT 1 AS one",), "lpp-analyze": ("verify",), "lpp-capture": ("status",)}
"""The first words of a short command of each program."""


@pytest.fixture
def words(empty_store: Path) -> Callable[[str], list[str]]:
    """Called with a program's name: its short command on a store without runs."""

    def of(program: str) -> list[str]:
        first = PROGRAMS[program]
        path = str(Path(sys.executable).with_name(program))
        if program == "lpp-sql":
            return [path, str(empty_store), *first]
        return [path, *first, str(empty_store)]

    return of


@pytest.fixture
def empty_store(tmp_path: Path) -> Path:
    """A store without runs and with empty tables; `verify` has one line to say of it."""
    from lpp.sql import TABLES, arrow_schema, build

    root = tmp_path / "store"
    root.mkdir()
    (root / "lpp.json").write_text('{"format": "lpp-store", "version": 1}')
    build(root, {name: arrow_schema(name).empty_table() for name in TABLES})
    return root


INTERRUPT_AT_IMPORT = """
import os, signal, sys

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPT_AT"]:
            open(os.environ["INTERRUPTED"], "w").close()
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "module"),
    [
        ("lpp-sql", "click"),
        ("lpp-sql", "duckdb"),
        ("lpp-analyze", "numpy"),
        ("lpp-capture", "lpp.capture.engine.status"),
    ],
)
def test_ctrl_c_while_a_module_is_imported(
    program: str, module: str, words: Callable[[str], list[str]], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT_AT_IMPORT)
    seen = tmp_path / "seen"
    environment = {
        "PYTHONPATH": str(tmp_path),
        "INTERRUPT_AT": module,
        "INTERRUPTED": str(seen),
    }
    done = subprocess.run(
        words(program), capture_output=True, text=True, check=False, env=os.environ | environment
    )
    assert seen.exists()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip().startswith("Interrupted.")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_ctrl_c_in_the_first_half_second(program: str, words: Callable[[str], list[str]]) -> None:
    for delay in (0.0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5):
        with subprocess.Popen(
            words(program), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            while process.poll() is None and not catches(process.pid, signal.SIGTERM):
                time.sleep(0.001)  # Python itself starts
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            try:
                _, error = process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()  # or leaving the block would wait for it
                raise
        assert "Traceback" not in error
        if process.returncode == (1 if program == "lpp-analyze" else 0):  # the command was faster
            continue
        assert process.returncode == 2, error
        assert error.strip().splitlines()[-1].startswith("Interrupted.")


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler of its own for a signal; false once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False
    (caught,) = (int(x.split()[1], 16) for x in status.splitlines() if x.startswith("SigCgt"))
    return bool(caught >> (number - 1) & 1)


@pytest.mark.slow
def test_signals_that_were_ignored_at_the_start_stay_ignored(
    words: Callable[[str], list[str]], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT_AT_IMPORT)
    environment = {"PYTHONPATH": str(tmp_path), "INTERRUPT_AT": "duckdb"}
    done = subprocess.run(
        ["sh", "-c", 'trap "" INT; exec "$@"', "_", *words("lpp-sql")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment | {"INTERRUPTED": str(tmp_path / "seen")},
    )
    assert (tmp_path / "seen").exists()
    assert (done.returncode, done.stderr) == (0, "")
    assert "one" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_path_that_steers_is_shown(program: str, words: Callable[[str], list[str]]) -> None:
    command = [word.replace("store", f"no {HOSTILE}") for word in words(program)]
    code, received = on_terminal(command)
    assert code == 2
    assert steering(received.decode()) == set()
    assert r"\u202e" in received.decode()
