"""`python -m benchmarks.peers.side NAME WORK OUT`: one side, once, in this process.

Writes the seconds of its loading and of its work, its CPU seconds and the peak of its memory
beside OUT.
"""

import json
import sys
import time
from pathlib import Path

from benchmarks.peers.sides import SIDES
from benchmarks.peers.work import read_work


def main(name: str, work: Path, out: Path) -> None:
    """Import, load, work."""
    start = time.perf_counter()
    run = SIDES[name].load(read_work(work))
    loaded = time.perf_counter()
    run(out)
    done = time.perf_counter()
    # not ru_maxrss, which a child inherits from the process that started it
    status = Path("/proc/self/status").read_text("utf-8")
    found = {
        "load_s": loaded - start,
        "work_s": done - loaded,
        "cpu_s": time.process_time(),
        "peak_mib": int(status.partition("VmHWM:")[2].split()[0]) / 1024,
    }
    report_of(out).write_text(json.dumps(found), "utf-8")


def report_of(out: Path) -> Path:
    """The file of what was measured."""
    return out.with_suffix(".json")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
