"""What a store tells of its runs: how far, how fast, who works on them."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from on_disk import on_disk

from lpp.capture.cli.command import main
from lpp.capture.cli.status import status_table
from lpp.capture.corpus.selection import Selection
from lpp.capture.engine.capture import capture_run
from lpp.capture.engine.prepare import Prepared, prepare
from lpp.capture.engine.status import RunStatus, run_status, status_document, store_status
from lpp.capture.models.spec import ModelSpec
from lpp.capture.plan.parts import Part
from lpp.capture.plan.request import CaptureRequest, CorpusSpec
from lpp.store import Run, RunWriter, create_store, open_store
from lpp.store.format.keys import COMMIT_KEY, PLAN_KEY
from lpp.store.runs.heartbeat import SILENT_SECONDS, at_work

NOW = time.time()
SHARDS = 5
"""Shards of the run, each of one prompt."""


@pytest.fixture(scope="module")
def ready(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A tiny model and five prompts of 10 tokens, each a shard of its own."""
    corpus = tmp_path_factory.mktemp("corpus") / "texts.txt"
    corpus.write_text("\n\n".join("the dog and the fox " * 5 for _ in range(SHARDS)))
    return prepare(
        CaptureRequest(
            model=ModelSpec(id=str(tiny_folder("gpt2"))),
            corpus=CorpusSpec(name=str(corpus)),
            selection=Selection(prompts=SHARDS, min_bytes=0),
            context=10,
            shard_bytes=1,
        )
    )


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where a store may be made."""
    return tmp_path / "lpp"


def captured(ready: Prepared, store: Path, part: Part, *ages: float) -> Run:
    """The shards of one part; the run begun at NOW - 100, its shards committed `ages` ago."""
    writer = RunWriter(create_store(store).path, ready.plan, ready.prompts)
    capture_run(
        ready.plan, ready.prompts, writer, ready.backend, shards=part.shards(ready.plan.n_shards)
    )
    run = Run(writer.run.path)
    for shard, age in zip(run.shards, ages, strict=True):
        os.utime(on_disk(shard.path) / COMMIT_KEY, (NOW - age,) * 2)
    os.utime(on_disk(run.path) / COMMIT_KEY, (NOW - 100,) * 2)
    return run


def sign(run: Run, host: str, pid: int, doing: str, *, since: float, age: float = 1) -> None:
    """The sign of a writer on another machine."""
    path = on_disk(run.path) / "shards" / f".writer~{host}~{pid}~0a"
    path.write_text(json.dumps({"doing": doing, "since": NOW - since}))
    os.utime(path, (NOW - age,) * 2)


def shown(status: RunStatus) -> str:
    """The table of one run; it fits."""
    text = status_table([status], NOW)
    assert max(map(len, text.splitlines())) <= 80
    return text


def lpp_capture(*words: object) -> Result:
    return CliRunner().invoke(main, ["status", *map(str, words)])


def test_a_whole_run_is_complete(ready: Prepared, store: Path) -> None:
    run = captured(ready, store, Part(0, 1), 90, 80, 70, 60, 50)
    sign(run, "elsewhere", 7, "part 0/1", since=95)
    status = run_status(Run(run.path), NOW)
    assert status.state == "complete"
    assert (status.shards_done, status.shards) == (5, 5)
    assert (status.prompts_done, status.prompts) == (5, 5)
    assert (status.tokens_done, status.tokens) == (50, 50)
    assert status.tokens_per_second == pytest.approx(50 / 50)  # 100 s ago to 50 s ago
    assert status.seconds_left is None
    assert status.last_commit == pytest.approx(NOW - 50)
    assert (status.unclaimed, status.damaged, status.writers) == (0, (), ())
    files = [p for p in on_disk(run.path).rglob("*") if p.is_file() and not p.name.startswith(".")]
    assert status.bytes == sum(p.stat().st_size for p in files if p.name != COMMIT_KEY)
    assert "complete           5/5            5/5       50" in shown(status)


def test_a_run_that_someone_works_on(ready: Prepared, store: Path) -> None:
    run = captured(ready, store, Part(0, 2), 90, 30, 10)
    sign(run, "gpu-3", 4242, "part 0/2", since=50, age=20)
    sign(run, "gpu-4", 4243, "part 1/2", since=45, age=5)
    status = run_status(Run(run.path), NOW)
    assert status.state == "running"
    assert (status.shards_done, status.prompts_done, status.tokens_done) == (3, 3, 30)
    # two shards since the first of them began, 50 s ago, to the last commit, 10 s ago
    assert status.tokens_per_second == pytest.approx(20 / 40)
    assert status.seconds_left == pytest.approx(20 / 0.5 - 10)
    assert status.unclaimed == 0
    text = shown(status)
    assert "part 0/2: pid 4242 on gpu-3, for 50 s" in text
    assert "part 1/2: pid 4243 on gpu-4, for 45 s" in text
    assert "30 s" in text.splitlines()[2]


def test_shards_of_a_part_that_nobody_works_on_are_counted(ready: Prepared, store: Path) -> None:
    run = captured(ready, store, Part(0, 5), 10)
    sign(run, "gpu-3", 4242, "part 1/2", since=20)  # shards 1 and 3 of the missing 1, 2, 3, 4
    status = run_status(Run(run.path), NOW)
    assert status.unclaimed == 2
    assert status.tokens_per_second == pytest.approx(1)
    assert status.seconds_left == pytest.approx(20 - 10)
    assert "2 missing shards are assigned to no running writer" in shown(status)
    sign(run, "gpu-4", 4243, "in words of another writer", since=20)
    assert run_status(Run(run.path), NOW).unclaimed == 0


def test_a_run_is_stopped_when_its_writers_are_gone(ready: Prepared, store: Path) -> None:
    run = captured(ready, store, Part(0, 2), 90, 80, 7200)
    status = run_status(Run(run.path), NOW)
    assert (status.state, status.seconds_left, status.unclaimed) == ("stopped", None, 2)
    assert "no writer, last shard 1 min 20 s ago" in shown(status)
    sign(run, "gpu-3", 4242, "part 1/2", since=9000, age=SILENT_SECONDS + 720)
    status = run_status(Run(run.path), NOW)
    assert status.state == "stopped"
    words = "pid 4242 on gpu-3, no heartbeat for 15 min 0 s: killed or cut off"
    assert words in shown(status)


def test_a_run_without_a_shard(ready: Prepared, store: Path) -> None:
    run = captured(ready, store, Part(5, 6))
    status = run_status(Run(run.path), NOW)
    assert (status.state, status.tokens_per_second) == ("stopped", None)
    assert "no writer, no shard yet" in shown(status)
    with at_work(run.path / "shards", "part 0/1"):
        status = run_status(Run(run.path), time.time())
        assert (status.state, status.seconds_left) == ("running", None)
        assert f"part 0/1: pid {os.getpid()} on this machine" in shown(status)


def test_a_damaged_shard_is_missing_and_named(ready: Prepared, store: Path) -> None:
    run = captured(ready, store, Part(0, 1), 5, 4, 3, 2, 1)
    record = on_disk(run.shards[3].path) / COMMIT_KEY
    record.write_bytes(record.read_bytes()[:-9])
    status = run_status(Run(run.path), NOW)
    assert (status.state, status.shards_done, status.damaged) == ("stopped", 4, ("00003",))
    assert "damaged: shards 00003; lpp-capture repair computes them again" in shown(status)


def test_a_damaged_run_hides_no_other(ready: Prepared, store: Path) -> None:
    run = captured(ready, store, Part(0, 1), 5, 4, 3, 2, 1)
    whole = on_disk(run.path)
    broken = whole.with_name("zz-12345678")
    broken.mkdir()
    base = run.commit.base
    (broken / base).mkdir()
    for key in (COMMIT_KEY, f"{base}/{PLAN_KEY}"):
        (broken / key).write_bytes((whole / key).read_bytes())
    states = {status.run: status for status in store_status(open_store(store), NOW)}
    assert states[run.id].state == "complete"
    assert states["zz-12345678"].state == "unreadable"
    assert "altered since it was written" in " ".join(shown(states["zz-12345678"]).split())
    assert "altered" in status_document(states["zz-12345678"], NOW)["problem"]


def test_a_run_whose_record_is_lost_is_shown_and_comes_back(ready: Prepared, store: Path) -> None:
    run = captured(ready, store, Part(0, 1), 5, 4, 3, 2, 1)
    (on_disk(run.path) / COMMIT_KEY).unlink()
    (status,) = store_status(open_store(store), NOW)
    assert (status.run, status.state) == (run.id, "unreadable")
    assert "its record, COMMIT.json, is lost" in " ".join(shown(status).split())
    resumed = captured(ready, store, Part(0, 1), 5, 4, 3, 2, 1)
    assert resumed.id == run.id
    (status,) = store_status(open_store(store), NOW)
    assert (status.state, status.shards_done) == ("complete", SHARDS)


def test_the_command_shows_a_store(ready: Prepared, store: Path) -> None:
    run = captured(ready, store, Part(0, 2), 90, 80, 70)
    result = lpp_capture(store)
    assert result.exit_code == 0
    assert run.id in result.stdout
    document = json.loads(lpp_capture(store, "--format", "json").stdout)
    assert document["store"] == str(store)
    (told,) = document["runs"]
    assert told["run"] == run.id
    assert told["name"] == open_store(store).names[run.id]
    assert f"{told['name']}  {run.id}" in result.stdout
    assert told["state"] == "stopped"
    assert (told["shards_done"], told["shards"]) == (3, 5)
    assert (told["tokens_done"], told["tokens"]) == (30, 50)
    assert told["tokens_per_second"] == pytest.approx(1)  # 30 tokens from 100 s ago to 70 s ago
    assert (told["unclaimed_shards"], told["writers"], told["problem"]) == (2, [], None)


def test_an_empty_store_and_a_folder_that_is_none(store: Path, tmp_path: Path) -> None:
    create_store(store)
    result = lpp_capture(store)
    assert result.exit_code == 0
    assert json.loads(lpp_capture(store, "--format", "json").stdout)["runs"] == []
    for path in (tmp_path, tmp_path / "nowhere"):
        result = lpp_capture(path)
        assert result.exit_code == 2
