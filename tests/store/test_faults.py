"""A disk that fails at any step: one clear line, nothing half there, the same command resumes."""

import contextlib
import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest
from faulty_disk import FAULTS, KINDS, FaultyDisk
from on_disk import on_disk
from places import DiskPlace, committed, strays
from small_capture import Capture, make_capture

from lpp.store import RunWriter, create_store, open_store
from lpp.store.errors import FormatError, LppError, MachineError

STEPS_SKIPPED = 7
"""Of the steps on the way, every so many is one to fail at; `soak` fails at each."""


def contents(root: Path) -> dict[str, Any]:
    """Each committed object by its logical key, and what no record speaks of."""
    held = DiskPlace(root).held()
    return committed(held) | {f"stray {key}": held[key] for key in strays(held)}


@pytest.fixture(scope="module")
def capture() -> Capture:
    return make_capture((5, 4), (0, 1, 2), seed=4, hidden=None)


@pytest.fixture(scope="module")
def expected(capture: Capture, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("undisturbed") / "store"
    capture.write(root)
    return contents(root)


def whole(root: Path, expected: dict[str, Any]) -> None:
    """What readers see is part of the undisturbed store, and each shard of it is whole."""
    try:
        runs = open_store(root).runs.values()
    except FormatError:
        return  # not yet a store
    for run in runs:
        assert [p for p in run.verify() if "not committed" not in p.what] == []
    assert committed(DiskPlace(root).held()).items() <= expected.items()


def steps_of(capture: Capture, root: Path) -> int:
    with FaultyDisk(root).in_force() as disk:
        capture.write(root)
    kinds = {kind for kind, _ in disk.steps}
    assert kinds == set(KINDS)  # all go through it
    return len(disk.steps)


def refusal(capture: Capture, root: Path) -> LppError | None:
    try:
        capture.write(root)
    except LppError as error:
        return error
    return None


def fail_at(step: int, code: int, capture: Capture, root: Path, expected: dict[str, Any]) -> bool:
    """Fail one step of a capture, look at the store, resume; whether the step was reached."""
    with FaultyDisk(root, fail_at=step, code=code).in_force() as disk:
        refused = refusal(capture, root)
    if refused is None:
        # what a file system need not do (flush names), a directory that was there, and what only
        # takes room, is forgiven
        assert not disk.failed or disk.steps[step - 1][0] in ("fsync", "mkdir", "remove")
    else:
        assert isinstance(refused, MachineError)
        assert "\n" not in str(refused)
        assert "same command" in str(refused) or "use a store elsewhere" in str(refused)
    whole(root, expected)
    capture.write(root)
    found, failed = contents(root), disk.steps[step - 1] if disk.failed else ("", "")
    if failed[0] == "remove":  # it stays until this process ends
        found = {key: data for key, data in found.items() if "~" not in key}
    assert found == expected, (step, failed)
    return disk.failed


@pytest.mark.parametrize("fault", FAULTS)
def test_a_step_that_fails(
    fault: str, capture: Capture, expected: dict[str, Any], tmp_path: Path
) -> None:
    total = steps_of(capture, tmp_path / "counted")
    first = 1 + sorted(FAULTS).index(fault)
    stride = STEPS_SKIPPED * len(FAULTS)  # each fault at other steps
    for step in range(first, total + 1, stride):
        fail_at(step, FAULTS[fault], capture, tmp_path / str(step), expected)


@pytest.mark.soak
@pytest.mark.parametrize("fault", FAULTS)
def test_each_step_that_fails(
    fault: str, capture: Capture, expected: dict[str, Any], tmp_path: Path
) -> None:
    total = steps_of(capture, tmp_path / "counted")
    failed = [
        fail_at(step, FAULTS[fault], capture, tmp_path / str(step), expected)
        for step in range(1, total + 1)
    ]
    assert all(failed)


def test_a_disk_that_fills_up_at_any_byte(
    capture: Capture, expected: dict[str, Any], tmp_path: Path
) -> None:
    capture.write(tmp_path / "undisturbed")
    total = sum(map(len, DiskPlace(tmp_path / "undisturbed").held().values()))
    for number, space in enumerate(range(0, total, total // 4)):
        root = tmp_path / str(number)
        with FaultyDisk(root, space=space).in_force(), pytest.raises(LppError) as caught:
            capture.write(root)
        assert "no space left on the disk" in str(caught.value)
        whole(root, expected)
        capture.write(root)
        assert contents(root) == expected


def test_writes_that_take_a_few_bytes_at_a_time(
    capture: Capture, expected: dict[str, Any], tmp_path: Path
) -> None:
    with FaultyDisk(tmp_path / "s", short=True).in_force() as disk:
        capture.write(tmp_path / "s")
    assert contents(tmp_path / "s") == expected
    assert sum(kind == "write" for kind, _ in disk.steps) > 10 * len(expected)


def cut(step: int, capture: Capture, root: Path, expected: dict[str, Any]) -> None:
    """Cut the power before one step; all that was not flushed is gone."""

    class PowerCutError(BaseException):
        pass

    root.mkdir()
    disk = FaultyDisk(root, fail_at=step)

    def stop(kind: str, path: str) -> None:
        disk.steps.append((kind, path))
        if len(disk.steps) >= step:
            raise PowerCutError  # from here on nothing reaches the disk, tidying up included

    disk.step = stop  # type: ignore[method-assign]
    with disk.in_force(), contextlib.suppress(PowerCutError):
        capture.write(root)
    disk.power_cut()
    whole(root, expected)
    capture.write(root)
    assert contents(root) == expected


def test_power_cuts_leave_whole_shards_or_none(
    capture: Capture, expected: dict[str, Any], tmp_path: Path
) -> None:
    total = steps_of(capture, tmp_path / "counted")
    for step in [*range(1, total, 29), total]:
        cut(step, capture, tmp_path / str(step), expected)


def test_what_was_committed_survives_a_power_cut(
    capture: Capture, expected: dict[str, Any], tmp_path: Path
) -> None:
    root = tmp_path / "made" / "store"
    with FaultyDisk(tmp_path).in_force() as disk:
        capture.write(root)
    disk._remember(str(tmp_path))  # its own folder was there before
    disk.power_cut()
    assert contents(root) == expected


def test_slow_writes_change_nothing(
    capture: Capture, expected: dict[str, Any], tmp_path: Path
) -> None:
    disk = FaultyDisk(tmp_path / "s")
    count = disk.step

    def slow(kind: str, path: str) -> None:
        time.sleep(0.002)
        count(kind, path)

    disk.step = slow  # type: ignore[method-assign]
    with disk.in_force():
        capture.write(tmp_path / "s")
    assert contents(tmp_path / "s") == expected


@pytest.mark.parametrize("days", [-400, 400])
def test_a_clock_that_jumps(
    days: int,
    capture: Capture,
    expected: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lpp.store.runs.heartbeat import at_work, writers

    real, root = time.time, tmp_path / "s"
    run = capture.write(root, shards=(0,))
    shards = on_disk(run.path) / "shards"
    with at_work(shards, "part 1/2"):
        monkeypatch.setattr(time, "time", lambda: real() + 86400 * days)
        capture.write(root)
        (writer,) = writers(shards)
        assert (writer.pid, writer.ended) == (os.getpid(), False)
        for path in (*shards.rglob("*"), shards.parent):  # and the file system's
            os.utime(path, (real() + 86400 * days,) * 2)
        assert capture.write(root).verify() == []
        assert len(writers(shards)) == 1  # nobody swept a living writer's sign
    assert contents(root) == expected


def test_an_error_that_is_no_fault_of_the_disk_is_not_called_one(
    capture: Capture, tmp_path: Path
) -> None:
    class Rows(dict[str, Any]):
        def __getitem__(self, site: str) -> Any:
            raise OSError(errno.ENOENT, "no such rows", site)

    writer = RunWriter(create_store(tmp_path / "s").path, capture.plan, capture.prompts)
    hidden, tokens = capture.shard(0)
    with pytest.raises(FileNotFoundError, match="no such rows") as caught:
        writer.write_shard(0, Rows(hidden), tokens)
    assert not isinstance(caught.value, LppError)
    assert writer.lost_race == set()
