"""Locks on files of a disk, for what hard links cannot decide between writers."""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lpp.store.errors import ConflictError, ErrorKind, MachineError
from lpp.store.objects.checks import ONLY_WRITER, only_writer

LACKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""Error numbers of a file system without hard links, or without locks."""

LOCK_SECONDS: Final = 10
"""Time after which a writer that holds a lock counts as suspended."""


@contextlib.contextmanager
def locked(path: Path, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the lock on a file or folder, which ends with the process.

    Raises ConflictError(IN_USE) after `seconds`, MachineError(DENIED) where there are no locks.
    """
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_RDWR)  # NFS locks only what can be written
    except (PermissionError, IsADirectoryError):
        descriptor = os.open(path, flags | os.O_RDONLY)
    try:
        _lock(descriptor, path, seconds)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise ConflictError(
                    f"{path}: another process has held its lock for {seconds} s. Continue that "
                    "process if it is suspended, or end it, then repeat the same command.",
                    kind=ErrorKind.IN_USE,
                ) from None
            time.sleep(0.005)
        except OSError as error:
            if error.errno not in (*LACKS, errno.ENOLCK, errno.EBADF):
                raise
            if not only_writer():
                raise lacks("locks", path.parent) from None
            return None


def lacks(what: str, folder: Path) -> MachineError:
    """The error for a file system that cannot decide between two writers."""
    return MachineError(
        f"the file system of {folder} has no {what}, which decide between two writers. Use "
        "another one, or, if you make sure that one command at a time writes here, set "
        f"{ONLY_WRITER}=1.",
        kind=ErrorKind.DENIED,
    )
