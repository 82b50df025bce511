"""Run a query that stops at Ctrl-C and at a time limit."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from lpp.store.errors import ErrorKind, InputError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_AGAIN_SECONDS = 0.1  # an interrupt between two queries of `work` is lost, so it is repeated


def run_limited(connection: "DuckDBPyConnection", work: Callable[[], None], seconds: float) -> None:
    """Run `work`, which uses `connection`, in a thread, so that Ctrl-C stops it at once.

    In the main thread it might not: some calls of some DuckDB releases ignore signals. Raises
    InputError(TIMED_OUT) if it takes longer than `seconds`.
    """
    raised: list[BaseException] = []
    # Not `join`: after an interrupt, Python 3.11 treats the thread as ended.
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
        # Inside the block, because an interrupt may arrive in `start`: a thread that is in DuckDB
        # when Python ends aborts the process.
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
