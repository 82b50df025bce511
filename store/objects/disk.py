"""Durable writing on a local disk: beside the target, flushed, checksummed, then renamed.

A directory appears under its own name only whole (SPEC.md section 6). What a killed writer
leaves behind starts with a dot, names the process that made it, and is swept by the next one.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from lpp.store.errors import ConflictError, ErrorKind, MachineError
from lpp.store.objects.owners import abandoned, owner_of, staged_name

_PIECE = 1 << 20  # bytes hashed at a time: memory stays flat whatever the object's size


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
    """Write `data` beside `path`, then put it in place in one step.

    Sweeps what was left there by a process that was killed at it.
    """
    stage = beside(path)
    with refusals_named(path):
        make_directory(path.parent)
        sweep_stages(path.parent)
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
            make_directory(stage.parent)
            stage.mkdir()
            with _ours_to_the_end(stage):
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


@contextlib.contextmanager
def _ours_to_the_end(stage: Path) -> Iterator[None]:
    """ConflictError where `stage` is not the directory that it was when the block began.

    Whoever takes its writer for dead renames it, and what is written then makes it anew, with some
    of its objects. An open descriptor keeps the number of its inode from being given away.
    """
    descriptor = os.open(stage, os.O_RDONLY)
    try:
        yield
        ours = os.path.samestat(os.fstat(descriptor), os.stat(stage))
    except FileNotFoundError:
        if stage.exists():
            raise
        ours = False
    finally:
        os.close(descriptor)
    if not ours:
        raise ConflictError(
            f"{stage} was removed while this process filled it: it was taken for one that "
            "ended. Everything committed stays; repeat the same command: it resumes.",
            kind=ErrorKind.IN_USE,
        )


def make_directory(path: Path) -> None:
    """Make `path` and what is missing above it, where it is missing, to survive a power cut."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        _flush_names(folder.parent)


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
    """Remove what writers left in `folder` when they were killed, as far as that can be told."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        owner = owner_of(path.name)
        if owner is not None and abandoned(path, owner):
            with contextlib.suppress(OSError):  # renamed first: a writer that lives notices
                remove(path.rename(beside(path.with_name(owner.target))))


def beside(target: Path) -> Path:
    """A name that nobody else uses, next to `target`, that tells who may sweep it."""
    return target.with_name(staged_name(target.name))


def _flush(path: Path) -> None:
    """Return when the disk has the content of a file, or the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_names(directory: Path) -> None:
    """Make the names in a directory survive a power cut; not every file system can."""
    try:
        _flush(directory)
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):  # it can, and did not
            raise


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
        if error.errno in (None, errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY):
            raise
        raise MachineError(
            f"the disk of {path.parent} failed: {error.strerror}. Every committed shard is whole. "
            "See what the system says of the disk (`dmesg`), then repeat the same command: it "
            "resumes.",
            kind=ErrorKind.DISK_FAILED,
        ) from None
