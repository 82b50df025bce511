"""Threads that share the work of a command: whole sites, and the tasks that each is made of.

There are `jobs` threads in all, each with one BLAS thread. A thread takes a site, hands out the
site's products and eigensolves as tasks, and while it waits for one it works on tasks itself, its
own or another site's. So many small sites run side by side, one large site uses every thread, and
no more than `jobs` threads compute at any time. What a task computes does not depend on who runs
it, or when: the numbers have the same bits for any number of jobs.
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

MEMORY_SHARE = 0.6
"""Of the memory that is free, what the sites under way may take together."""


class Stopped(BaseException):
    """Nobody waits for the results any more: what is under way ends here."""


class Workers:
    """`jobs` threads, from `with` on until its end. Without `map` the caller works on tasks alone.

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
        # The thread that hands out the first site computes as well where nobody calls `map`.
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
        """Hand out a task; `result` waits for it."""
        task: Future[Result] = Future()
        with self._changed:
            if self._ending:
                raise Stopped
            self._tasks.append((task, lambda: call(*args)))
            self._changed.notify()
        return task

    def result(self, task: "Future[Result]") -> Result:
        """What `task` returned, or raise what it raised; works on tasks while it is not done."""
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
        """Those of several tasks, in order."""
        return [self.result(task) for task in tasks]

    def map(
        self, call: Callable[[Item], Result], items: Iterable[Item], at_once: int
    ) -> Iterator[Result]:
        """`call` each item in a thread of its own; the results in order. Once for each `with`.

        at_once: items under way at any time, at most.
        """
        self._start(1)  # the caller waits here and computes nothing
        waiting = deque((item, Future[Result]()) for item in items)
        every = [future for _, future in waiting]
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
        for place, future in enumerate(every):
            yield future.result()
            every[place] = Future()  # its result is the caller's now

    def _start(self, count: int) -> None:
        for _ in range(count):
            thread = threading.Thread(target=self._work, name="lpp-analyze", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        """Tasks first, since sites under way wait for them; then another site."""
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
            # Rows that are not finite give NaN, which says more than a warning would.
            with np.errstate(invalid="ignore", over="ignore"):
                outcome = partial(future.set_result, call())
        except BaseException as error:
            outcome = partial(future.set_exception, error)
        with self._changed:
            outcome()
            self._changed.notify_all()


class Solves:
    """What workers compute of cells; few matrices wait for them at any time."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self._found: dict[Any, Any] = {}
        self._under_way: deque[Future[dict[Any, Any]]] = deque()

    def add(self, call: Callable[..., dict[Any, Any]], *args: Any) -> None:
        """Have a worker `call`; waits while as many calls as there are workers wait."""
        while len(self._under_way) > self.workers.jobs:
            self._take()
        self._under_way.append(self.workers.submit(call, *args))

    def all(self) -> dict[Any, Any]:
        """Everything, once it is computed."""
        while self._under_way:
            self._take()
        return self._found

    def _take(self) -> None:
        found: dict[Any, Any] = self.workers.result(self._under_way.popleft())
        self._found |= found


def free_bytes() -> int:
    """Memory that this process may still take: of the machine, or of its control group."""
    found = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        found = [int(line.split()[1]) << 10]
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text("ascii"))
        found.append(limit - int((group / "memory.current").read_text("ascii")))
    return max(0, min(found))
