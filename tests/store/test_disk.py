"""A disk that is full, or may not be written: a real one, mounted for the test."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = str(Path(__file__).parents[1] / "support")
SCRIPT = r"""
import subprocess, sys
from pathlib import Path

import numpy as np

sys.path.insert(0, sys.argv[1])
from small_capture import make_capture

from lpp.store import RunWriter, create_store, open_store
from lpp.store.errors import ErrorKind, MachineError

disk, mode = Path(sys.argv[2]), sys.argv[3]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], check=True)


def refusal(action):
    try:
        action()
    except MachineError as error:
        return error
    raise SystemExit("nothing was refused")


def full():
    # Each shard takes about 300 KiB that do not compress: one fits beside the ballast, two do not.
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 1 << 16, (3000, 100), np.uint16)
    capture = make_capture((1500, 1500), (0, 1, 2), hidden={"final": rows})
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(400 << 10))
    store = disk / "store"
    error = refusal(lambda: capture.write(store))
    shards = store / "runs" / capture.plan.run_id / "shards"
    assert error.kind is ErrorKind.NO_SPACE
    assert str(error).startswith(f"no space left on the disk of {shards}. "), error
    assert "repeat the same command" in str(error)
    run = open_store(store).runs[capture.plan.run_id]
    assert run.missing_shards == (1,)
    assert [p.name for p in shards.iterdir()] == ["00000"], "a stage was left"
    assert [p.what for p in run.verify() if "not committed" not in p.what] == []
    values = np.concatenate(list(run.hidden("final")))
    assert np.array_equal(values.view(np.uint32) >> 16, rows[:1500])
    ballast.unlink()
    again = capture.write(store)
    assert again.verify() == [] and again.missing_shards == ()


def full_from_the_start():
    capture = make_capture()
    (disk / "ballast").write_bytes(bytes((1 << 20) - 4096))
    error = refusal(lambda: capture.write(disk / "store"))
    assert error.kind is ErrorKind.NO_SPACE
    (disk / "ballast").unlink()
    assert capture.write(disk / "store").verify() == []


def read_only():
    capture = make_capture()
    run = capture.write(disk / "store", shards=(0,))
    writer = RunWriter(disk / "store", capture.plan, capture.prompts)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    error = refusal(lambda: writer.write_shard(1, *capture.shard(1)))
    assert error.kind is ErrorKind.READ_ONLY
    assert f"cannot write in {run.path / 'shards'}: Read-only file system" in str(error)
    error = refusal(lambda: create_store(disk / "other"))
    assert error.kind is ErrorKind.READ_ONLY
    assert len(list(open_store(disk / "store").runs[run.id].hidden("final"))) == 1


try:
    {"full": full, "start": full_from_the_start, "read-only": read_only}[mode]()
finally:
    subprocess.run(["umount", "-l", str(disk)], check=True)
"""


def may_mount() -> list[str] | None:
    """What lets a command mount: nothing for root, a namespace of its own for others, or None.

    A namespace is preferred for root too: what is mounted there vanishes with the process.
    """
    for prefix in (["unshare", "--map-root-user", "--mount"], []):
        probe = "d=$(mktemp -d) && mount -t tmpfs none $d && umount $d; r=$?; rmdir $d; exit $r"
        command = [*prefix, "sh", "-c", probe]
        if (
            shutil.which(command[0])
            and not subprocess.run(command, capture_output=True, check=False).returncode
        ):
            return prefix
    return None


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full", "start", "read-only"])
def test_disk_that_refuses(tmp_path: Path, mode: str) -> None:
    prefix = may_mount()
    if prefix is None:
        pytest.skip("neither root nor a user namespace may mount a small disk here")
    done = subprocess.run(
        [*prefix, sys.executable, "-c", SCRIPT, SUPPORT, str(tmp_path), mode],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"LC_ALL": "C"},
    )
    assert (done.returncode, done.stderr) == (0, "")
