"""kill -9 at random moments: the same command again gives the store of an undisturbed one.

A reader polls the store all the while and never sees a part of anything.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from killer import kill_often


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "kills"),
    [
        ("capture", 4),
        ("continue", 2),
        ("repair", 3),
        ("analysis", 2),
        ("database", 2),
    ],
)
def test_killed_and_resumed(
    job: str, kills: int, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    told = kill_often(job, tmp_path / job, tiny_folder("llama"), kills, seed=7)
    assert told["kills"] >= kills
    assert told["inside"] >= 1


@pytest.mark.soak
@pytest.mark.parametrize(
    ("job", "kills"), [("capture", 140), ("repair", 60), ("analysis", 50), ("database", 30)]
)
def test_killed_and_resumed_many_times(
    job: str, kills: int, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    told = kill_often(job, tmp_path / job, tiny_folder("llama"), kills, seed=8)
    print(job, told)
    assert told["inside"] >= 0.7 * kills
