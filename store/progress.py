"""What a long step reports to: every library function takes one, and prints nothing itself.

`store.commands.progress` shows it on a terminal, in a notebook or in a log.
"""

from typing import Final, Protocol


class Progress(Protocol):
    """Receives the progress of a long step, and lines worth keeping."""

    def advance(self, amount: int = 1) -> None:
        """`amount` more units are done."""

    def note(self, text: str) -> None:
        """One line for the log, such as a shard that was committed."""


class _Silent:
    def advance(self, amount: int = 1) -> None: ...

    def note(self, text: str) -> None: ...


SILENT: Final[Progress] = _Silent()
"""The default of every library function: reports nothing."""
