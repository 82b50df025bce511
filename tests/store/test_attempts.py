"""The commit protocol on both places: several writers, killed ones, suspended ones, bad records.

A writer is disturbed at every step that changes the place: a call of the system on a disk, a
request to a bucket. The same tests run on both.
"""

import contextlib
import errno
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pytest
from faulty_disk import FaultyDisk
from places import Behind, BucketPlace, DiskPlace, committed, place_of, strays
from s3_server import Fault
from small_capture import Capture, make_capture

from lpp.store import RunWriter, add_scores, create_store, open_store, read_scores, remove_scores
from lpp.store.committed.commit import attempt
from lpp.store.errors import ConflictError, ErrorKind, FormatError, LppError, MachineError
from lpp.store.format.commit_record import CommitRecord, parse_record, record_bytes
from lpp.store.format.plan import SiteSpec
from lpp.store.scores import SCORES_SCHEMA, verify_scores
from lpp.store.write import sweep_run

SITE = SiteSpec(name="final", convention="post_norm", width=4)
ROWS = {"final": np.arange(20, dtype=np.uint16).reshape(5, 4)}


EachStep: TypeAlias = Callable[[Callable[[int], bool]], int]


class KilledError(BaseException):
    """Ends a writer as a signal would: nothing that it does afterwards reaches the place."""


@pytest.fixture(params=["disk", "bucket"])
def place(request: pytest.FixtureRequest) -> Behind:
    return place_of(request.param, request)


@pytest.fixture(scope="module")
def capture() -> Capture:
    """Two shards of one prompt and one site: few steps."""
    return make_capture((3, 2), (0, 1, 2), hidden=ROWS, sites=(SITE,))


@pytest.fixture(scope="module")
def expected(capture: Capture, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an undisturbed writer commits."""
    place = DiskPlace(tmp_path_factory.mktemp("alone") / "store")
    capture.write(place.url)
    assert strays(place.held()) == set()
    return committed(place.held())


@contextmanager
def on_disk(place: DiskPlace, at: Callable[[int, str], None]) -> Iterator[None]:
    disk = FaultyDisk(place.root.parent)

    def step(kind: str, path: str) -> None:
        disk.steps.append((kind, path))
        at(len(disk.steps), f"{kind} {path}")

    disk.step = step  # type: ignore[method-assign]
    with disk.in_force():
        yield


@contextmanager
def in_bucket(place: BucketPlace, at: Callable[[int, str], Fault | None]) -> Iterator[None]:
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
    """Before step `number` of what the block does, `other` runs to its end."""

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

        with on_disk(place, at) if isinstance(place, DiskPlace) else in_bucket(place, at):
            yield reached

    return block()


def killed(place: Behind, number: int, *, lost: bool = False) -> AbstractContextManager[list[int]]:
    """From step `number` on nothing that the block does reaches the place.

    lost: the step itself does, in a bucket, and nobody learns of it.
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
            on_disk(place, on_disk_at)
            if isinstance(place, DiskPlace)
            else in_bucket(place, in_bucket_at)
        ):
            try:
                yield reached
            except KilledError:
                pass
            except MachineError:
                assert isinstance(place, BucketPlace)

    return block()


def failing(place: Behind, number: int, code: int) -> AbstractContextManager[list[int]]:
    """Step `number` of what the block does fails, those after it do not."""

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
            on_disk(place, on_disk_at)
            if isinstance(place, DiskPlace)
            else in_bucket(place, in_bucket_at)
        ):
            yield reached

    return block()


def whole(place: Behind, expected: dict[str, Any]) -> None:
    """Whatever counts is what an undisturbed writer commits, and complete."""
    found = committed(place.held())
    assert found.items() <= expected.items()
    for run in open_store(place.url).runs.values():
        assert [p for p in run.verify() if "not committed" not in p.what] == []


def undisturbed(place: Behind, expected: dict[str, Any]) -> None:
    """All is there, and nothing else."""
    held = place.held()
    assert committed(held) == expected
    assert strays(held) == set()


