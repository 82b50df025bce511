"""Writing a run: what fits, what is refused, who wins, what a killed writer leaves."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from on_disk import on_disk
from small_capture import Capture, make_capture
from stored import objects_dir, stored_objects

from lpp.store import RunWriter, create_store, open_store
from lpp.store.errors import ConflictError, ErrorKind, InputError
from lpp.store.runs.heartbeat import at_work
from lpp.store.runs.write import sweep_run

SUPPORT = str(Path(__file__).parents[1] / "support")

CHILD = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from lpp.store import RunWriter, create_store
from small_capture import make_capture

capture = make_capture((3000, 3100, 2900), (0, 1, 2, 3), seed=4)
print("ready", flush=True)
sys.stdin.readline()
root = create_store(Path(sys.argv[2])).path
writer = RunWriter(root, capture.plan, capture.prompts)
for shard in range(3):
    writer.write_shard(shard, *capture.shard(shard))
print(*sorted(writer.lost_race))
"""

KILLED = """
import os, signal, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from small_capture import make_capture

capture = make_capture((5, 4), (0, 1, 2), seed=4)
folder, stride = Path(sys.argv[2]), int(sys.argv[3])


def die_before(step, root):
    seen = 0

    def hook(event, arguments):
        nonlocal seen
        steps = ("open", "os.mkdir", "os.rename", "os.link", "os.remove")
        if event in steps and str(root) in str(arguments[0]):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


for step in range(1, 1000, stride):
    pid = os.fork()
    if pid == 0:
        die_before(step, folder / str(step))
        capture.write(folder / str(step))
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status):  # the writer came to its end before that step
        break
    print(step)
"""


def start_writer(root: Path) -> "subprocess.Popen[str]":
    """A process that writes a run of three shards into `root` once it is told to."""
    worker = subprocess.Popen(
        [sys.executable, "-c", CHILD, SUPPORT, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker


def go(worker: "subprocess.Popen[str]") -> None:
    assert worker.stdin is not None
    worker.stdin.write("\n")
    worker.stdin.flush()


def whole_shards(root: Path) -> None:
    """What is committed at `root` is whole, whatever else lies there."""
    if (root / "lpp.json").exists():
        for run in open_store(root).runs.values():
            assert [p for p in run.verify() if "not committed" not in p.what] == []


def big() -> Capture:
    """What `CHILD` writes."""
    return make_capture((3000, 3100, 2900), (0, 1, 2, 3), seed=4)


def wait_for_objects(root: Path, n: int) -> None:
    """Return once `n` files lie under `root`, staged ones included."""
    deadline = time.monotonic() + 120
    while sum(len(files) for _, _, files in os.walk(root)) < n:
        assert time.monotonic() < deadline


@pytest.mark.slow
def test_killed_at_random_moments_then_resumed(tmp_path: Path) -> None:
    seeded = random.Random(11)
    capture = big()
    undisturbed = tmp_path / "undisturbed"
    capture.write(undisturbed)
    expected = stored_objects(undisturbed)
    killed_inside = 0
    for attempt in range(3):
        root = tmp_path / str(attempt)
        with start_writer(root) as worker:
            go(worker)
            wait_for_objects(root, seeded.randrange(1, len(expected) - 5))
            worker.send_signal(signal.SIGKILL)
        left = stored_objects(root)
        killed_inside += left != expected
        whole_shards(root)
        for key in left.keys() & expected.keys():
            assert left[key] == expected[key], key
        run = capture.write(root)  # the same command again
        assert run.verify() == []
        sweep_run(run)
        assert stored_objects(root) == expected  # nothing lost, nothing left behind
    assert killed_inside >= 1


@pytest.mark.slow
def test_killed_before_each_step_on_disk(tmp_path: Path) -> None:
    capture = make_capture((5, 4), (0, 1, 2), seed=4)
    capture.write(tmp_path / "undisturbed")
    expected = stored_objects(tmp_path / "undisturbed")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, SUPPORT, str(tmp_path), "9"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stderr == ""
    steps = [int(line) for line in done.stdout.splitlines()]
    unfinished = [step for step in steps if stored_objects(tmp_path / str(step)) != expected]
    assert len(unfinished) > 8  # after those the writer reads what it wrote
    for step in unfinished:
        root = tmp_path / str(step)
        whole_shards(root)
        sweep_run(capture.write(root))
        assert stored_objects(root) == expected, f"killed before step {step}"


def test_the_first_committed_shard_stays(capture: Capture, root: Path) -> None:
    run = capture.write(root)
    shard = objects_dir(run.path / "shards/00001")
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in shard.rglob("*")}
    assert capture.write(root).verify() == []
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in shard.rglob("*")} == before


@pytest.mark.slow
def test_two_processes_write_the_same_run_at_once(tmp_path: Path) -> None:
    capture = big()
    capture.write(tmp_path / "alone")
    root = tmp_path / "shared"
    workers = [start_writer(root), start_writer(root)]
    for worker in workers:
        go(worker)
    assert [worker.wait(60) for worker in workers] == [0, 0]
    lost_race = [worker.communicate()[0].split() for worker in workers]
    assert sorted(lost_race[0] + lost_race[1]) == ["0", "1", "2"]  # of each shard one, and one only
    sweep_run(next(iter(open_store(root).runs.values())))
    assert stored_objects(root) == stored_objects(tmp_path / "alone")


