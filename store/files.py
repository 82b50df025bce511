"""Durable writing on a local disk: beside the target, flushed, checksummed, then renamed.

A directory appears under its own name only whole (SPEC.md section 6). What a killed writer
leaves behind starts with a dot, names the process that made it, and is swept by the next one.
"""

import contextlib
import errno
import os
import platform
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from lpp.store.errors import ErrorKind, MachineError

_HOST = re.sub(r"[^A-Za-z0-9-]+", "-", platform.node()) or "host"
_STAGE = re.compile(r"\.(?P<target>.+)~(?P<host>[A-Za-z0-9-]+)~(?P<pid>[0-9]+)~[0-9a-f]+")
_PIECE = 1 << 20  # bytes hashed at a time: memory stays flat whatever the object's size


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The process that a name beginning with a dot belongs to."""

    target: str
    """What the name stands beside: a shard, a run, or a sign of work."""
    host: str
    pid: int

    @property
    def here(self) -> bool:
        """Whether it is, or was, a process of this machine."""
        return self.host == _HOST

    @property
    def ended(self) -> bool:
        """Whether it is known to have ended: only a machine knows its own processes."""
        return self.here and not _alive(self.pid)


@dataclass(frozen=True, kw_only=True)
class ObjectRecord:
    """Size and checksum of one stored object."""

    bytes: int
    xxh3_128: str


def checksum(data: bytes | memoryview) -> str:
    """xxh3-128 of `data`, in hex."""
    return xxhash.xxh3_128_hexdigest(data)


def describe(path: Path) -> ObjectRecord:
    """Size and checksum of a file, read a MiB at a time."""
    digest, size = xxhash.xxh3_128(), 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    return ObjectRecord(bytes=size, xxh3_128=digest.hexdigest())


def write_object(path: Path, data: bytes | memoryview) -> ObjectRecord:
    """Write one new file, without flushing it: a stage flushes all it holds, at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb", buffering=0) as file:
        view = memoryview(data)
        while view:  # an unbuffered write may take less than it was given
            view = view[file.write(view) :]
    return ObjectRecord(bytes=memoryview(data).nbytes, xxh3_128=checksum(data))


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, then put it in place in one step."""
    stage = beside(path)
    with refusals_named(path):
        try:
            write_object(stage, data)
            _flush(stage)
            stage.replace(path)
        except BaseException:
            stage.unlink(missing_ok=True)
            raise
    _flush_names(path.parent)


@contextlib.contextmanager
def staged_directory(target: Path, make_way: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """A directory to fill beside `target`; it takes that name when the block ends well.

    make_way: called when all of it is on the disk, just before it takes the name.
    Raises FileExistsError when another writer's directory got there first: the rename is the
    one step that decides, so exactly one of two writers wins. MachineError for a disk that is
    full or cannot be written.
    """
    stage = beside(target)
    with refusals_named(target):
        try:
            stage.mkdir(parents=True)
            yield stage
            for folder, _, files in os.walk(stage):
                for name in files:
                    _flush(Path(folder, name))
                _flush_names(Path(folder))
            make_way()
            _rename_to_new(stage, target)
            _flush_names(target.parent)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def set_aside(path: Path) -> Path:
    """Rename `path` to a name that the next sweep removes, in one step; returns that name."""
    aside = beside(path)
    with refusals_named(path):  # a read-only disk refuses before it sees that nothing is there
        path.rename(aside)
    return aside


def put_back(aside: Path, target: Path) -> None:
    """Undo `set_aside`, unless something took the name meanwhile: then remove what was aside."""
    try:
        _rename_to_new(aside, target)
    except FileExistsError:
        remove(aside)


def remove(path: Path) -> None:
    """Remove a file or a directory with everything in it, as far as it can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _rename_to_new(path: Path, target: Path) -> None:
    try:
        path.rename(target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise FileExistsError(str(target)) from None
        raise


def sweep_stages(folder: Path) -> None:
    """Remove what writers of this machine left in `folder` when they were killed."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        owner = owner_of(path.name)
        if owner is not None and owner.ended:
            remove(path)


def owner_of(name: str) -> Owner | None:
    """Whose a staged name is; None for any other name."""
    match = _STAGE.fullmatch(name)
    if match is None:
        return None
    return Owner(target=match["target"], host=match["host"], pid=int(match["pid"]))


def beside(target: Path) -> Path:
    """A name that nobody else uses, next to `target`, that tells who may sweep it."""
    return target.with_name(staged_name(target.name))


def staged_name(name: str) -> str:
    """A name that nobody else uses, beside `name`, that tells who may sweep it."""
    return f".{name}~{_HOST}~{os.getpid()}~{secrets.token_hex(4)}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _flush(path: Path) -> None:
    """Return when the disk has the content of a file, or the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_names(directory: Path) -> None:
    """Make the names in a directory survive a power cut; not every file system can."""
    with contextlib.suppress(OSError):
        _flush(directory)


@contextlib.contextmanager
def refusals_named(path: Path) -> Iterator[None]:
    """Turn a full disk, and one that may not be written, into MachineError that says where."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MachineError(
                f"no space left on the disk of {path.parent}. Every committed shard is whole. Free "
                "some space (`df -h` shows the disk), then repeat the same command: it resumes.",
                kind=ErrorKind.NO_SPACE,
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise MachineError(
                f"cannot write in {path.parent}: {error.strerror}. "
                "Make it writable (`ls -ld` shows its owner), or name another --store.",
                kind=ErrorKind.READ_ONLY,
            ) from None
        raise