def record_key(capture: Capture, shard: int = 1) -> str:
    return f"runs/{capture.plan.run_id}/shards/{shard:05d}/COMMIT.json"


def write(place: Behind, capture: Capture, shard: int = 1, **how: Any) -> RunWriter:
    writer = RunWriter(place.url, capture.plan, capture.prompts, **how)
    writer.write_shard(shard, *capture.shard(shard))
    return writer


@pytest.fixture(params=[3, pytest.param(1, marks=pytest.mark.soak)])
def each_step(request: pytest.FixtureRequest) -> EachStep:
    """Calls a function with 1, 2, ... until it says that there is no such step; how many there are.

    On a disk, where there are sixty, with every third; `soak` with each.
    """
    place = request.getfixturevalue("place")
    every = request.param if isinstance(place, DiskPlace) else 1

    def each(disturb: Callable[[int], bool]) -> int:
        number = 1
        while disturb(number):
            number += every
        return number - 1

    return each


def undo(place: Behind, capture: Capture, shard: int = 1) -> None:
    """Remove a shard behind everyone's back."""
    start = f"runs/{capture.plan.run_id}/shards/{shard:05d}/"
    for key in place.held():
        if key.startswith(start):
            place.remove(key)


@pytest.mark.slow
def test_a_writer_that_is_killed_before_any_step_loses_nothing(
    place: Behind, capture: Capture, expected: dict[str, Any], each_step: EachStep
) -> None:
    capture.write(place.url, shards=(0,))

    def kill(number: int) -> bool:
        with killed(place, number) as reached:
            write(place, capture)
        whole(place, expected)
        others = {key for key in expected if "shards/00001" not in key}
        assert set(committed(place.held())) >= others
        if record_key(capture) in place.held():
            sweep_run(open_store(place.url).runs[capture.plan.run_id])
        write(place, capture)  # sweeps what was left
        undisturbed(place, expected)
        undo(place, capture)
        return bool(reached)

    assert each_step(kill) > 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "code"),
    [("disk", errno.ENOSPC), ("disk", errno.EIO), ("bucket", 403)],
    indirect=["place"],
)
def test_a_step_that_fails_is_one_line_and_the_same_command_resumes(
    place: Behind, code: int, capture: Capture, expected: dict[str, Any], each_step: EachStep
) -> None:
    capture.write(place.url, shards=(0,))
    refused: list[str] = []

    def fail(number: int) -> bool:
        with failing(place, number, code) as reached:
            try:
                write(place, capture)
            except MachineError as error:
                refused.append(str(error))
        whole(place, expected)
        write(place, capture)
        assert committed(place.held()) == expected
        sweep_run(open_store(place.url).runs[capture.plan.run_id])
        assert strays(place.held()) == set()
        undo(place, capture)
        return bool(reached)

    each_step(fail)
    assert len(refused) > 3
    for message in refused:
        assert "\n" not in message
        assert "same command" in message


@pytest.mark.slow
@pytest.mark.parametrize("place", ["bucket"], indirect=True)
def test_an_answer_that_is_lost_with_the_writer_loses_nothing(
    place: Behind, capture: Capture, expected: dict[str, Any], each_step: EachStep
) -> None:
    """Whoever does not learn whether its record is there removes none of its objects."""
    capture.write(place.url, shards=(0,))

    def lose(number: int) -> bool:
        with killed(place, number, lost=True) as reached:
            write(place, capture)
        whole(place, expected)
        write(place, capture)
        assert committed(place.held()) == expected
        undo(place, capture)
        return bool(reached)

    assert each_step(lose) > 4


@pytest.mark.slow
def test_a_writer_that_is_suspended_at_any_step_while_another_commits_loses(
    place: Behind, capture: Capture, expected: dict[str, Any], each_step: EachStep
) -> None:
    capture.write(place.url, shards=(0,))
    won = []

    def suspend(number: int) -> bool:
        others: list[RunWriter] = []
        with between(place, number, lambda: others.append(write(place, capture))) as reached:
            mine = write(place, capture)
        undisturbed(place, expected)
        for other in others:
            assert sorted([*mine.written, *other.written]) == [1]
            assert sorted([*mine.outrun, *other.outrun]) == [1]
        won.append(bool(mine.written))
        undo(place, capture)
        return bool(reached)

    each_step(suspend)
    assert not won[0]
    assert won[-1]
    assert won == sorted(won)  # lost whenever it is suspended before its record is there


