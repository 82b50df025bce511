"""Where the three programs start: signals are handled before anything heavy is imported.

Importing a command line takes 50 ms to seconds, in which Ctrl-C would end in a traceback. So this
module handles signals first, and then imports the program: Ctrl-C gives one line and an exit code.
"""

import importlib

from lpp.store.process.signals import end_at_once


def capture() -> None:
    """`lpp-capture`."""
    _start("lpp.capture.cli.command")


def analyze() -> None:
    """`lpp-analyze`."""
    _start("lpp.analyze.cli.command")


def sql() -> None:
    """`lpp-sql`."""
    _start("lpp.sql.cli")


def _start(command_line: str) -> None:
    end_at_once()
    importlib.import_module(command_line).main()
