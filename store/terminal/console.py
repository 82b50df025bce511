"""Run a command: errors become one message and an exit code.

A command opens, calls the library and prints. An `LppError`, which the library raises on purpose,
becomes one message on standard error and exit code 2, and so do Ctrl-C and a full disk; anything
else is a bug, and its message says how to see the traceback. Imports nothing heavy: `lpp-sql`
starts through it.
"""

import contextlib
import errno
import math
import os
import stat
import sys
import traceback
from typing import IO, Any, Final

import click

from lpp.store.errors import LppError
from lpp.store.process.debugging import debugging
from lpp.store.process.signals import EXIT_USER_ERROR, INTERRUPTED, polite_ends
from lpp.store.terminal.escaping import safe_streams

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 80}
"""Settings of every program; its commands inherit them."""


class FiniteRange(click.FloatRange):
    """A number in a range. click takes nan, which no comparison leaves out, and infinities."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number; BadParameter for what is none."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class LppCommand(click.Command):
    """A click command that turns library errors into one message and exit code 2, and refuses a
    list that is given twice: click would drop all but the last.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"context_settings": SETTINGS, **kwargs})

    def main(self, *args: Any, **kwargs: Any) -> Any:
        return run_command(super().main, *args, **kwargs)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            try:
                _, _, given = self.make_parser(ctx).parse_args(args=[*args])
            except click.NoSuchOption as error:
                if error.option_name == "--run" and any(
                    p.name in ("run", "runs") for p in self.params
                ):
                    said = f"No such option: --run. Name the run: {ctx.command_path} STORE RUN"
                    raise click.NoSuchOption("--run", said, ctx=ctx) from None
                raise
            _check_once(ctx, given)
        return super().parse_args(ctx, args)


class LppGroup(click.Group):
    """A group of such commands."""

    command_class = LppCommand

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"context_settings": SETTINGS, **kwargs})

    def main(self, *args: Any, **kwargs: Any) -> Any:
        return run_command(super().main, *args, **kwargs)


def _check_once(ctx: click.Context, given: list[click.Parameter]) -> None:
    """Refuse a second list: of one value the last counts, as everywhere; of two lists, users expect
    both.
    """
    for param in given:
        if isinstance(param, click.Option) and (param.metavar or "").endswith((",...", "NAMES")):
            name, times = param.opts[0], given.count(param)
            if times > 1:
                raise click.UsageError(
                    f"{name} is given {times} times, and only the last list would count. Give it "
                    f"once, with all values: {name} A,B.",
                    ctx,
                )


def run_command(main: Any, *args: Any, **kwargs: Any) -> Any:
    """Call click's `main`; end the process with a message rather than a traceback."""
    if not kwargs.pop("standalone_mode", True):
        return main(*args, standalone_mode=False, **kwargs)
    code: Any  # an integer, or what a library gave to `sys.exit`
    with safe_streams():
        streams = sys.stdout, sys.stderr  # click wraps both when the reader of a pipe has gone
        try:
            code = _exit_code(main, *args, **kwargs)
        except SystemExit as end:
            code = end.code
        whole, _ = [_flushed(stream) for stream in streams]
    sys.exit(code or int(not whole))


def _exit_code(main: Any, *args: Any, **kwargs: Any) -> int:
    """Run `main` and say what went wrong; the exit code of the process."""
    try:
        with polite_ends():
            result = main(*args, standalone_mode=False, **kwargs)
            sys.stdout.flush()
    except click.ClickException as error:  # usage errors: click's own text and code, which is 2
        with contextlib.suppress(OSError):
            error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _say(INTERRUPTED)
        return EXIT_USER_ERROR
    except LppError as error:
        _say(traceback.format_exc() if debugging() else f"Error: {error}")
        return EXIT_USER_ERROR
    except BrokenPipeError:  # the reader of our output has closed the pipe, as `| head` does
        return 1
    except Exception as error:
        return _unexpected(error)
    return result if isinstance(result, int) else 0


def _unexpected(error: Exception) -> int:
    """Say that a disk is full or a file closed to this user, or else that this is a bug; the exit
    code.
    """
    code = 1
    message = (
        f"Error: {type(error).__name__}: {error}\n"
        "This is a bug in lpp-engine or a case it does not know. "
        "Repeat the command with --debug for the traceback."
    )
    if isinstance(error, OSError) and error.errno in _FULL:
        code = EXIT_USER_ERROR
        file = error.filename or ("standard output" if _may_be_full() else "a file")
        message = (
            f"Error: {file}: no room to write ({error.strerror}). "
            "Free some space (`df -h` shows the disk), then repeat the command."
        )
    elif isinstance(error, PermissionError) and error.filename:
        code = EXIT_USER_ERROR
        message = (
            f"Error: {error.filename}: this user may not read it ({error.strerror}). Ask its owner "
            "(`ls -ld` shows who that is), or name another file or store."
        )
    _say("".join(traceback.format_exception(error)) if debugging() else message)
    return code


def _say(text: str) -> None:
    """Print a message on standard error, if that can be written."""
    with contextlib.suppress(OSError):
        click.echo(text.rstrip("\n"), err=True)


def _flushed(stream: IO[str]) -> bool:
    """Whether `stream` accepted everything. If not, the rest is discarded: left in the buffer, it
    would make the interpreter print a second message as it ends, and exit with code 120.
    """
    try:
        stream.flush()
    except OSError:
        with contextlib.suppress(OSError):  # no descriptor: a stream of the process's own
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return False
    return True


def _may_be_full() -> bool:
    """Whether standard output is a file or a device; an unbuffered one forgets that it failed."""
    try:
        mode = os.fstat(sys.stdout.fileno()).st_mode
    except OSError:  # no descriptor: a stream of the process's own
        return False
    return stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and not sys.stdout.isatty())


def debug_option(command: Any) -> Any:
    """`--debug`: show the traceback of an error. `run_command` reads it from the command line."""
    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        help="Show the traceback of an error instead of one message.",
    )(command)


def version_option(command: Any) -> Any:
    """`--version`: of the package."""
    return click.version_option(package_name="lpp-engine")(command)
