"""Which process owns a temporary name, and whether it still runs: SPEC.md section 6.

A killed writer leaves temporary files and heartbeats behind. The next writer removes them, and must
never remove those of a live process. A pid alone does not identify a process: pids are reused, and
two containers with the same host name have separate pids. So a temporary name, which begins with a
dot, also has a mark: a hash of the kernel's boot id and the pid namespace, and the start time of
the process.

`flock` would not do: forked children keep the lock when their parent is killed, network file
systems may grant it twice, and the lock file would have to be removed before the folder becomes a
shard. A name works in a bucket too.
"""

import contextlib
import hashlib
import os
import platform
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

ABANDONED_SECONDS: Final = 24 * 3600.0
"""A temporary name of a process on another machine is abandoned if unchanged for this long.
Temporary files are filled in minutes and heartbeats renewed twice a minute. A process suspended for
longer loses the work of one shard, nothing else."""

_HOST = re.sub(r"[^A-Za-z0-9-]+", "-", platform.node()) or "host"
_STAGE = re.compile(r"\.(?P<target>.+)~(?P<host>[A-Za-z0-9-]+)~(?P<pid>[0-9]+)~(?P<hex>[0-9a-f]+)")
_MARK_DIGITS: Final = 16
_RANDOM_DIGITS: Final = 8
_UNKNOWN: Final = "0" * _MARK_DIGITS


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The process that owns a temporary name."""

    target: str
    """The name that it was made for: of a shard, a run or a heartbeat."""
    host: str
    pid: int
    mark: str = ""
    """8 hex digits for boot and namespace, 8 for the start time. Empty if the name has no mark: an
    older release made it, or the system provides none."""

    @property
    def here(self) -> bool:
        """Whether its pid means the same process here: same host, boot and namespace."""
        return self.host == _HOST and (not self.mark or self.mark[:8] == _boot_and_namespace())

    @property
    def ended(self) -> bool:
        """Whether the process is known to have ended."""
        if not self.here:
            return False
        return not _alive(self.pid) or bool(self.mark and self.mark != _mark(self.pid))


def staged_name(name: str) -> str:
    """A unique temporary name for `name`, which identifies this process as its owner."""
    digits = f"{_mark(os.getpid()) or _UNKNOWN}{secrets.token_hex(_RANDOM_DIGITS // 2)}"
    return f".{name}~{_HOST}~{os.getpid()}~{digits}"


def owner_of(name: str) -> Owner | None:
    """The owner of a temporary name; None for any other name."""
    match = _STAGE.fullmatch(name)
    if match is None:
        return None
    has_mark = len(match["hex"]) == _MARK_DIGITS + _RANDOM_DIGITS
    mark = match["hex"][:_MARK_DIGITS] if has_mark else ""
    return Owner(
        target=match["target"],
        host=match["host"],
        pid=int(match["pid"]),
        mark="" if mark == _UNKNOWN else mark,
    )


def abandoned(path: Path, owner: Owner) -> bool:
    """Whether `path` may be removed: its owner has ended, or `ABANDONED_SECONDS` have passed.

    Time is measured by the clock of the file system, not of this machine: on a network the two
    differ, and either may jump.
    """
    if owner.here:
        return owner.ended
    try:
        return _clock_of(path.parent) - max(_times(path)) > ABANDONED_SECONDS
    except OSError:  # removed in the meantime, or the folder is not writable
        return False


def _times(path: Path) -> Iterator[float]:
    """Modification times of `path` and of everything under it."""
    yield path.lstat().st_mtime
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            with contextlib.suppress(OSError):
                yield os.lstat(Path(folder, name)).st_mtime


def _clock_of(folder: Path) -> float:
    """The current time by the clock of the file system of `folder`."""
    probe = folder / staged_name("clock")
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return _stat(pid)[:1] not in (["Z"], ["X"])  # a zombie has ended


@lru_cache(maxsize=1)
def _boot_and_namespace() -> str:
    """8 hex digits that identify this boot of the kernel and this pid namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        identity = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return _UNKNOWN[:8]
    return hashlib.sha256(identity.encode()).hexdigest()[:8]


def _mark(pid: int) -> str:
    """The mark of a process that runs here; empty if the system provides none."""
    fields = _stat(pid)
    if len(fields) < 20 or not fields[19].isdigit() or _boot_and_namespace() == _UNKNOWN[:8]:
        return ""
    start = int(fields[19])  # clock ticks since boot
    return f"{_boot_and_namespace()}{start % (1 << 32):08x}"


def _stat(pid: int) -> list[str]:
    """Fields of `/proc/<pid>/stat` from the state on; empty without such a file."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()  # the program's name may contain spaces and brackets
