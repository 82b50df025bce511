"""Run a query that ends at Ctrl-C and when its time is over."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from lpp.store.errors import ErrorKind, InputError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_AGAIN_SECONDS = 0.1  # an interrupt between two queries of `work` is lost: ask until it ends


def run_limited(connection: "DuckDBPyConnection", work: Callable[[], None], seconds: float) -> None:
    """Run `work`, which uses `connection`, in a thread, so that Ctrl-C stops it at once: not every
    call of every release of DuckDB looks at signals.

    Raises InputError(TIMED_OUT) where it takes longer than `seconds`.
    """
    raised: list[BaseException] = []
    # Not `join`: after an interrupt, Python 3.11 believes that the thread has ended.
    done = threading.Event()
    begun, cancelled = threading.Event(), threading.Event()

    def run() -> None:
        begun.set()
        try:
            if not cancelled.is_set():
                work()
        except BaseException as error:
            raised.append(error)
        finally:
            done.set()

    try:
        # Inside, since an interrupt may come out of `start`: a thread that stays in DuckDB while
        # Python ends aborts the process.
        threading.Thread(target=run, daemon=True).start()
        in_time = done.wait(min(seconds, threading.TIMEOUT_MAX))
    except KeyboardInterrupt:
        cancelled.set()
        if begun.is_set():
            _stop(connection, done)
        raise
    if not in_time:
        _stop(connection, done)
        raise InputError(
            f"the query was stopped after {seconds:g} seconds. Give it longer with "
            "--timeout SECONDS, or ask for fewer rows.",
            kind=ErrorKind.TIMED_OUT,
        )
    if raised:
        raise raised[0]


def _stop(connection: "DuckDBPyConnection", done: threading.Event) -> None:
    while not done.is_set():
        connection.interrupt()
        done.wait(_AGAIN_SECONDS)
