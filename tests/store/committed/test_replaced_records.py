"""Records that are replaced: damaged ones, whole ones, by several writers at once."""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from disturbed_writers import EachStep, between, record_key, undisturbed, write
from places import Behind, DiskPlace, committed, place_of, strays
from small_capture import Capture, make_capture

from lpp.store import RunWriter, open_store
from lpp.store.committed.commit import attempt
from lpp.store.errors import ConflictError, ErrorKind, FormatError
from lpp.store.format.commit_record import CommitRecord, parse_record, record_bytes

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
        for module in ("committed.commit", "committed.checked", "runs.write"):
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


@pytest.mark.parametrize("how", ["cut short", "empty", "gone", "of another run"])
@pytest.mark.parametrize("key", ["COMMIT.json", "plan.json", "prompts.arrow"])
def test_what_a_run_says_of_itself_is_written_again(
    place: Behind, key: str, how: str, capture: Capture, expected: dict[str, Any]
) -> None:
    other = make_capture((2, 2), (0, 1, 2), seed=9)
    capture.write(place.url)
    folder = f"runs/{capture.plan.run_id}/"
    base = json.loads(place.held()[f"{folder}COMMIT.json"])["base"]
    path = f"{folder}{key}" if key == "COMMIT.json" else f"{folder}{base}/{key}"
    good = place.held()[path]
    if how == "gone":
        place.objects.delete([path])
    elif how == "of another run":
        run = other.write(place.url)
        place.put(
            path,
            (run.directory if key == "COMMIT.json" else run._checked.objects).get(key, 1 << 20),
        )
        place.objects.delete_below(f"runs/{run.id}")
    else:
        place.put(path, good[: len(good) // 2 if how == "cut short" else 0])
    writer = write(place, capture)
    assert writer.written == set()
    undisturbed(place, expected)
    assert writer.run.verify() == []


@pytest.fixture
def _short_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lpp.store.objects.locks.LOCK_SECONDS", 0.02)


@pytest.mark.slow
@pytest.mark.usefixtures("_short_locks")
@pytest.mark.parametrize("kind", ["damaged", "replacing"])
def test_a_record_that_is_replaced_by_another_at_any_step(
    place: Behind,
    kind: str,
    capture: Capture,
    expected: dict[str, Any],
    each_step: EachStep,
) -> None:
    """One of two writers that replace the same record wins; the other's objects never count."""
    how: dict[str, Any] = {"replacing": {1}} if kind == "replacing" else {}
    refused: list[ConflictError] = []
    capture.write(place.url)

    def replace(number: int) -> bool:
        if kind == "damaged":
            place.put(record_key(capture), b"damaged")
        others: list[RunWriter] = []

        def other() -> None:
            try:
                others.append(write(place, capture, **how))
            except ConflictError as error:
                refused.append(error)

        with between(place, number, other) as reached:
            mine = write(place, capture, **how)
        undisturbed(place, expected)
        if kind == "damaged":
            assert sorted([*mine.written, *(k for o in others for k in o.written)]) == [1]
        return bool(reached)

    each_step(replace)
    assert len(refused) <= isinstance(place, DiskPlace)  # one step, a rename, holds the lock
    assert all("has held its lock" in str(error) for error in refused)


@pytest.mark.slow
@pytest.mark.parametrize("writers", [2, 4, 8])
def test_several_writers_replace_a_damaged_record_at_once(
    place: Behind,
    writers: int,
    capture: Capture,
    expected: dict[str, Any],
    request: pytest.FixtureRequest,
) -> None:
    request.addfinalizer(partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(1e-5)  # threads change places within each step
    capture.write(place.url)
    for _ in range(20 if isinstance(place, DiskPlace) else 1):
        _replace_at_once(place, writers, capture)
        undisturbed(place, expected)


def _replace_at_once(place: Behind, writers: int, capture: Capture) -> None:
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
    assert write(place, capture).lost_race == {1}


def test_a_record_of_a_newer_release_is_left_alone(place: Behind, capture: Capture) -> None:
    capture.write(place.url)
    key = record_key(capture)
    document = json.loads(place.held()[key]) | {"format": 6}
    from lpp.store.format.commit_record import seal_of
    from lpp.store.format.documents import canonical_json

    place.put(key, canonical_json(document | {"self_xxh3_128": seal_of(document)}))
    before = place.held()
    for replacing in (set(), {1}):
        with pytest.raises(FormatError, match="store format 6") as caught:
            write(place, capture, replacing=replacing)
        assert caught.value.kind is ErrorKind.UNSUPPORTED_VERSION
        assert place.held() == before


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


def test_records_tell_their_attempt(place: Behind, capture: Capture) -> None:
    """The bytes of a record are those that its reader takes, and no other's."""
    capture.write(place.url)
    data = place.held()[record_key(capture)]
    record = parse_record(CommitRecord, data, "here")
    assert record_bytes(record) == data
    assert isinstance(record, CommitRecord)
    assert f"shards/00001/{record.base}/tokens.arrow" in "".join(place.held())
