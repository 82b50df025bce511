"""Cores of this machine that other processes keep busy, from Linux's counters."""

import os
import time
from pathlib import Path
from typing import Final

STAT: Final = Path("/proc/stat")

_FIELDS: Final = (0, 1, 2, 5, 6, 7)
"""user, nice, system, irq, softirq, steal: https://docs.kernel.org/filesystems/proc.html"""

_SHORTEST: Final = 0.5
"""Seconds over which a mean says something: the counters advance by 10 ms."""


class OtherProcesses:
    """Measures from its creation on."""

    def __init__(self) -> None:
        self._start = _seconds()

    def cores(self) -> float | None:
        """Mean number of cores that other processes, and other guests of the host, kept busy; None
        after less than half a second, and on other systems.
        """
        now = _seconds()
        if now is None or self._start is None:
            return None
        passed, busy, own_work = (b - a for a, b in zip(self._start, now, strict=True))
        return max(0.0, (busy - own_work) / passed) if passed >= _SHORTEST else None


def _seconds() -> tuple[float, float, float] | None:
    """Seconds so far: of a clock, of work of all processes, of work of this one."""
    try:
        name, *counts = STAT.read_text("ascii").partition("\n")[0].split()
        busy = sum(int(counts[field]) for field in _FIELDS) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
    return (time.monotonic(), busy, sum(os.times()[:4])) if name == "cpu" else None
