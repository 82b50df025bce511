"""Requests to stop a capture: the first finishes the current shards, the second exits.

Python runs signal handlers between two steps of the main thread, which may be far apart: a forward
pass, a wait for a device. So a thread reads the signals from the pipe to which the interpreter
writes at once (`signal.set_wakeup_fd`). After a second signal, or after `GRACE_SECONDS`, this
thread ends the process if the main thread does not.

Committed shards are complete whenever a process ends. The next writer removes the attempts,
heartbeats and shared files that it left.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

from lpp.store.process.signals import EXIT_USER_ERROR, INTERRUPTED, REQUESTS, check_requests
from lpp.store.progress import BLANK, Display

GRACE_SECONDS: Final = 60.0
"""Time to finish the current shard after the first request."""

TIDY_SECONDS: Final = 3.0
"""Time for closing files and engines after the second request; then the process exits."""

_OVER: Final = 0
"""The byte that ends the watcher: no signal has the number 0."""


class Stop:
    """Whether a capture was requested to stop, and which shard it may still finish."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requested = self._finished = False
        self._under_way: int | None = None

    @property
    def requested(self) -> bool:
        """Whether no further shard may begin."""
        return self._requested

    def begin(self, shard: int) -> bool:
        """Whether `shard` may begin; a later request lets it finish."""
        with self._lock:
            if not self._requested:
                self._under_way = shard
            return not self._requested

    @property
    def finished(self) -> bool:
        """Whether every shard is committed: a request to stop has then no effect."""
        return self._finished

    def finish(self) -> None:
        """Note that every shard is committed; what follows only frees memory."""
        self._finished = True

    def request(self) -> int | None:
        """Let no further shard begin; returns the current one, if any has begun."""
        with self._lock:
            self._requested = True
            return self._under_way


@contextlib.contextmanager
def stoppable(
    n_shards: int, grace: float = GRACE_SECONDS, display: Display = BLANK
) -> Iterator[Stop]:
    """Until the block ends, a first request sets the flag, and a second raises KeyboardInterrupt.

    n_shards: of the run, for the message in `display`. grace: seconds after the first request that
    count as a second request. Signals that the process was started to ignore, as under nohup, stay
    ignored; outside the main thread, which alone may handle signals, the flag is never set. An
    error after a second request becomes KeyboardInterrupt: a library may replace KeyboardInterrupt
    with its own exception.
    """
    check_requests()
    stop = Stop()
    heard = [s for s in REQUESTS if signal.getsignal(s) is not signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread() or not heard:
        yield stop
        return
    watcher = _Watcher(stop, n_shards, grace, heard, display)
    before = {number: signal.signal(number, watcher.handle) for number in heard}
    wakeup = signal.set_wakeup_fd(watcher.pipe, warn_on_full_buffer=False)
    watcher.start()
    try:
        yield stop
    except Exception as error:
        if watcher.at_once:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        watcher.end()


class _Watcher(threading.Thread):
    """Reads the numbers of signals as they arrive.

    pipe: the interpreter writes the numbers to it. at_once: whether the second has arrived.
    """

    def __init__(
        self,
        stop: Stop,
        n_shards: int,
        grace: float,
        heard: list[signal.Signals],
        display: Display,
    ) -> None:
        super().__init__(name="lpp-stop", daemon=True)
        self._flag, self._n_shards, self._grace, self._heard = stop, n_shards, grace, heard
        self._say = display.say
        self._source, self.pipe = os.pipe()
        os.set_blocking(self.pipe, False)
        self.at_once = self._over = False

    def handle(self, number: int, frame: Any) -> None:
        """The interpreter's signal handler; does nothing before the second request."""
        if self.at_once:
            raise KeyboardInterrupt

    def end(self) -> None:
        """End the watcher, unless a second request came: then the process must end."""
        self._over = True
        if not self.at_once:
            os.write(self.pipe, bytes([_OVER]))
            self.join()
            os.close(self.pipe)
            os.close(self._source)

    def run(self) -> None:
        """Wait for the first request, then for the second or for `grace` seconds."""
        if self._request(None) is False:
            return
        shard = self._flag.request()
        after = "" if shard is None else f" after shard {shard + 1} of {self._n_shards}"
        if self._flag.finished:
            after = ": every shard is committed, the model is closing"
        self._say(f"Stopping{after} ({self._grace:g} s at most); again to stop at once.")
        again = self._request(self._grace)
        if again is False:
            return
        if again is None:
            self._say(f"{self._grace:g} s have passed: stopping at once.")
        self.at_once = True
        # a real signal wakes a main thread that waits for a lock
        signal.pthread_kill(threading.main_thread().ident or 0, self._heard[0])
        time.sleep(TIDY_SECONDS)
        if not self._over:  # otherwise the command prints this line
            self._say(INTERRUPTED)
        os._exit(EXIT_USER_ERROR)

    def _request(self, seconds: float | None) -> bool | None:
        """True for a request, False for the end of the block, None after `seconds`."""
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not select.select([self._source], [], [], left)[0]:
                return None
            number = os.read(self._source, 1)[0]
            if number == _OVER:
                return False
            if number in self._heard:
                return True
