"""Progress of a long step: a bar on a terminal or in a notebook, a line for each note elsewhere.

rich, which draws the bar of a terminal, is imported when there is a terminal.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Final

import click

from lpp.store.progress import Display, Progress
from lpp.store.terminal.escaping import escape, safe_streams, unescaped
from lpp.store.units import fold

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

PAUSE: Final = 5.0
"""Seconds between two lines of progress in a log: a line per site would hide other lines."""


class Shown(Display):
    """A display on standard error; in a notebook, which shows that as an alarm, in the output of
    the cell.
    """

    def say(self, text: str) -> None:
        if in_notebook():  # it folds lines itself, at its own width
            click.echo(text)
        else:
            lines = (fold(line, f"{_indent(line)}  ") for line in text.split("\n"))
            click.echo("\n".join(chain.from_iterable(lines)), err=True)

    def step(self, title: str, total: int, unit: str) -> AbstractContextManager[Progress]:
        return progress(title, total, unit)


SHOWN: Final = Shown()
"""What commands and notebooks show."""


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


@contextmanager
def progress(title: str, total: int, unit: str) -> Iterator[Progress]:
    """A progress bar that ends in the last note; elsewhere, as in a batch job's log, lines.

    total: 0 where the step itself says how much it has to do (`Progress.expect`): the bar begins
    then, so that a step that is refused before shows none.
    """
    if in_notebook():
        from lpp.store.terminal.notebook_bar import notebook_bar

        with notebook_bar(title, total, unit) as shown:
            yield shown
        return
    if not sys.stderr.isatty():
        lines = _LogLines(title, total, unit)
        try:
            yield lines
        finally:
            lines.end()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.elapsed:.0f} s,"),  # moves while one unit takes long
        TimeRemainingColumn(),
        TextColumn("left"),
        TextColumn(
            "{task.fields[note]}",
            style="dim",
            markup=False,
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        ),
    )
    bar = RichProgress(
        *columns,
        console=Console(file=unescaped(sys.stderr)),
        expand=True,
        redirect_stdout=sys.stdout.isatty(),  # rich would send a pipe's lines to the terminal
    )
    with ExitStack() as stack:
        on_terminal = _Bar(bar, title, stack)
        if total:
            on_terminal.expect(total)
        yield on_terminal


class _Step(Progress):
    def warn(self, line: str) -> None:
        click.echo(line, err=not in_notebook())


class _Bar(_Step):
    """The bar of a terminal; it begins once it is known how much there is to do."""

    def __init__(self, bar: "RichProgress", title: str, stack: ExitStack) -> None:
        self._bar, self._stack = bar, stack
        self._task = bar.add_task(escape(title, keep=""), total=None, note="")

    def expect(self, amount: int) -> None:
        self._bar.update(self._task, total=amount)
        if self._bar.live.is_started:
            return
        # While the bar is there, rich's streams print above it: what they are given is escaped.
        self._stack.enter_context(self._bar)
        self._stack.enter_context(safe_streams())

    def advance(self, amount: int = 1) -> None:
        self._bar.advance(self._task, amount)

    def note(self, text: str) -> None:
        self._bar.update(self._task, note=escape(text, keep=""))


class _LogLines(_Step):
    """Lines of a log, at least `PAUSE` seconds apart; of the notes in between, only the last is
    printed.
    """

    def __init__(self, title: str, total: int, unit: str) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._done = 0
        self._start, self._shown = time.monotonic(), -PAUSE
        self._held = ""

    def expect(self, amount: int) -> None:
        self._total = amount

    def advance(self, amount: int = 1) -> None:
        self._done += amount

    def note(self, text: str) -> None:
        seconds = time.monotonic() - self._start
        self._held = (
            f"{self._title}: {self._done}/{self._total} {self._unit} after {seconds:.0f} s: {text}"
        )
        if seconds - self._shown >= PAUSE:
            self._shown = seconds
            self.end()

    def end(self) -> None:
        """Write the last note, if nobody has seen it."""
        if self._held:
            click.echo(self._held, err=True)
        self._held = ""
