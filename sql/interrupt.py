"""Ctrl-C while DuckDB works. Not every call of every release of it looks at signals."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_AGAIN_SECONDS = 0.1  # an interrupt between two queries of `work` is lost: ask until it ends


def interruptible(connection: "DuckDBPyConnection", work: Callable[[], None]) -> None:
    """Run `work`, which uses `connection`, in a thread, so that Ctrl-C stops it at once."""
    raised: list[BaseException] = []
    done = threading.Event()  # not `join`: interrupted, Python 3.11 takes the thread for ended

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)
        finally:
            done.set()

    threading.Thread(target=run, daemon=True).start()
    try:
        done.wait()
    except KeyboardInterrupt:
        while not done.is_set():
            connection.interrupt()
            done.wait(_AGAIN_SECONDS)
        raise
    if raised:
        raise raised[0]
