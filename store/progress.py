"""What a long step reports to, and what a job of several steps shows: the library prints nothing.

`store.terminal.progress` shows it on a terminal, in a notebook or in a log.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol


class Progress(Protocol):
    """Receives the progress of a long step, and lines worth keeping."""

    def advance(self, amount: int = 1) -> None:
        """`amount` more units are done."""

    def note(self, text: str) -> None:
        """One line for the log, such as a shard that was committed."""


class Display(Protocol):
    """Shows what a job of several steps does."""

    def say(self, text: str) -> None:
        """Show lines for the user."""

    def step(self, title: str, total: int, unit: str) -> AbstractContextManager[Progress]:
        """Show a long step of `total` units until the block ends."""
        ...


class _Silent:
    def advance(self, amount: int = 1) -> None: ...

    def note(self, text: str) -> None: ...


class _Blank:
    def say(self, text: str) -> None: ...

    @contextmanager
    def step(self, title: str, total: int, unit: str) -> Iterator[Progress]:
        yield SILENT


SILENT: Final[Progress] = _Silent()
"""The default of every library function of one step: reports nothing."""

BLANK: Final[Display] = _Blank()
"""The default of every library function of several steps: shows nothing."""
