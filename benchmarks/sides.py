"""Sides of a comparison that need a process each, since their state is that of a process.

Each runs when it is told to; the others sleep meanwhile.
"""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

Make = Callable[[Path, int], Callable[[], object]]
"""Loads a side of some size, in a folder of its own; returns what is timed."""


class Side:
    """A process that does one thing again and again, and says how long it took."""

    def __init__(self, make: Make, folder: Path, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(make, folder, size, theirs))
        self._process.start()
        self._pipe.recv()  # loaded

    def seconds(self) -> float:
        """Run once."""
        self._pipe.send(True)
        taken: float = self._pipe.recv()
        return taken

    def close(self) -> None:
        """End the process."""
        self._pipe.send(False)
        self._process.join()


def _serve(make: Make, folder: Path, size: int, pipe: Connection) -> None:
    run = make(folder, size)
    pipe.send(0.0)
    while pipe.recv():
        start = time.perf_counter()
        run()
        pipe.send(time.perf_counter() - start)