BAD_RECORDS: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda data: data[: len(data) // 2],
    "altered": lambda data: data.replace(b'"rows":2', b'"rows":3'),
    "empty": lambda _: b"",
    "too large": lambda data: data + b" " * 100_000,
}


@pytest.mark.parametrize("how", BAD_RECORDS)
def test_a_damaged_record_is_replaced(
    place: Behind,
    how: str,
    capture: Capture,
    expected: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if how == "too large":
        for module in ("committed.commit", "committed.checked", "write"):
            monkeypatch.setattr(f"lpp.store.{module}.MAX_DOCUMENT_BYTES", 50_000)
    capture.write(place.url)
    key = record_key(capture)
    good = place.held()[key]
    bad = BAD_RECORDS[how](good)
    assert bad != good
    place.put(key, bad)
    assert open_store(place.url).runs[capture.plan.run_id].missing_shards == (1,)
    assert write(place, capture).written == {1}
    undisturbed(place, expected)
    assert json.loads(good)["base"] not in "".join(place.held())


@pytest.mark.parametrize("kind", ["damaged", "replacing"])
def test_a_record_that_is_replaced_by_another_at_any_step(
    place: Behind, kind: str, capture: Capture, expected: dict[str, Any], each_step: EachStep
) -> None:
    """One of two writers that replace the same record wins; the other's objects never count."""
    how: dict[str, Any] = {"replacing": {1}} if kind == "replacing" else {}
    capture.write(place.url)

    def replace(number: int) -> bool:
        if kind == "damaged":
            place.put(record_key(capture), b"damaged")
        others: list[RunWriter] = []
        with between(place, number, lambda: others.append(write(place, capture, **how))) as reached:
            mine = write(place, capture, **how)
        undisturbed(place, expected)
        if kind == "damaged":
            assert sorted([*mine.written, *(k for o in others for k in o.written)]) == [1]
        return bool(reached)

    each_step(replace)


@pytest.mark.parametrize("writers", [2, 4, 8])
def test_several_writers_replace_a_damaged_record_at_once(
    place: Behind, writers: int, capture: Capture, expected: dict[str, Any]
) -> None:
    capture.write(place.url)
    place.put(record_key(capture), b"damaged")
    barrier = threading.Barrier(writers)
    done: list[RunWriter] = []

    def work() -> None:
        writer = RunWriter(place.url, capture.plan, capture.prompts)
        barrier.wait()
        writer.write_shard(1, *capture.shard(1))
        done.append(writer)

    threads = [threading.Thread(target=work) for _ in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == writers
    assert sum(len(writer.written) for writer in done) == 1
    undisturbed(place, expected)


def test_a_writer_sweeps_no_attempt_that_began_after_its_record(place: Behind) -> None:
    """Such an attempt may be about to replace that record."""
    directory = place.objects.below("runs/x/shards/00000")
    record = CommitRecord(plan="c0ffee", shard=0, rows=0, objects={})
    place.put("runs/x/shards/00000/0123456789abcdef/left", b"by a killed writer")
    with contextlib.ExitStack() as later:
        with attempt(directory) as first:
            first.write("a", [b"first"])
            first.commit(record, lambda _: True)
            second = later.enter_context(attempt(directory))
            second.write("a", [b"second"])
        assert strays(place.held()) == {f"runs/x/shards/00000/{second.base}/a"}
        second.commit(record, lambda found: first.base not in found.decode())
    assert committed(place.held())["runs/x/shards/00000/a"] == b"second"
    assert strays(place.held()) == set()


def test_replacing_a_record_that_is_whole(
    place: Behind, capture: Capture, expected: dict[str, Any]
) -> None:
    capture.write(place.url)
    before = place.held()
    assert write(place, capture, replacing={1}).written == {1}
    undisturbed(place, expected)
    changed = {key for key in before if place.held().get(key) != before[key]}
    assert changed
    assert all("shards/00001" in key for key in changed)
    assert write(place, capture).outrun == {1}


def test_a_record_of_a_newer_release_is_left_alone(place: Behind, capture: Capture) -> None:
    capture.write(place.url)
    key = record_key(capture)
    document = json.loads(place.held()[key]) | {"format": 5}
    from lpp.store.format.commit_record import seal_of
    from lpp.store.format.documents import stored_json

    place.put(key, stored_json(document | {"self_xxh3_128": seal_of(document)}, 4))
    before = place.held()
    for replacing in (set(), {1}):
        with pytest.raises(FormatError, match="store format 5") as caught:
            write(place, capture, replacing=replacing)
        assert caught.value.kind is ErrorKind.UNSUPPORTED_VERSION
        assert place.held() == before


@pytest.mark.slow
def test_a_shard_that_is_removed_under_the_hands_of_its_writer(
    place: Behind, capture: Capture, expected: dict[str, Any], each_step: EachStep
) -> None:
    """Another commits it, and then everything of it is removed: a record never lacks an object."""
    capture.write(place.url, shards=(0,))

    def vanish() -> None:
        write(place, capture)
        undo(place, capture)

    refused: list[str] = []

    def suspend(number: int) -> bool:
        with between(place, number, vanish) as reached:
            try:
                write(place, capture)
            except ConflictError as error:
                refused.append(str(error))
        whole(place, expected)
        write(place, capture)
        assert committed(place.held()) == expected
        undo(place, capture)
        return bool(reached)

    each_step(suspend)
    assert refused
    assert all("removed" in message for message in refused)


@pytest.mark.parametrize("keep", ["last", "between"])
def test_an_interrupt_right_after_the_record_keeps_its_objects(
    place: Behind,
    keep: str,
    capture: Capture,
    expected: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C and a failing flush come when the record is there already."""
    capture.write(place.url, shards=(0,))
    writer = RunWriter(place.url, capture.plan, capture.prompts)
    kind = type(place.objects)
    real = kind.put_new

    def interrupted(self: Any, key: str, data: bytes) -> bool:
        real(self, key, data)
        raise KeyboardInterrupt if keep == "last" else MachineError("x", kind=ErrorKind.DISK_FAILED)

    monkeypatch.setattr(kind, "put_new", interrupted)
    with pytest.raises((KeyboardInterrupt, MachineError)):
        writer.write_shard(1, *capture.shard(1))
    assert committed(place.held()) == expected


@pytest.mark.parametrize("strange", ["link", "pipe", "folder"])
def test_what_is_no_file_in_place_of_a_record_is_replaced(
    strange: str, request: pytest.FixtureRequest, capture: Capture, expected: dict[str, Any]
) -> None:
    place = place_of("disk", request)
    assert isinstance(place, DiskPlace)
    capture.write(place.url)
    path = place.root / record_key(capture)
    canary = place.root.parent / "canary"
    path.rename(canary)
    before = canary.read_bytes()
    if strange == "link":
        path.symlink_to(canary)
    elif strange == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
        (path / "inside").write_bytes(b"x")
    assert open_store(place.url).runs[capture.plan.run_id].missing_shards == (1,)
    assert write(place, capture).written == {1}
    undisturbed(place, expected)
    assert canary.read_bytes() == before


def scores_table(value: float) -> pa.Table:
    row = dict.fromkeys(SCORES_SCHEMA.names) | {"model": "m", "benchmark": "b", "metric": "acc"}
    row |= {"value": value, "source": "mine", "kind": "csv"}
    return pa.Table.from_pylist([row], schema=SCORES_SCHEMA)


def add(place: Behind, value: float, **how: Any) -> None:
    add_scores(place.url, "mine", scores_table(value), {"a/x.csv": str(value).encode()}, **how)


class TestScores:
    """Sources of scores are committed alike."""

    @pytest.fixture(autouse=True)
    def store(self, place: Behind) -> None:
        create_store(place.url)

    @staticmethod
    def values(place: Behind) -> list[float]:
        assert verify_scores(place.url) == []
        committed(place.held())
        found: list[float] = read_scores(place.url)["value"].to_pylist()
        return found

    @staticmethod
    def clear(place: Behind) -> None:
        for key in place.held():
            if key.startswith("benchmarks/"):
                place.remove(key)

    def test_a_writer_that_is_killed_before_any_step(
        self, place: Behind, each_step: EachStep
    ) -> None:
        def kill(number: int) -> bool:
            with killed(place, number) as reached:
                add(place, 0.5)
            assert self.values(place) in ([], [0.5])
            add(place, 0.5)
            assert self.values(place) == [0.5]
            self.clear(place)
            return bool(reached)

        assert each_step(kill) > 2

    def test_a_killed_writer_that_replaces(self, place: Behind, each_step: EachStep) -> None:
        def kill(number: int) -> bool:
            add(place, 0.5)
            with killed(place, number) as reached:
                add(place, 0.25, replace=True)
            assert self.values(place) in ([0.5], [0.25])
            add(place, 0.25, replace=True)
            assert self.values(place) == [0.25]
            self.clear(place)
            return bool(reached)

        assert each_step(kill) > 2

    @pytest.mark.parametrize("place", ["disk"], indirect=True)
    def test_power_cuts_leave_whole_sources_or_none(
        self, place: DiskPlace, each_step: EachStep
    ) -> None:
        def cut(number: int) -> bool:
            shutil.rmtree(place.root)
            create_store(place.url)
            disk = FaultyDisk(place.root)
            disk.settle()

            def stop(kind: str, path: str) -> None:
                disk.steps.append((kind, path))
                if len(disk.steps) >= number:
                    raise KilledError

            disk.step = stop  # type: ignore[method-assign]
            with disk.in_force(), contextlib.suppress(KilledError):
                add(place, 0.5)
            disk.power_cut()
            assert self.values(place) in ([], [0.5])
            add(place, 0.5)
            assert self.values(place) == [0.5]
            return len(disk.steps) >= number

        assert each_step(cut) > 2

    @pytest.mark.parametrize("then", ["", "removed"])
    def test_a_writer_that_is_suspended_at_any_step(
        self, place: Behind, then: str, each_step: EachStep
    ) -> None:
        def other() -> None:
            add(place, 0.5)
            if then:
                remove_scores(place.url, "mine")

        def suspend(number: int) -> bool:
            with between(place, number, other) as reached:
                try:
                    add(place, 0.5)
                except ConflictError:
                    assert then
            assert self.values(place) in ([0.5], *([[]] if then else ()))
            add(place, 0.5)
            assert self.values(place) == [0.5]
            assert strays(place.held()) == set()
            self.clear(place)
            return bool(reached)

        each_step(suspend)

    def test_a_damaged_record_of_scores_is_named(self, place: Behind) -> None:
        add(place, 0.5)
        (key,) = (key for key in place.held() if key.endswith("COMMIT.json"))
        place.put(key, place.held()[key][:-9])
        with pytest.raises(FormatError, match="Remove that directory, then add"):
            add(place, 0.5)


def test_records_tell_their_attempt(place: Behind, capture: Capture) -> None:
    """The bytes of a record are those that its reader takes, and no other's."""
    capture.write(place.url)
    data = place.held()[record_key(capture)]
    record = parse_record(CommitRecord, data, "here")
    assert record_bytes(record) == data
    assert isinstance(record, CommitRecord)
    assert f"shards/00001/{record.base}/tokens.arrow" in "".join(place.held())


def test_every_error_is_one_line(request: pytest.FixtureRequest, capture: Capture) -> None:
    place = place_of("bucket", request)
    assert isinstance(place, BucketPlace)
    capture.write(place.url, shards=(0,))
    place.proxy.rule = lambda method, _key: REFUSED if method == "PUT" else None
    with pytest.raises(LppError) as caught:
        write(place, capture)
    assert "\n" not in str(caught.value)
