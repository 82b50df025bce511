"""Two, four, eight writers on one run at once: every shard exactly once, nothing left behind."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import DiskPlace, committed, strays
from small_capture import make_capture

from lpp.store import open_store
from lpp.store.runs.write import sweep_run

SUPPORT = str(Path(__file__).parents[1] / "support")
WRITERS = """
import json, os, random, signal, sys, time
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from lpp.store import RunWriter, create_store
from small_capture import make_capture

root, n, killed = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
capture = make_capture((300,) * 12, tuple(range(13)), seed=4)
rng = random.Random(5)


def write(number):
    order = list(range(12))
    random.Random(number).shuffle(order)
    writer = RunWriter(create_store(root).path, capture.plan, capture.prompts)
    for shard in order:
        writer.write_shard(shard, *capture.shard(shard))
    told = {"written": sorted(writer.written), "lost_race": sorted(writer.lost_race)}
    (root.parent / f"told-{number}").write_text(json.dumps(told))


def start(number):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        write(number)
        code = 0
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
    finally:
        os._exit(code)


writers = [start(number) for number in range(n)]
victims = writers[:killed]
for victim in victims:
    time.sleep(rng.uniform(0.0, 0.05))
    os.kill(victim, signal.SIGKILL)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in writers]
print(json.dumps(codes))
"""


def together(root: Path, writers: int, killed: int) -> tuple[list[int], list[dict[str, Any]]]:
    """How each writer ended, and what those that came to their end told."""
    # Python 3.12 and later warn of a fork beside threads; the children only write and end
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore::DeprecationWarning", "-c", WRITERS),
            *(SUPPORT, str(root), str(writers), str(killed)),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    told = [json.loads(path.read_text()) for path in sorted(root.parent.glob("told-*"))]
    return json.loads(done.stdout), told


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("alone") / "store"
    make_capture((300,) * 12, tuple(range(13)), seed=4).write(root)
    return committed(DiskPlace(root).held())


@pytest.mark.slow
@pytest.mark.parametrize("writers", [2, 4, 8])
def test_every_shard_is_written_once(
    writers: int, expected: dict[str, Any], tmp_path: Path
) -> None:
    codes, told = together(tmp_path / "store", writers, killed=0)
    assert codes == [0] * writers
    written = [shard for each in told for shard in each["written"]]
    assert sorted(written) == list(range(12))
    assert all(sorted(each["written"] + each["lost_race"]) == list(range(12)) for each in told)
    held = DiskPlace(tmp_path / "store").held()
    assert committed(held) == expected
    assert strays(held) == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("writers", "killed"),
    [(4, 2), *(pytest.param(8, k, marks=pytest.mark.soak) for k in range(1, 8))],
)
def test_writers_that_are_killed_leave_the_rest_to_the_others(
    writers: int, killed: int, expected: dict[str, Any], tmp_path: Path
) -> None:
    root = tmp_path / "store"
    codes, _ = together(root, writers, killed)
    assert set(codes[killed:]) == {0}
    (run,) = open_store(root).runs.values()
    assert run.missing_shards == ()
    assert run.verify() == []
    make_capture((300,) * 12, tuple(range(13)), seed=4).write(root)
    assert committed(DiskPlace(root).held()) == expected
    sweep_run(run)  # who was killed after its record left others' attempts
    assert strays(DiskPlace(root).held()) == set()
