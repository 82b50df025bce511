"""Threads for the work of a command: sites, and the tasks of each site.

There are `jobs` threads, each with one BLAS thread. A thread takes a site and submits the site's
products and eigensolves as tasks. While it waits for a task, it works on other tasks, of its own or
of another site. So many small sites run at once, one large site uses every thread, and at most
`jobs` threads compute at any time. A task's result does not depend on the thread or the time: the
numbers have the same bits for any number of jobs.
"""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from lpp.store.arrays.decode_pool import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

Call = tuple[Any, ...]
"""A function and its arguments."""

MEMORY_SHARE = 0.6
"""Share of the free memory that all sites in progress may take."""


class Stopped(BaseException):
    """The results are no longer needed; ends the current task."""


class Workers:
    """`jobs` threads, which run inside a `with` block. The calling thread works on tasks too,
    unless it uses `map`.

    jobs: one for each usable core by default.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self.jobs = usable_cores() if jobs is None else jobs
        self._tasks: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._changed = threading.Condition()
        self._ending = False
        self._threads: list[threading.Thread] = []
        self._begin: Callable[[], Callable[[], None] | None] = lambda: None

    def __enter__(self) -> Self:
        self._limits = threadpool_limits(1, user_api="blas")
        # the calling thread is one of the jobs, unless it calls `map`
        self._start(self.jobs - 1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._limits.restore_original_limits()

    def submit(self, call: Callable[..., Result], *args: Any) -> "Future[Result]":
        """Submit a task; `result` waits for it."""
        task: Future[Result] = Future()
        with self._changed:
            if self._ending:
                raise Stopped
            self._tasks.append((task, lambda: call(*args)))
            self._changed.notify()
        return task

    def result(self, task: "Future[Result]") -> Result:
        """The result of `task`, or its exception. Works on other tasks until it is done."""
        while True:
            with self._changed:
                if task.done():
                    break
                if self._ending:
                    raise Stopped
                if not self._tasks:
                    self._changed.wait()
                    continue
                taken = self._tasks.popleft()
            self._run(*taken)
        return task.result()

    def results(self, tasks: "Iterable[Future[Result]]") -> list[Result]:
        """The results of several tasks, in order."""
        return [self.result(task) for task in tasks]

    def in_order(self, calls: Iterable[Call]) -> Iterator[Any]:
        """The result of each call, in order. The next call is made, with its arguments, once at
        most `jobs` are unfinished: this limits the matrices in memory.
        """
        under_way: deque[Future[Any]] = deque()
        for call in calls:
            while len(under_way) > self.jobs:
                yield self.result(under_way.popleft())
            under_way.append(self.submit(*call))
        while under_way:
            yield self.result(under_way.popleft())

    def map(
        self, call: Callable[[Item], Result], items: Iterable[Item], at_once: int
    ) -> Iterator[Result]:
        """`call` of each item, in a thread of its own; yields the results in order.

        at_once: most items in progress at any time. May be called once in a `with` block.
        """
        self._start(1)  # replaces the calling thread, which only waits here
        waiting = deque((item, Future[Result]()) for item in items)
        futures = [future for _, future in waiting]
        under_way = 0

        def begin() -> Callable[[], None] | None:
            nonlocal under_way
            if not waiting or under_way >= at_once:
                return None
            under_way += 1
            item, future = waiting.popleft()

            def whole() -> None:
                nonlocal under_way
                self._run(future, lambda: call(item))
                with self._changed:
                    under_way -= 1
                    self._changed.notify_all()

            return whole

        with self._changed:
            self._begin = begin
            self._changed.notify_all()
        for k, future in enumerate(futures):
            yield future.result()
            futures[k] = Future()  # frees the result

    def _start(self, count: int) -> None:
        for _ in range(count):
            thread = threading.Thread(target=self._work, name="lpp-analyze", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        """Work on tasks first, since sites in progress wait for them; then on another site."""
        while True:
            with self._changed:
                if self._ending:
                    return
                site = None
                if self._tasks:
                    task = self._tasks.popleft()
                elif (site := self._begin()) is None:
                    self._changed.wait()
                    continue
            if site is None:
                self._run(*task)
            else:
                site()

    def _run(self, future: "Future[Any]", call: Callable[[], Any]) -> None:
        try:
            # rows with NaN or infinities give NaN; a warning would add nothing
            with np.errstate(invalid="ignore", over="ignore"):
                outcome = partial(future.set_result, call())
        except BaseException as error:
            outcome = partial(future.set_exception, error)
        with self._changed:
            outcome()
            self._changed.notify_all()


def free_bytes() -> int:
    """Bytes of memory still available: of the machine, or of the process's control group."""
    limits = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        limits = [int(line.split()[1]) << 10]
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text("ascii"))
        limits.append(limit - int((group / "memory.current").read_text("ascii")))
    return max(0, min(limits))