def test_a_writer_says_which_shards_another_committed_first(capture: Capture, root: Path) -> None:
    slow = RunWriter(create_store(root).path, capture.plan, capture.prompts)
    first = capture.write(root, shards=(1,)).shards[0]
    assert slow.written == slow.lost_race == set()
    assert [slow.write_shard(k, *capture.shard(k)).index for k in range(3)] == [0, 1, 2]
    assert (slow.written, slow.lost_race) == ({0, 2}, {1})
    second = slow.run.shard(1)
    assert second
    assert second.digest == first.digest


def test_concurrent_writers_of_a_damaged_shard_lose_nothing(
    capture: Capture, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = capture.write(root)
    expected = stored_objects(root)
    record = on_disk(run.path) / "shards/00001/COMMIT.json"
    record.write_bytes(record.read_bytes()[:-9])
    writer = RunWriter(root, capture.plan, capture.prompts)
    assert not writer.committed(1)
    capture.write(root)  # another writer repairs it between the look and the step that decides
    inode = record.stat().st_ino
    monkeypatch.setattr(RunWriter, "committed", lambda self, index: False)  # it looked too early
    assert writer.write_shard(1, *capture.shard(1)).rows == 3
    assert writer.lost_race == {1}
    assert record.stat().st_ino == inode
    assert stored_objects(root) == expected


def test_shards_still_to_write_are_named_in_order(capture: Capture, root: Path) -> None:
    run = capture.write(root)
    (on_disk(run.path) / "shards/00001/COMMIT.json").write_text("{}")
    writer = RunWriter(root, capture.plan, capture.prompts, replacing=[2])
    assert run.shards  # kept from an earlier look, which no one asks
    assert writer.uncommitted([2, 1, 0]) == [2, 1]
    assert writer.run.uncommitted(range(3)) == [1]


def test_damaged_record_is_written_again(capture: Capture, root: Path) -> None:
    run = capture.write(root)
    expected = stored_objects(root)
    shards = on_disk(run.path) / "shards"
    (shards / "00002/COMMIT.json").write_text("{}")
    (shards / "00001/COMMIT.json").unlink()
    assert open_store(root).runs[run.id].missing_shards == (1, 2)
    assert capture.write(root).verify() == []
    assert stored_objects(root) == expected


@pytest.mark.parametrize("kind", ["link", "file", "linked record"])
def test_what_bears_the_name_of_a_shard_is_replaced_and_not_followed(
    capture: Capture, root: Path, tmp_path: Path, kind: str
) -> None:
    run = capture.write(root, shards=(0,))
    expected = tmp_path / "elsewhere"
    expected.mkdir()
    (expected / "thesis.tex").write_text("mine")
    target = on_disk(run.path) / "shards/00001"
    if kind == "link":
        target.symlink_to(expected)
    elif kind == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "COMMIT.json").symlink_to(expected / "thesis.tex")
    assert capture.write(root).verify() == []
    assert [p.name for p in expected.iterdir()] == ["thesis.tex"]
    assert (expected / "thesis.tex").read_text() == "mine"


def test_what_dead_writers_left_is_swept(capture: Capture, root: Path) -> None:
    run = capture.write(root, shards=(0,))
    shards = on_disk(run.path) / "shards"
    lost = shards / "00000" / ("ab" * 8)  # of a writer that was killed after another had won
    waiting = shards / "00001" / ("cd" * 8)  # of a writer whose shard nobody else committed yet
    for folder in (lost, waiting):
        (folder / "hidden.zarr").mkdir(parents=True)
        (folder / "hidden.zarr" / "half").write_text("half")
    problems = open_store(root).runs[run.id].verify()
    assert {p.where for p in problems} == {f"shards/0000{k}/COMMIT.json" for k in (1, 2)}
    writer = RunWriter(root, capture.plan, capture.prompts)
    assert waiting.exists()  # whose writer may be alive
    for index in (1, 2):
        writer.write_shard(index, *capture.shard(index))
    assert not waiting.exists()
    assert lost.exists()
    sweep_run(open_store(root).runs[run.id])
    assert not lost.exists()
    assert open_store(root).runs[run.id].verify() == []


def test_what_a_repair_wrote_meanwhile_is_not_swept(capture: Capture, root: Path) -> None:
    run = capture.write(root)
    assert len(run.shards) == capture.plan.n_shards  # records as they are now
    RunWriter(root, capture.plan, capture.prompts, replacing=[0]).write_shard(0, *capture.shard(0))
    sweep_run(run)
    assert open_store(root).runs[run.id].verify() == []


