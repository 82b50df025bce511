"""Whose a stage is: pids that are used again, containers of one name, hosts that are gone."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from ended_owner import ended_name, naming
from on_disk import on_disk
from small_capture import make_capture

from lpp.store import RunWriter, create_store, open_store
from lpp.store.objects import owners
from lpp.store.objects.locate import objects_at
from lpp.store.objects.owners import ABANDONED_SECONDS, owner_of, staged_name

PROC = Path("/proc/self/stat")
needs_proc = pytest.mark.skipif(not PROC.exists(), reason="this system does not tell starts")


def with_pid(name: str, pid: int) -> str:
    target, host, _, digits = name.split("~")
    return f"{target}~{host}~{pid}~{digits}"


def test_a_name_tells_its_owner() -> None:
    name = staged_name("00001")
    owner = owner_of(name)
    assert owner is not None
    assert (owner.target, owner.pid, owner.here, owner.ended) == ("00001", os.getpid(), True, False)
    assert name != staged_name("00001")
    for other in ("00001", ".00001", ".nfs00001", f"{name}x", ".00001~host~7"):
        assert owner_of(other) is None


def test_a_process_that_ended_has_ended() -> None:
    owner = owner_of(ended_name("00001"))
    assert owner is not None
    assert (owner.here, owner.ended) == (True, True)


@needs_proc
def test_a_number_that_is_used_again_is_another_process() -> None:
    mine = owner_of(with_pid(ended_name("00001"), os.getpid()))  # its number is ours now
    assert mine is not None
    assert (mine.here, mine.ended) == (True, True)


@needs_proc
def test_a_zombie_has_ended() -> None:
    child = subprocess.Popen(naming("00001"), stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout as told:
        owner = owner_of(told.read().strip())
    assert owner is not None
    while not owner.ended:  # before anybody waits for it
        time.sleep(0.01)
    child.wait()


@needs_proc
def test_another_container_of_the_same_name_is_not_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = ended_name("00001")
    monkeypatch.setattr(owners, "_boot_and_namespace", lambda: "0123abcd")
    owner = owner_of(name)
    assert owner is not None
    assert (owner.here, owner.ended) == (False, False)


def test_names_of_older_releases_are_told_by_their_number() -> None:
    host = staged_name("x").split("~")[1]
    living, gone = (owner_of(f".x~{host}~{pid}~0a1b2c3d") for pid in (os.getpid(), 2**22 + 7))
    assert living is not None
    assert gone is not None
    assert (living.mark, living.ended, gone.ended) == ("", False, True)


@pytest.mark.parametrize("kind", ["stage", "sign"])
def test_what_a_lost_host_left_is_removed_after_a_day(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f".00001~another-host~7~{'1' * 24}"
    inside = path / "hidden.zarr" / "object" if kind == "stage" else path
    inside.parent.mkdir(parents=True, exist_ok=True)
    inside.write_bytes(b"x")
    objects_at(tmp_path).sweep()
    assert path.exists()
    old = time.time() - ABANDONED_SECONDS - 60
    for each in (path, *path.rglob("*")):
        if each != inside:
            os.utime(each, (old, old))
    objects_at(tmp_path).sweep()
    assert path.exists()  # something of it is new
    os.utime(inside, (old, old))
    objects_at(tmp_path).sweep()
    assert list(tmp_path.iterdir()) == []


def test_a_clock_that_was_set_back_removes_nothing(tmp_path: Path) -> None:
    path = tmp_path / f".00001~another-host~7~{'1' * 24}"
    path.mkdir()
    later = time.time() + 30 * ABANDONED_SECONDS  # stamped before the clock was set back
    os.utime(path, (later, later))
    objects_at(tmp_path).sweep()
    assert path.exists()


def test_a_writer_killed_in_a_container_is_swept_by_the_next_there(tmp_path: Path) -> None:
    capture = make_capture((5, 4), (0, 1, 2), seed=4)
    run = capture.write(create_store(tmp_path / "s").path, shards=(0,))
    shards = on_disk(run.path) / "shards"
    left = shards / ended_name("00001")
    (left / "hidden.zarr").mkdir(parents=True)
    RunWriter(tmp_path / "s", capture.plan, capture.prompts)
    assert [p.name for p in shards.iterdir()] == ["00000"]
    assert open_store(tmp_path / "s").runs[run.id].missing_shards == (1,)
