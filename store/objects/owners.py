"""Whose a name beginning with a dot is, and whether that process still runs: SPEC.md section 6.

A writer that is killed leaves stages and signs behind. Whoever comes next removes them, and must
never remove those of a living one. A process number alone does not tell: another process may bear
it by now, and in two containers of one host name it means two processes. So the name carries a
mark of the kernel's boot and the process's namespace, in which its number means something, and of
the moment when the process began, which no two processes of one number share.

Not an `flock` on a file of the stage: children that were forked keep it when their parent is
killed, network file systems may grant it twice, and the file would have to leave the stage before
it becomes a shard. What a name says holds wherever the name is seen, in a bucket too.
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
"""A stage or sign of a process that cannot be asked for, untouched for so long, is taken for left.
A stage is filled in minutes and a sign touched twice a minute; what waits longer was suspended, and
loses nothing but one shard's work."""

_HOST = re.sub(r"[^A-Za-z0-9-]+", "-", platform.node()) or "host"
_STAGE = re.compile(r"\.(?P<target>.+)~(?P<host>[A-Za-z0-9-]+)~(?P<pid>[0-9]+)~(?P<hex>[0-9a-f]+)")
_MARK_DIGITS: Final = 16
_RANDOM_DIGITS: Final = 8
_UNKNOWN: Final = "0" * _MARK_DIGITS


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The process that a name beginning with a dot belongs to."""

    target: str
    """What the name stands beside: a shard, a run, or a sign of work."""
    host: str
    pid: int
    mark: str = ""
    """Of its boot and namespace, and of its start, 8 hex digits each; empty where the name has
    none: written by an older release, or where the system does not tell."""

    @property
    def here(self) -> bool:
        """Whether it is, or was, a process that this one can ask for."""
        return self.host == _HOST and (not self.mark or self.mark[:8] == _place())

    @property
    def ended(self) -> bool:
        """Whether it is known to have ended."""
        if not self.here:
            return False
        return not _alive(self.pid) or bool(self.mark and self.mark != _mark(self.pid))


def staged_name(name: str) -> str:
    """A name that nobody else uses, beside `name`, that tells who may sweep it."""
    digits = f"{_mark(os.getpid()) or _UNKNOWN}{secrets.token_hex(_RANDOM_DIGITS // 2)}"
    return f".{name}~{_HOST}~{os.getpid()}~{digits}"


def owner_of(name: str) -> Owner | None:
    """Whose a staged name is; None for any other name."""
    match = _STAGE.fullmatch(name)
    if match is None:
        return None
    told = len(match["hex"]) == _MARK_DIGITS + _RANDOM_DIGITS
    mark = match["hex"][:_MARK_DIGITS] if told else ""
    return Owner(
        target=match["target"],
        host=match["host"],
        pid=int(match["pid"]),
        mark="" if mark == _UNKNOWN else mark,
    )


def abandoned(path: Path, owner: Owner) -> bool:
    """Whether what lies at `path` may be removed: its owner ended, or has been silent so long.

    Silence is measured by the clock that stamped the file, not by this machine's: on a network
    they differ, and either may jump.
    """
    if owner.here:
        return owner.ended
    try:
        return _clock_of(path.parent) - max(_times(path)) > ABANDONED_SECONDS
    except OSError:  # gone meanwhile, or nothing can be written there
        return False


def _times(path: Path) -> Iterator[float]:
    """When anything at or under `path` was last changed."""
    yield path.lstat().st_mtime
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            with contextlib.suppress(OSError):
                yield os.lstat(Path(folder, name)).st_mtime


def _clock_of(folder: Path) -> float:
    """The time now, as the file system of `folder` tells it."""
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
    return _stat(pid)[:1] not in (["Z"], ["X"])  # ended, though its parent has not asked yet


@lru_cache(maxsize=1)
def _place() -> str:
    """Where a process number means something: this boot of the kernel, this namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        told = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return _UNKNOWN[:8]
    return hashlib.sha256(told.encode()).hexdigest()[:8]


def _mark(pid: int) -> str:
    """The mark of a process that runs here; empty where the system does not tell."""
    fields = _stat(pid)
    if len(fields) < 20 or not fields[19].isdigit() or _place() == _UNKNOWN[:8]:
        return ""
    start = int(fields[19])  # clock ticks since boot
    return f"{_place()}{start % (1 << 32):08x}"


def _stat(pid: int) -> list[str]:
    """Fields of `/proc/<pid>/stat` from the state on; none where there is no such file."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()  # the program's name may hold anything