def test_nothing_is_swept_beside_a_writer_at_work(capture: Capture, root: Path) -> None:
    run = capture.write(root)
    under_way = on_disk(run.path) / "shards" / "00000" / ("ab" * 8)
    under_way.mkdir()
    (under_way / "half").write_text("half")
    with at_work(run.path / "shards", "repair"):
        sweep_run(run)
    assert under_way.exists()
    sweep_run(run)
    assert not under_way.exists()


def test_integers_beyond_those_of_other_languages_are_refused(capture: Capture, root: Path) -> None:
    model = replace(capture.plan.model, untrained_seed=2**53)
    with pytest.raises(InputError, match=r"model.untrained_seed is 9007199254740992") as caught:
        RunWriter(create_store(root).path, replace(capture.plan, model=model), capture.prompts)
    assert caught.value.kind is ErrorKind.INVALID_VALUE
    assert [p.name for p in root.iterdir()] == ["lpp.json"]


def test_shards_that_do_not_fit_are_refused(capture: Capture, root: Path) -> None:
    writer = RunWriter(create_store(root).path, capture.plan, capture.prompts)
    hidden, tokens = capture.shard(1)
    right = hidden["final"]
    column = tokens.schema.get_field_index
    bad = [
        (hidden | {"final": right.astype(np.float32)}, tokens, "final: rows are float32"),
        (hidden | {"final": right[:-1]}, tokens, r"final: rows are uint16 \(2, 4\)"),
        (hidden | {"final": right[:, :-1]}, tokens, r"final: rows are uint16 \(3, 3\)"),
        ({"final": right}, tokens, r"shard 1: sites are \['final'\]"),
        (hidden | {"block.2": right}, tokens, "shard 1: sites are"),
        (hidden, tokens.slice(1), "shard 1: tokens: 2 rows, prompts 2 to 2 have 3 tokens"),
        (hidden, tokens.take([1, 0, 2]), "position should be that of prompts 2 to 2"),
        (hidden, capture.shard(0)[1].slice(0, 3), "prompt_id should be that of prompts 2"),
        (hidden, tokens.drop_columns(["margin"]), "shard 1: tokens: columns are"),
        (
            hidden,
            tokens.set_column(
                column("token_id"), tokens.schema.field("token_id"), tokens["top1_id"]
            ),
            "token_id should be that of prompts",
        ),
    ]
    for values, table, message in bad:
        with pytest.raises(ValueError, match=message):
            writer.write_shard(1, values, table)
    for index in (-1, 3):
        with pytest.raises(ValueError, match=f"shard {index}: the plan has 3"):
            writer.write_shard(index, hidden, tokens)
    assert not (on_disk(writer.run.path) / "shards").exists()


def test_prompts_and_plans_that_do_not_fit_are_refused(capture: Capture, root: Path) -> None:
    plan, prompts = capture.plan, capture.prompts
    create_store(root)

    def changed(name: str, values: list[Any]) -> pa.Table:
        index = prompts.schema.get_field_index(name)
        field = prompts.schema.field(name)
        return prompts.set_column(index, field, pa.array(values, field.type))

    other = changed("sha256", prompts["sha256"].to_pylist()[::-1])
    ids = prompts["token_ids"].to_pylist()
    bad = [
        (plan, prompts.slice(1), "3 prompts, the plan has 4"),
        (plan, prompts.drop_columns(["sha256"]), "columns are"),
        (plan, changed("prompt_id", [0, 2, 1, 3]), "prompt_id should count from 0"),
        (plan, changed("n_tokens", [5, 7, 3, 5]), "n_tokens should be the length of token_ids"),
        (plan, other, "sha256 should be that of token_ids"),
        (plan, changed("token_ids", [ids[1], ids[0], *ids[2:]]), "sha256 should be that of"),
        (replace(plan, prompts=replace(plan.prompts, tokens=20)), prompts, "21 tokens, the plan"),
        (replace(plan, prompts=replace(plan.prompts, sha256="s")), prompts, "digest .*, not s"),
        (replace(plan, context=6, prefixes=(6,)), prompts, "prompts should have 1 to 6 tokens"),
        (replace(plan, shards=(0, 3)), prompts, "shards should end at prompts.count = 4"),
        (replace(plan, context="7"), prompts, "context should be int, is '7'"),  # type: ignore[arg-type]
        (replace(plan, stored_dtype="float64"), prompts, "stored_dtype should be"),  # type: ignore[arg-type]
    ]
    for bad_plan, bad_prompts, message in bad:
        with pytest.raises(ValueError, match=message):
            RunWriter(root, bad_plan, bad_prompts)
    assert [p.name for p in root.iterdir()] == ["lpp.json"]


def test_another_plan_under_the_same_name_is_a_conflict(capture: Capture, root: Path) -> None:
    run = capture.write(root)
    other = replace(capture.plan, stored_dtype="float16")
    other.__dict__["run_id"] = run.id  # eight hex digits that met by chance
    with pytest.raises(ConflictError, match="holds another plan whose hash begins alike") as caught:
        RunWriter(root, other, capture.prompts)
    assert caught.value.kind is ErrorKind.PLAN_DIFFERS
    assert run.verify() == []
