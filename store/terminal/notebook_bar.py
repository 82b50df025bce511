"""A progress bar in a notebook: one output of the cell, drawn again as the step goes on.

Jupyter's own display protocol is enough: no widgets, so nothing has to be installed in the page,
and a saved notebook shows the last state.
"""

import html
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final

import click

from lpp.store.progress import Progress
from lpp.store.terminal.escaping import escape

_SECONDS: Final = 0.2
"""Between two drawings."""


@contextmanager
def notebook_bar(title: str, total: int, unit: str) -> Iterator["NotebookBar"]:
    """A bar in the output of the cell that runs. It keeps its last state when the block ends."""
    bar = NotebookBar(title, total, unit)
    bar.draw()
    try:
        yield bar
    finally:
        bar.draw()


class NotebookBar(Progress):
    """`Progress` as an output of a cell.

    The thread that runs the cell makes the output: one of another thread may reach no cell. Every
    thread updates it.
    """

    def __init__(self, title: str, total: int, unit: str) -> None:
        self._title, self._total, self._unit = escape(title, keep=""), total, unit
        self._done, self._note = 0, ""
        self._start = self._drawn = time.monotonic()
        self._handle: Any = None

    def expect(self, amount: int) -> None:
        """The step has `amount` units in all: draw them."""
        self._total = amount
        self.draw()

    def warn(self, line: str) -> None:
        """Print `line` in the cell."""
        click.echo(line)

    def advance(self, amount: int = 1) -> None:
        """`amount` more units are done."""
        self._done += amount
        self._update()

    def note(self, text: str) -> None:
        """Show `text` beside the bar."""
        self._note = escape(text, keep="")
        if self._handle is not None:
            self._update()

    def _update(self) -> None:
        if time.monotonic() - self._drawn >= _SECONDS:
            self.draw()

    def draw(self) -> None:
        """Show how far the step is, once it is known how much there is to do."""
        if not self._total:
            return
        display: Any = import_module("IPython.display").display

        self._drawn = time.monotonic()
        if self._handle is None:
            self._handle = display(self, display_id=True)
        else:
            self._handle.update(self)

    def __repr__(self) -> str:
        seconds = time.monotonic() - self._start
        note = f": {self._note}" if self._note else ""
        return (
            f"{self._title}: {self._done:,} of {self._total:,} {self._unit}, {seconds:.0f} s{note}"
        )

    def _repr_html_(self) -> str:
        text = html.escape(repr(self))
        return f'<progress value="{self._done}" max="{self._total}"></progress> <code>{text}</code>'
