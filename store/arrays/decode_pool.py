"""The cores of this process, and the threads that decode chunks, shared by all its readers.

Reading, hashing and unpacking a chunk run outside Python's lock, so chunks decode in parallel.
"""

import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

CPU_MAX: Final = Path("/sys/fs/cgroup/cpu.max")
"""File with the CPU limit of this process's control group, as a container sees it."""

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def usable_cores() -> int:
    """Cores that this process may use: those of its CPU affinity, but no more than its control
    group (a container's limit) or its Slurm task allows, and at least one.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    given = (_control_group_cores(CPU_MAX), _slurm_cores(os.environ))
    return max(1, min([cores, *(limit for limit in given if limit is not None)]))


def _control_group_cores(cpu_max: Path) -> int | None:
    """Whole cores of a limit in cgroup v2, `<microseconds> <of a period>`; None without a limit.

    https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    """
    try:
        quota, period = cpu_max.read_text("ascii").split()
        return max(1, int(quota) // int(period))
    except (
        OSError,
        ValueError,
        ZeroDivisionError,
    ):  # "max": no limit; no such file: another system
        return None


def _slurm_cores(environment: Mapping[str, str]) -> int | None:
    """Cores of each task of a Slurm step, if the step sets them."""
    cores = environment.get("SLURM_CPUS_PER_TASK", "")
    return int(cores) if "SLURM_STEP_ID" in environment and cores.isdecimal() else None


def decode_pool() -> ThreadPoolExecutor | None:
    """One thread per core except one, since the caller decodes as well; None on one core."""
    global _pool  # noqa: PLW0603 - one for each process, made when it is first wanted
    with _lock:
        if _pool is None and (others := usable_cores() - 1):
            _pool = ThreadPoolExecutor(others, thread_name_prefix="lpp-decode")
        return _pool


def _forget() -> None:
    """A forked process has none of its parent's threads, and may hold a lock that no thread
    releases.
    """
    global _lock, _pool
    _lock, _pool = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
