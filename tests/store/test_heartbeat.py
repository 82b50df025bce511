"""Signs of writers: who is at work, who ended without a word, who cannot be told."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from on_disk import on_disk
from small_capture import Capture

from lpp.store import RunWriter
from lpp.store.objects.locate import objects_at
from lpp.store.runs import heartbeat
from lpp.store.runs.heartbeat import SILENT_SECONDS, at_work, writers

CHILD = """
import sys, time
from pathlib import Path
from lpp.store.runs.heartbeat import at_work

with at_work(Path(sys.argv[1]), "part 1/2"):
    print("at work", flush=True)
    time.sleep(60)
"""


def sign_of(folder: Path, host: str, pid: int, words: str, age: float = 0) -> None:
    path = folder / f".writer~{host}~{pid}~0a"
    path.write_text(words)
    os.utime(path, (time.time() - age,) * 2)


@pytest.fixture
def killed(tmp_path: Path) -> int:
    """Pid of a process that kept a sign in `tmp_path` and was killed."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "at work\n"
    (seen,) = writers(tmp_path)
    assert (seen.pid, seen.doing, seen.ended) == (child.pid, "part 1/2", False)
    assert seen.alive(time.time())
    child.send_signal(signal.SIGKILL)
    child.communicate()
    return child.pid


def test_a_sign_is_there_while_the_work_is_and_no_longer(tmp_path: Path) -> None:
    before = time.time()
    with at_work(tmp_path, "part 0/2"):
        (writer,) = writers(tmp_path)
        assert (writer.pid, writer.here, writer.ended) == (os.getpid(), True, False)
        assert writer.doing == "part 0/2"
        assert writer.since is not None
        assert before <= writer.since <= time.time()
        assert writer.alive(time.time())
        with objects_at(tmp_path).scratch():
            assert writers(tmp_path) == [writer]  # what else it leaves there is no other writer
    assert writers(tmp_path) == []
    with pytest.raises(KeyboardInterrupt), at_work(tmp_path, ""):
        raise KeyboardInterrupt
    assert list(tmp_path.glob("*")) == []


def test_a_sign_is_touched_while_the_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "SIGN_SECONDS", 0.01)
    with at_work(tmp_path, ""):
        (sign,) = tmp_path.iterdir()
        os.utime(sign, (0, 0))
        while writers(tmp_path)[0].last_sign == 0:
            time.sleep(0.01)


def test_a_killed_writer_is_known_to_have_ended(tmp_path: Path, killed: int) -> None:
    (writer,) = writers(tmp_path)
    assert (writer.pid, writer.ended) == (killed, True)
    assert not writer.alive(time.time())


def test_the_next_writer_of_a_run_sweeps_the_sign_of_a_killed_one(
    capture: Capture, root: Path, killed: int, tmp_path: Path
) -> None:
    run = capture.write(root, shards=(0,))
    (sign,) = (path for path in tmp_path.iterdir() if path.name.startswith(".writer"))
    shards = on_disk(run.path) / "shards"
    sign.rename(shards / sign.name)
    sign_of(shards, "elsewhere", killed, "{}")
    assert len(writers(shards)) == 2
    assert [p.where for p in run.verify()] == [f"shards/0000{k}/COMMIT.json" for k in (1, 2)]
    RunWriter(root, capture.plan, capture.prompts)
    assert [writer.host for writer in writers(shards)] == ["elsewhere"]


def test_another_machines_writer_is_judged_by_the_age_of_its_sign(tmp_path: Path) -> None:
    now = time.time()
    sign_of(tmp_path, "a", 1, json.dumps({"doing": "part 3/4", "since": 17}), age=5)
    sign_of(tmp_path, "b", 2, "not JSON", age=SILENT_SECONDS + 5)
    fresh, silent = writers(tmp_path)
    assert (fresh.here, fresh.ended, fresh.alive(now)) == (False, False, True)
    assert (fresh.doing, fresh.since) == ("part 3/4", 17)
    assert (silent.ended, silent.alive(now)) == (False, False)
    assert (silent.doing, silent.since) == ("", None)
    assert fresh.alive(now + SILENT_SECONDS - 6)


def test_a_sign_from_years_ahead_is_no_writer(tmp_path: Path) -> None:
    """A clock jumped: that time would not come for years. Clocks an hour apart are no jump."""
    now = time.time()
    sign_of(tmp_path, "a", 1, "{}", age=-3600)
    sign_of(tmp_path, "b", 2, "{}", age=-1e9)
    assert [writer.alive(now) for writer in writers(tmp_path)] == [True, False]


def test_other_names_are_no_writers(tmp_path: Path) -> None:
    for name in ("00001", ".nfs0001", ".writer", "writer~a~1~0a"):
        (tmp_path / name).mkdir()
    assert writers(tmp_path) == []
    assert writers(tmp_path / "nowhere") == []
    assert writers(tmp_path / "00001" / "file") == []


def test_work_goes_on_where_no_sign_can_be_left(tmp_path: Path) -> None:
    done = []
    with at_work(tmp_path / "nowhere", "part 0/1"):
        done.append(1)
    assert done == [1]
