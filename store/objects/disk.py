"""The objects below a directory of a disk: `protocol.Objects` for disks.

An object is written under a temporary name, flushed, and linked or renamed to its key, so that it
appears whole. Making a hard link fails if the name exists, which a rename does not: that decides
between two writers. Temporary names begin with a dot and identify the process that made them
(`lpp.store.objects.owners`); the next writer removes those of killed writers.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final, Self

from lpp.store.errors import ErrorKind, FormatError, MachineError
from lpp.store.format.commit_record import ObjectRecord
from lpp.store.format.keys import ADVICE
from lpp.store.objects.checks import (
    PIECE_BYTES,
    describe,
    exclusive_twice,
    only_writer,
    too_large,
)
from lpp.store.objects.locks import LACKS, lacks, locked
from lpp.store.objects.owners import abandoned, owner_of, staged_name
from lpp.store.objects.protocol import Buffers, Entry, Item, Result, Stat, Version

READ_BYTES: Final = 256 << 10
"""Bytes per read call, while the system reads ahead. Reading a whole chunk in one call took 1.4
times as long if it was not in the page cache."""

FLUSHES: Final = 8
"""Files flushed at once."""


class DiskObjects:
    """The objects below a directory. root: of the store; links above it are allowed."""

    is_local: Final = True
    piece_bytes: Final = PIECE_BYTES

    def __init__(self, root: Path, prefix: str = "") -> None:
        self.root, self._prefix = root, prefix

    @cached_property
    def place(self) -> Path:
        """Its directory."""
        return self.root / self._prefix if self._prefix else self.root

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.root, self._prefix)

    def below(self, key: str) -> Self:
        """The objects below `key`."""
        return type(self)(self.root, self._key(key))

    # reading

    def exists(self, key: str) -> bool:
        """Whether anything has this name. PermissionError where this user cannot know."""
        try:
            os.lstat(self.place / key)
        except PermissionError:
            raise
        except (OSError, ValueError):
            return False
        return True

    def stat(self, key: str) -> Stat:
        """Size and time of a regular file."""
        _, info = self._file(key)
        return Stat(size=info.st_size, modified=info.st_mtime)

    def entries(self, key: str = "") -> list[Entry]:
        """The entries of a directory, sorted by name."""
        try:
            with os.scandir(self._plain_folder(key)) as listing:
                entries = [
                    Entry(name=e.name, is_folder=e.is_dir(follow_symlinks=False)) for e in listing
                ]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(entries, key=lambda entry: entry.name)

    def walk(self, key: str = "") -> Iterator[str]:
        """Every file, link, pipe and empty directory below, in order."""
        yield from sorted(self._walk(key))

    def _walk(self, key: str) -> Iterator[str]:
        try:
            top = self._plain_folder(key)
        except (FileNotFoundError, NotADirectoryError):
            return
        for folder, folders, files in os.walk(top, onerror=_raise_closed):  # follows no links
            here = Path(folder).relative_to(self.place).as_posix()
            start = "" if here == "." else f"{here}/"
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            yield from (f"{start}{name}" for name in (*files, *links))
            if not files and not folders and Path(folder) != top:
                yield here

    def get(self, key: str, most: int) -> bytes:
        """The bytes of a small file."""
        with self.open(key) as source:
            if source.size > most:
                raise too_large(self.place / key, most)
            data = bytearray(source.size)
            source.read_into(memoryview(data), 0)
        return bytes(data)

    @contextlib.contextmanager
    def open(
        self, key: str, *, ahead: range = range(0), size: int | None = None
    ) -> Iterator["FileSource"]:
        """An open file. `ahead` and `size` are not needed here."""
        descriptor = os.open(self._file(key)[0], os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield FileSource(descriptor)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def open_compared(self, key: str, recorded: ObjectRecord) -> Iterator["FileSource"]:
        """An open file, read once for its checksum; the caller's reads come from the page cache."""
        with self.open(key) as source:
            # the size first: a file with holes could take hours to read
            same = source.size == recorded.bytes
            if not same or describe(source, self.piece_bytes).whole != recorded.whole:
                raise ValueError(f"{self.place / key}: altered or cut short")
            yield source

    def file(self, key: str, recorded: ObjectRecord) -> Path:
        """The file itself."""
        with self.open_compared(key, recorded):
            return self.place / key

    def local(self, key: str) -> Path:
        """The file itself."""
        return self._plain_file(key)

    # writing

    def write(self, key: str, parts: Buffers) -> None:
        """A new file, not flushed yet. Raises FileExistsError if there is one."""
        with _refusals_named(self.place), self._created(key, lasting=False) as file:
            _write_all(file, parts)

    def flush(self, keys: Collection[str]) -> None:
        """Flush files, then the entries of all directories from there up to the root."""
        folders = {""}
        with _refusals_named(self.place), ThreadPoolExecutor(FLUSHES) as pool:
            # several at once: each waits for the disk
            for _ in pool.map(lambda key: _flush(self._plain_file(key)), keys):
                pass
            for key in keys:
                whole = self._key(key)
                while "/" in whole:
                    whole = whole.rpartition("/")[0]
                    folders.add(whole)
            for folder in sorted(folders, key=len, reverse=True):
                _flush_names(self.root / folder)

    def put(self, key: str, data: bytes, *, lasting: bool = True) -> None:
        """Write to a temporary file, flush, rename to the key. Not lasting: without the flush."""
        with (
            _refusals_named(self.place / key),
            self._staged(key, [data], lasting=lasting) as staged,
        ):
            self._replace(staged, key, lasting=lasting)

    def put_file(self, key: str, path: Path) -> None:
        """Flush and rename a file that was made in `scratch`."""
        with _refusals_named(self.place / key):
            _flush(path)
            self._new_file(key)
            self._replace(path, key)

    def put_new(self, key: str, data: bytes) -> bool:
        """Write to a temporary file, flush, link to the key, which must be new."""
        target = self.place / key
        with _refusals_named(target):
            while True:
                with self._staged(key, [data]) as staged:
                    try:
                        linked = _link_to_new(staged, target)
                    except FileNotFoundError:  # another writer removed the temporary file
                        linked = None
                if linked is not None:
                    _flush_names(target.parent)
                    return linked

    def get_version(self, key: str, most: int) -> tuple[bytes, Version]:
        """The bytes of a file, and its identity."""
        path = self._plain_folder(key.rpartition("/")[0]) / key.rpartition("/")[2]
        file = _identity(path)
        try:
            data = self.get(key, most)
        except FormatError:
            data = b""
        return data, (file, data)

    def put_over(self, key: str, data: bytes, version: Version) -> bool:
        """Rename a new file over this version, holding a lock on it: of several writers one can,
        and a reader finds the old object or the new one.
        """
        (file, held), target = version, self.place / key
        # FileNotFoundError: another writer removed the object or swept the staged file
        with _refusals_named(target), contextlib.suppress(FileNotFoundError):
            self._plain_folder(key.rpartition("/")[0])
            if _identity(target) != file:
                return False
            is_file = stat.S_ISREG(target.lstat().st_mode)
            with self._staged(key, [data]) as staged, locked(target if is_file else target.parent):
                # the content too: another file may have the same inode, time and size
                if _identity(target) != file or (held and target.read_bytes() != held):
                    return False
                if is_file:
                    self._replace(staged, key)
                    return True
                self.delete_below(key)  # a rename does not replace a folder
                return _link_to_new(staged, target)
        return False

    def touch(self, key: str, data: bytes) -> None:
        """Set the modification time of a file to now."""
        os.utime(self._plain_file(key))

    def delete(self, keys: Iterable[str]) -> None:
        """Remove files and links, then directories above them that became empty."""
        for key in keys:
            folder, _, name = key.rpartition("/")
            with (
                _refusals_named(self.place / key),
                contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError),
            ):
                (self._plain_folder(folder) / name).unlink()
            _remove_empty(self.root, self._key(key))

    def delete_below(self, key: str) -> None:
        """Remove a directory with everything in it, as far as permissions allow."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self._plain_folder(key.rpartition("/")[0])
            path = self.place / key
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            _remove_empty(self.root, self._key(key))

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory on the same disk, so that a file in it can be renamed to its key."""
        with _refusals_named(self.place / "scratch"):
            folder = self._new_file(staged_name("scratch"))
            folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove temporary names directly here whose process ended or was silent for a day."""
        for entry in self.entries():
            owner, path = owner_of(entry.name), Path(self.place, entry.name)
            if owner is not None and abandoned(path, owner):
                with contextlib.suppress(OSError):  # rename first: a live writer notices
                    taken = path.rename(path.with_name(staged_name(owner.target)))
                    self.delete_below(taken.name)

    def check_exclusive(self) -> None:
        """Checks that this file system has hard links and refuses a name that exists."""
        if not _refuses_names(self.root):
            raise lacks("hard links", self.root)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """One after the other: a disk does not make them wait."""
        return [function(item) for item in items]

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix and key else self._prefix or key

    def _plain_folder(self, key: str) -> Path:
        """The directory of a key. Raises FormatError if a part of it is a link or a file."""
        return Path(self._folder(self._key(key)))

    def _folder(self, folder: str) -> str:
        path = str(self.root)  # as a string: joining paths took longer than lstat
        for part in filter(None, folder.split("/")):
            path = f"{path}/{part}"
            _refuse(path, stat.S_ISDIR, "directory")
        return path

    def _plain_file(self, key: str) -> Path:
        return Path(self._file(key)[0])

    def _file(self, key: str) -> tuple[str, os.stat_result]:
        """The path of a regular file, and what the disk says of it."""
        folder, _, name = self._key(key).rpartition("/")
        path = f"{self._folder(folder)}/{name}"
        return path, _refuse(path, stat.S_ISREG, "file")

    def _new_file(self, key: str, *, lasting: bool = True) -> Path:
        """The path of a file to write; makes its directories, and refuses links among them.

        lasting: make new directories durable now, not only in `flush`.
        """
        folder, _, name = self._key(key).rpartition("/")
        path = self.root
        made = [path] if not path.exists() else []
        for part in filter(None, folder.split("/")):
            path = path / part
            with contextlib.suppress(FileNotFoundError):
                _refuse(path, stat.S_ISDIR, "directory")
                continue
            made.append(path)
        if made and lasting:
            make_directory(path)
        elif made:
            path.mkdir(parents=True, exist_ok=True)
        return path / name

    @contextlib.contextmanager
    def _staged(self, key: str, parts: Buffers, *, lasting: bool = True) -> Iterator[Path]:
        """A temporary file beside `key`, flushed if it is lasting; removed at the end."""
        name = staged_name(key.rpartition("/")[2])
        staged = self.place / self._sibling(key, name)
        with contextlib.ExitStack() as end:
            with self._created(self._sibling(key, name), lasting=lasting) as file:
                end.callback(staged.unlink, missing_ok=True)
                _write_all(file, parts)
                if lasting:
                    os.fsync(file.fileno())  # by descriptor: the name may have been removed
            yield staged

    @contextlib.contextmanager
    def _created(self, key: str, *, lasting: bool = True) -> Iterator[Any]:
        """A new file to write. Tries again if a sweep removes its folder in the meantime."""
        while True:
            with contextlib.suppress(FileNotFoundError):
                file = self._new_file(key, lasting=lasting).open("xb", buffering=0)
                break
        with file:
            yield file

    def _replace(self, path: Path, key: str, *, lasting: bool = True) -> None:
        """Rename a file, flushed if it is lasting, to the key of an object, which may exist."""
        target = self.place / key
        if target.is_dir() and not target.is_symlink():
            _refuse(target, stat.S_ISREG, "file")
        path.replace(target)
        if lasting:
            _flush_names(target.parent)

    @staticmethod
    def _sibling(key: str, name: str) -> str:
        folder, slash, _ = key.rpartition("/")
        return f"{folder}{slash}{name}"


class FileSource:
    """An open file. It is read, not memory-mapped: if a mapped file is truncated, or removed on a
    network file system, the process is killed.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer`; thread-safe."""
        while buffer:
            n = os.preadv(self._descriptor, [buffer[:READ_BYTES]], offset)
            if not n:
                raise EOFError(f"it ends at byte {offset}")
            buffer, offset = buffer[n:], offset + n


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to a file outside a store, in one atomic and durable step."""
    DiskObjects(path.parent).put(path.name, data)


def make_directory(path: Path) -> None:
    """Make `path` and missing directories above it, so that they survive a power cut."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        _flush_names(folder.parent)


def _raise_closed(error: OSError) -> None:
    """Raise for a folder that is closed to this user; others are gone meanwhile."""
    if isinstance(error, PermissionError):
        raise error


@lru_cache(maxsize=64)
def _refuses_names(root: Path) -> bool:
    return exclusive_twice(DiskObjects(root))


def _remove_empty(root: Path, key: str) -> None:
    """Remove empty folders above a key, as a bucket has no empty folders."""
    with contextlib.suppress(OSError):
        while "/" in key:
            key = key.rpartition("/")[0]
            (root / key).rmdir()


def _write_all(file: Any, parts: Buffers) -> None:
    for part in parts:
        view = memoryview(part).cast("B")
        while view:  # an unbuffered write may be partial
            view = view[file.write(view) :]


def _link_to_new(path: Path, target: Path) -> bool:
    """Link `target` to the file `path`; False if `target` exists."""
    try:
        os.link(path, target, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in LACKS:
            raise
        if not only_writer():
            raise lacks("hard links", target.parent) from None
        if os.path.lexists(target):
            return False
        path.rename(target)
    return True


def _identity(path: Path) -> tuple[int, int, int]:
    """Identity of a file: inode numbers are reused, so also its time and size."""
    info = path.lstat()
    return info.st_ino, info.st_mtime_ns, info.st_size


def _refuse(path: Path | str, fits: Callable[[int], bool], kind: str) -> os.stat_result:
    info = os.lstat(path)
    mode = info.st_mode
    if stat.S_ISLNK(mode):
        raise FormatError(
            f"{path}: a symbolic link. A store holds none, since one may lead anywhere: put the "
            f"{kind} itself there. {ADVICE}",
            kind=ErrorKind.CORRUPT,
        )
    if not fits(mode):
        raise FormatError(f"{path}: not a {kind}. {ADVICE}", kind=ErrorKind.CORRUPT)
    return info


def _flush(path: Path) -> None:
    """Make the content of a file, or the entries of a directory, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_names(directory: Path) -> None:
    """Make the entries of a directory durable, if the file system supports it."""
    try:
        _flush(directory)
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):  # supported, but failed
            raise


@contextlib.contextmanager
def _refusals_named(path: Path) -> Iterator[None]:
    """Turn errors of a full, read-only or failing disk into MachineError with the place."""
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
                "Make it writable (`ls -ld` shows its owner), or use a store elsewhere.",
                kind=ErrorKind.READ_ONLY,
            ) from None
        if error.errno in (None, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.ENOTEMPTY):
            raise
        raise MachineError(
            f"the disk of {path.parent} failed: {error.strerror}. Every committed shard is whole. "
            "See what the system says of the disk (`dmesg`), then repeat the same command: it "
            "resumes.",
            kind=ErrorKind.DISK_FAILED,
        ) from None
