"""kill -9 at random moments: the same command again gives the store of an undisturbed one.

A reader polls the store all the while and never sees a part of anything.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

KILLER = Path(__file__).parents[1] / "support" / "killer.py"
JOBS = ("capture", "moments", "analysis", "database")


def kill(job: str, folder: Path, model: Path, kills: int, seed: int) -> Mapping[str, float]:
    """What the killer told at its end; fails with what it found."""
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, KILLER, job, folder, model, str(kills), str(seed)],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "POLARS_MAX_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        },
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told: Mapping[str, float] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize(
    ("job", "kills"), [("capture", 4), ("moments", 3), ("analysis", 2), ("database", 2)]
)
def test_killed_and_resumed(
    job: str, kills: int, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    told = kill(job, tmp_path / job, tiny_folder("llama"), kills, seed=7)
    assert told["kills"] >= kills
    assert told["inside"] >= 1


@pytest.mark.soak
@pytest.mark.parametrize(("job", "kills"), [("capture", 140), ("analysis", 50), ("database", 30)])
def test_killed_and_resumed_many_times(
    job: str, kills: int, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    told = kill(job, tmp_path / job, tiny_folder("llama"), kills, seed=8)
    print(job, told)
    assert told["inside"] >= 0.7 * kills
