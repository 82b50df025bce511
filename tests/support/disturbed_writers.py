"""Disturb a writer at any step that changes the place: a system call on a disk, or a request to a
bucket.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias

from faulty_disk import FaultyDisk
from places import Behind, BucketPlace, DiskPlace, committed, strays
from s3_server import Fault
from small_capture import Capture

from lpp.store import RunWriter, open_store
from lpp.store.errors import MachineError

EachStep: TypeAlias = Callable[[Callable[[int], bool]], int]
"""Type of the fixture `each_step`."""


class KilledError(BaseException):
    """Ends a writer like a signal: nothing that it does afterwards reaches the place."""


@contextmanager
def disturbed_disk(place: DiskPlace, at: Callable[[int, str], None]) -> Iterator[None]:
    """Call `at` with number and name of each step on the disk, before it happens."""
    disk = FaultyDisk(place.root.parent)

    def step(kind: str, path: str) -> None:
        disk.steps.append((kind, path))
        at(len(disk.steps), f"{kind} {path}")

    disk.step = step  # type: ignore[method-assign]
    with disk.in_force():
        yield


@contextmanager
def disturbed_bucket(place: BucketPlace, at: Callable[[int, str], Fault | None]) -> Iterator[None]:
    """Call `at` with number and name of each request, before it is sent; number 0 changes nothing.

    The fault that `at` returns happens to the request.
    """
    count, lock = 0, threading.Lock()

    def rule(method: str, key: str) -> Fault | None:
        nonlocal count
        if method not in ("PUT", "POST", "DELETE"):
            return at(0, f"{method} {key}")
        with lock:
            count += 1
            number = count
        return at(number, f"{method} {key}")

    place.proxy.rule = rule
    try:
        yield
    finally:
        place.proxy.rule = lambda _method, _key: None


REFUSED = Fault(kind="answer", status=403, code="AccessDenied")


def between(
    place: Behind, number: int, other: Callable[[], Any]
) -> AbstractContextManager[list[int]]:
    """Run `other` completely before step `number` of the block."""

    @contextmanager
    def block() -> Iterator[list[int]]:
        reached: list[int] = []
        busy = threading.Event()

        def at(step: int, _what: str) -> None:
            if busy.is_set():
                return
            if step == number:
                busy.set()
                reached.append(step)
                other()

        with (
            disturbed_disk(place, at)
            if isinstance(place, DiskPlace)
            else disturbed_bucket(place, at)
        ):
            yield reached

    return block()


def killed(place: Behind, number: int, *, lost: bool = False) -> AbstractContextManager[list[int]]:
    """From step `number` of the block on, nothing reaches the place.

    lost: the step itself reaches a bucket, but its answer does not return.
    """

    @contextmanager
    def block() -> Iterator[list[int]]:
        reached: list[int] = []

        def on_disk_at(step: int, _what: str) -> None:
            if step >= number:
                reached.append(step)
                raise KilledError

        def in_bucket_at(step: int, _what: str) -> Fault | None:
            if step == number and lost:
                reached.append(step)
                return Fault(kind="lose answer")
            if step >= number or reached:
                reached.append(step)
                return REFUSED
            return None

        with (
            disturbed_disk(place, on_disk_at)
            if isinstance(place, DiskPlace)
            else disturbed_bucket(place, in_bucket_at)
        ):
            try:
                yield reached
            except KilledError:
                pass
            except MachineError:
                assert isinstance(place, BucketPlace)

    return block()


def failing(place: Behind, number: int, code: int) -> AbstractContextManager[list[int]]:
    """Step `number` of the block fails, later steps succeed."""

    @contextmanager
    def block() -> Iterator[list[int]]:
        reached: list[int] = []

        def on_disk_at(step: int, what: str) -> None:
            if step == number:
                reached.append(step)
                raise OSError(code, os.strerror(code), what)

        def in_bucket_at(step: int, _what: str) -> Fault | None:
            if step != number:
                return None
            reached.append(step)
            return Fault(kind="answer", status=code, code="AccessDenied")

        with (
            disturbed_disk(place, on_disk_at)
            if isinstance(place, DiskPlace)
            else disturbed_bucket(place, in_bucket_at)
        ):
            yield reached

    return block()


def whole(place: Behind, expected: dict[str, Any]) -> None:
    """Everything committed equals an undisturbed writer's, and is complete."""
    found = committed(place.held())
    assert found.items() <= expected.items()
    for run in open_store(place.url).runs.values():
        assert [p for p in run.verify() if "not committed" not in p.what] == []


def undisturbed(place: Behind, expected: dict[str, Any]) -> None:
    """Everything is there, and nothing else."""
    held = place.held()
    assert committed(held) == expected
    assert strays(held) == set()


def record_key(capture: Capture, shard: int = 1) -> str:
    """Key of the record of a shard."""
    return f"runs/{capture.plan.run_id}/shards/{shard:05d}/COMMIT.json"


def write(place: Behind, capture: Capture, shard: int = 1, **how: Any) -> RunWriter:
    """Write one shard; returns its writer."""
    writer = RunWriter(place.url, capture.plan, capture.prompts, **how)
    writer.write_shard(shard, *capture.shard(shard))
    return writer


def undo(place: Behind, capture: Capture, shard: int = 1) -> None:
    """Remove a shard directly, without the code under test."""
    start = f"runs/{capture.plan.run_id}/shards/{shard:05d}/"
    for key in place.held():
        if key.startswith(start):
            place.remove(key)
