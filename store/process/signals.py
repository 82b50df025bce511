"""Requests to end a command: Ctrl-C, a scheduler's SIGTERM, a terminal that closes.

From the start of the process a request ends it at once (`end_at_once`): nothing is open yet. While
the command runs (`polite_ends`) a request raises KeyboardInterrupt in the main thread and is
remembered, because the exception comes out of whatever line was running: a library may replace it
by an error of its own (pydantic does while it builds a schema), and Python drops it in a callback
or a destructor. Imports nothing heavy.
"""

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader
from typing import Any, Final, NoReturn

REQUESTS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a scheduler, a terminal that closes."""

EXIT_USER_ERROR: Final = 2
"""Exit code of a command that was interrupted, or whose user has to change something."""

INTERRUPTED: Final = "Interrupted. Everything committed so far stays; the same command resumes."

_AGAIN_SECONDS: Final = 0.02
"""Seconds from a KeyboardInterrupt that Python dropped, or that had to wait, until the next."""

_requested = threading.Event()


def end_at_once() -> None:
    """Until a command runs and after it has ended, each request ends the process with one line.

    Signals that the process was started to ignore, as under nohup, stay ignored.
    """
    for number in _handled():
        signal.signal(number, _exit)
    sys.unraisablehook = _ask_again
    # The first function to be registered runs last: after it, only Python's own exit remains.
    atexit.register(_ignore)


@contextmanager
def polite_ends() -> Iterator[None]:
    """Until the block ends, each request raises KeyboardInterrupt, and so does an error after one.

    Signals that the process was started to ignore, as under nohup, stay ignored.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in _handled()}
    for number in before:
        signal.signal(number, _end)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a library's panic need not be an Exception
        if _requested.is_set():
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if before:  # not an inner block, whose requests are the outer one's too
            _requested.clear()


def check_requests() -> None:
    """Raise KeyboardInterrupt if the process was asked to end and the first one was dropped."""
    if _requested.is_set():
        raise KeyboardInterrupt


def _handled() -> list[signal.Signals]:
    """The requests that nobody else handles or ignores."""
    as_started = (signal.SIG_DFL, signal.default_int_handler, _exit)
    return [number for number in REQUESTS if signal.getsignal(number) in as_started]


def _end(number: int, frame: Any) -> None:
    _requested.set()
    if not _loads_native_code(frame):
        raise KeyboardInterrupt
    threading.Thread(target=_interrupt_again, daemon=True).start()


def _loads_native_code(frame: Any) -> bool:
    """Whether an extension module is being imported. Some (nanobind's, such as DuckDB's) abort the
    process when Python code that they call meanwhile raises.
    """
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), ExtensionFileLoader):
            return True
        frame = frame.f_back
    return False


def _exit(number: int, frame: Any) -> NoReturn:
    try:
        os.write(2, b"Interrupted.\n")
    finally:
        os._exit(EXIT_USER_ERROR)


def _ignore() -> None:
    for number in REQUESTS:
        if signal.getsignal(number) is _exit:
            signal.signal(number, signal.SIG_IGN)


def _ask_again(dropped: "sys.UnraisableHookArgs") -> None:
    """What Python cannot raise: of a KeyboardInterrupt no traceback, but another one."""
    if not issubclass(dropped.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(dropped)
        return
    threading.Thread(target=_interrupt_again, daemon=True).start()


def _interrupt_again() -> None:
    """Send SIGINT in a moment, once the main thread has left `_ask_again`, in which Python drops it
    as well.
    """
    time.sleep(_AGAIN_SECONDS)
    while _is_asking():
        time.sleep(_AGAIN_SECONDS)
    os.kill(os.getpid(), signal.SIGINT)


def _is_asking() -> bool:
    """Whether the main thread is inside `_ask_again`."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None and frame.f_code is not _ask_again.__code__:
        frame = frame.f_back
    return frame is not None
