"""Rounds of all sides in turn: each side a process, timed as a whole and from inside."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.check import differences, problems
from benchmarks.peers.outputs import bytes_below
from benchmarks.peers.side import report_of
from benchmarks.peers.sides import SIDES, Task

Say = Callable[[str], None]


def in_order(names: Sequence[str], number: int) -> list[str]:
    """The sides of a round; every second round goes backwards.

    >>> in_order(["a", "b", "c"], 0), in_order(["a", "b", "c"], 1)
    (['a', 'b', 'c'], ['c', 'b', 'a'])
    """
    return list(names) if number % 2 == 0 else list(reversed(names))


def agreed(works: Mapping[Task, Path], names: Sequence[str], folder: Path) -> dict[str, Any]:
    """How far the sides are from each other, each run once, untimed, on the work of its task.

    RuntimeError that names every side beyond a limit. works: folder of the work of each task.
    """
    from benchmarks.peers.work import read_work

    found: dict[str, Any] = {}
    for task, work in works.items():
        outputs = {name: folder / name for name in names if SIDES[name].task == task}
        for name, out in outputs.items():
            run_side(name, work, out)
        found |= differences(read_work(work), outputs)
        for out in outputs.values():
            shutil.rmtree(out)
    if wrong := list(problems(found)):
        raise RuntimeError("\n".join([*wrong, f"All differences: {found}"]))
    return found


def measured(
    works: Mapping[Task, Path], names: Sequence[str], rounds: int, folder: Path, say: Say
) -> dict[str, dict[str, Any]]:
    """Of each side, a list with an entry for each round: seconds of the whole process, of its
    loading and of its work, CPU seconds of all of it, peak MiB; and the bytes left on disk.
    """
    found: dict[str, dict[str, Any]] = {
        name: {"whole_s": [], "load_s": [], "work_s": [], "cpu_s": [], "peak_mib": [], "bytes": 0}
        for name in names
    }
    for number in range(rounds):
        for name in in_order(names, number):
            out = folder / name
            one = run_side(name, works[SIDES[name].task], out)
            say(
                f"round {number + 1}, {name}: {one['whole_s']:.1f} s, of which {one['work_s']:.1f} "
                f"s work, {one['peak_mib']:.0f} MiB"
            )
            for key, value in one.items():
                found[name][key].append(round(value, 3))
            found[name]["bytes"] = bytes_below(out)
            shutil.rmtree(out)
    return found


def run_side(name: str, work: Path, out: Path) -> dict[str, float]:
    """One process of a side. RuntimeError with what it printed where it fails."""
    os.sync()  # what the side before it wrote is no work of this one
    words = [sys.executable, "-m", "benchmarks.peers.side", name, str(work), str(out)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    start = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    whole = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr}")
    report = report_of(out)
    found: dict[str, float] = json.loads(report.read_text("utf-8"))
    report.unlink()
    return {"whole_s": whole, **found}


def median(values: Sequence[float]) -> float:
    """The middle of the rounds."""
    return float(statistics.median(values))
