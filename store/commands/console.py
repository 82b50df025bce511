"""What the three command lines share: one-message errors, exit codes, progress.

A command opens, calls the library and prints. Whatever the library raises on purpose
(`LppError`) becomes one message on stderr and exit code 2, and so does Ctrl-C; anything else
is a bug and says how to see its traceback. Imports nothing heavy: `lpp-sql` starts through it.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import click

from lpp.store.commands.signals import polite_ends
from lpp.store.errors import LppError

EXIT_USER_ERROR = 2

INTERRUPTED = "Interrupted. Everything committed so far stays; the same command resumes."


class LppGroup(click.Group):
    """A click group whose commands turn library errors into one message and exit code 2."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        return run_command(super().main, *args, **kwargs)


class LppCommand(click.Command):
    """The same for a command line that is one command."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        return run_command(super().main, *args, **kwargs)


def run_command(main: Any, *args: Any, **kwargs: Any) -> Any:
    """Call click's `main`; end the process with a message rather than a traceback."""
    if not kwargs.pop("standalone_mode", True):
        return main(*args, standalone_mode=False, **kwargs)
    try:
        with polite_ends():
            result = main(*args, standalone_mode=False, **kwargs)
    except click.ClickException as error:  # usage errors: click's own text and code, which is 2
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo(INTERRUPTED, err=True)
        code = EXIT_USER_ERROR
    except LppError as error:
        if debugging():
            raise
        click.echo(f"Error: {error}", err=True)
        code = EXIT_USER_ERROR
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if debugging():
            raise
        click.echo(
            f"Error: {type(error).__name__}: {error}\n"
            "This is a bug in lpp-engine or a case it does not know. "
            "Repeat the command with --debug for the traceback.",
            err=True,
        )
        code = 1
    else:
        code = result if isinstance(result, int) else 0
    sys.exit(code)


def debugging() -> bool:
    """Whether the user asked for tracebacks and the libraries' own warnings."""
    return "--debug" in sys.argv or bool(os.environ.get("LPP_DEBUG"))


def debug_option(command: Any) -> Any:
    """`--debug`: show the traceback of an error. `run_command` reads it from the command line."""
    return click.option(
        "--debug", is_flag=True, expose_value=False, help="Show tracebacks instead of messages."
    )(command)


class Progress(Protocol):
    """What a long step reports to: how far it is, and lines worth keeping."""

    def advance(self, amount: int = 1) -> None:
        """`amount` more units are done."""

    def note(self, text: str) -> None:
        """One line for the log, such as a shard that was committed."""


class _Silent:
    def advance(self, amount: int = 1) -> None: ...

    def note(self, text: str) -> None: ...


SILENT: Progress = _Silent()
"""The default of every library function: reports nothing."""


@contextmanager
def progress(title: str, total: int, unit: str) -> Iterator[Progress]:
    """A progress bar that ends in the last note; elsewhere (a batch job's log) a line per note."""
    if not sys.stderr.isatty():
        yield _LogLines(title, total, unit)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn(
            "{task.fields[note]}",
            style="dim",
            markup=False,
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        ),
    )
    with RichProgress(*columns, console=Console(stderr=True), expand=True) as bar:
        task = bar.add_task(title, total=total, note="")
        yield _Bar(lambda n: bar.advance(task, n), lambda text: bar.update(task, note=text))


class _Bar:
    def __init__(self, advance: Callable[[int], None], note: Callable[[str], None]) -> None:
        self._advance, self._note = advance, note

    def advance(self, amount: int = 1) -> None:
        self._advance(amount)

    def note(self, text: str) -> None:
        self._note(text)


class _LogLines:
    def __init__(self, title: str, total: int, unit: str) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._done = 0
        self._start = time.monotonic()

    def advance(self, amount: int = 1) -> None:
        self._done += amount

    def note(self, text: str) -> None:
        seconds = time.monotonic() - self._start
        click.echo(
            f"{self._title}: {self._done}/{self._total} {self._unit} after {seconds:.0f} s: {text}",
            err=True,
        )
