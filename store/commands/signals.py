"""Requests to end a command: Ctrl-C, a scheduler's SIGTERM, a terminal that closes.

Each raises KeyboardInterrupt in the main thread, and is remembered besides. For the exception
comes out of whatever line was running, and a library's line may make an error of its own of it (as
pydantic does while it builds a schema) or drop it (as Python does in a callback from C).
Imports nothing heavy.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

REQUESTS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a scheduler, a terminal that closes."""

_AS_STARTED: Final = (signal.SIG_DFL, signal.default_int_handler)

_requested = threading.Event()


@contextmanager
def polite_ends() -> Iterator[None]:
    """Until the block ends, each request raises KeyboardInterrupt, and so does an error after one.

    Signals that the process was started to ignore, as under nohup, stay ignored.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {n: handler for n in REQUESTS if (handler := signal.getsignal(n)) in _AS_STARTED}
    for number in before:
        signal.signal(number, _end)
    try:
        yield
    except Exception as error:
        if _requested.is_set():
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if before:  # not an inner block, whose requests are the outer one's too
            _requested.clear()


def check_requests() -> None:
    """Raise KeyboardInterrupt if the process was asked to end, and something dropped the first."""
    if _requested.is_set():
        raise KeyboardInterrupt


def _end(number: int, frame: Any) -> NoReturn:
    _requested.set()
    raise KeyboardInterrupt
