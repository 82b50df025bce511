"""What a long step reports to, and what a job of several steps shows: the library prints nothing.

`store.terminal.progress` shows it on a terminal, in a notebook or in a log.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Final


class Progress:
    """Receives the progress of a long step, and lines for the user. This one reports nothing."""

    def expect(self, amount: int) -> None:
        """The step has `amount` units in all."""

    def advance(self, amount: int = 1) -> None:
        """`amount` more units are done."""

    def note(self, text: str) -> None:
        """One line for the log, such as a shard that was committed."""

    def warn(self, line: str) -> None:
        """A line that the user has to see, such as what is left out."""


SILENT: Final = Progress()
"""The default of every library function of one step: reports nothing."""


class Display:
    """Shows what a job of several steps does. This one shows nothing."""

    def say(self, text: str) -> None:
        """Show lines for the user."""

    def step(self, title: str, total: int, unit: str) -> AbstractContextManager[Progress]:
        """Show a long step of `total` units until the block ends."""
        return nullcontext(SILENT)


class Kept(Display, Progress):
    """Shows nothing, and keeps the lines that the user has to see."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def step(self, title: str, total: int, unit: str) -> AbstractContextManager[Progress]:
        """Keep the lines of a step too."""
        del title, total, unit
        return nullcontext(self)

    def warn(self, line: str) -> None:
        """Keep `line`."""
        self.lines.append(line)


BLANK: Final = Display()
"""The default of every library function of several steps: shows nothing."""
