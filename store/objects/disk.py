"""A directory of a disk as a place for objects.

An object is written under a name of its own, flushed, and linked or renamed to its key, so that it
appears whole. A hard link refuses a name that is there, which a rename does not: that decides
between two writers. What a killed writer leaves behind begins with a dot and names its process
(`lpp.store.objects.owners`); the next writer sweeps it.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from lpp.store.errors import ErrorKind, FormatError, MachineError
from lpp.store.format.commit_record import ObjectRecord
from lpp.store.format.limits import ADVICE
from lpp.store.objects.checks import (
    ONLY_WRITER,
    PIECE_BYTES,
    describe,
    exclusive_twice,
    only_writer,
    too_large,
)
from lpp.store.objects.owners import abandoned, owner_of, staged_name
from lpp.store.objects.protocol import Buffers, Entry, Stat, Version

Item = TypeVar("Item")
Result = TypeVar("Result")

READ_BYTES: Final = 256 << 10
"""Bytes asked for at a time: the system reads ahead meanwhile. A whole chunk in one call took 1.4
times as long where it was not in the page cache."""

FLUSHES: Final = 8
"""Files flushed side by side."""

_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system without hard links answers."""


class DiskObjects:
    """The objects below a directory. root: of the store, above which nobody looks for links."""

    is_local: Final = True
    piece_bytes: Final = PIECE_BYTES

    def __init__(self, root: Path, prefix: str = "") -> None:
        self.root, self._prefix = root, prefix
        self.place = root / prefix if prefix else root

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.root, self._prefix)

    def below(self, key: str) -> Self:
        """The objects below `key`."""
        return type(self)(self.root, self._key(key))

    # reading

    def exists(self, key: str) -> bool:
        """Whether anything bears that name."""
        return os.path.lexists(self.place / key)

    def stat(self, key: str) -> Stat:
        """Size and time of a regular file."""
        found = self._plain_file(key).stat()
        return Stat(size=found.st_size, modified=found.st_mtime)

    def entries(self, key: str = "") -> list[Entry]:
        """What lies right in a directory, by name."""
        try:
            with os.scandir(self._plain_folder(key)) as found:
                entries = [
                    Entry(name=e.name, is_folder=e.is_dir(follow_symlinks=False)) for e in found
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
        for folder, folders, files in os.walk(top):  # follows no links
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
        """A file, read where it is asked for; its size is its own."""
        descriptor = os.open(self._plain_file(key), os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield FileSource(descriptor)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def open_compared(self, key: str, recorded: ObjectRecord) -> Iterator["FileSource"]:
        """A file, read through for its checksum and then, from the system's cache, again."""
        with self.open(key) as source:
            if describe(source, self.piece_bytes).whole != recorded.whole:
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
        """A new file, not flushed yet. FileExistsError where there is one."""
        with _refusals_named(self.place), self._created(key, lasting=False) as file:
            _write_all(file, parts)

    def flush(self, keys: Collection[str]) -> None:
        """Flush files, then the names of all directories from them up to the root."""
        folders = {""}
        with _refusals_named(self.place), ThreadPoolExecutor(FLUSHES) as pool:
            # a disk has room for several requests at once, and each waits for it
            for _ in pool.map(lambda key: _flush(self._plain_file(key)), keys):
                pass
            for key in keys:
                whole = self._key(key)
                while "/" in whole:
                    whole = whole.rpartition("/")[0]
                    folders.add(whole)
            for folder in sorted(folders, key=len, reverse=True):
                _flush_names(self.root / folder)

    def put(self, key: str, data: bytes) -> None:
        """Write beside, flush, rename over whatever is there."""
        with _refusals_named(self.place / key), self._staged(key, [data]) as staged:
            self._replace(staged, key)

    def put_file(self, key: str, path: Path) -> None:
        """Flush and rename a file that was made in `scratch`."""
        with _refusals_named(self.place / key):
            _flush(path)
            self._new_file(key)
            self._replace(path, key)

    def put_new(self, key: str, data: bytes) -> bool:
        """Write beside, flush, link to a name that must be new."""
        target = self.place / key
        with _refusals_named(target):
            while True:
                with self._staged(key, [data]) as staged:
                    try:
                        linked = _link_to_new(staged, target)
                    except FileNotFoundError:  # swept: by one that won, or that took us for dead
                        linked = None
                if linked is not None:
                    _flush_names(target.parent)
                    return linked

    def get_version(self, key: str, most: int) -> tuple[bytes, Version]:
        """The bytes of a file, and which file it is."""
        path = self._plain_folder(key.rpartition("/")[0]) / key.rpartition("/")[2]
        file = _identity(path)
        try:
            data = self.get(key, most)
        except FormatError:
            data = b""
        return data, (file, data)

    def put_over(self, key: str, data: bytes, version: Version) -> bool:
        """Take that version away by a rename, which only one writer can, then `put_new`.

        For a moment nothing bears the name: a reader finds no object, and a writer that is killed
        there leaves none. So this is for objects that do not count, or are about to be replaced.
        """
        (file, held), target = version, self.place / key
        taken = target.with_name(staged_name(target.name))
        with _refusals_named(target):
            try:
                self._plain_folder(key.rpartition("/")[0])
                if _identity(target) != file:
                    return False
                target.rename(taken)
            except FileNotFoundError:
                return False
            try:
                # another file by now, perhaps of the same number: put back, if it is not too late
                if _identity(taken) != file or (held and taken.read_bytes() != held):
                    _link_to_new(taken, target)
                    return False
                return self.put_new(key, data)
            except BaseException:
                with contextlib.suppress(OSError):  # what was there is there again
                    _link_to_new(taken, target)
                raise
            finally:
                self.delete_below(self._sibling(key, taken.name))

    def touch(self, key: str, data: bytes) -> None:
        """Set the time of a file."""
        os.utime(self._plain_file(key))

    def delete(self, keys: Iterable[str]) -> None:
        """Remove files and links, and the directories above them that are empty then."""
        for key in keys:
            folder, _, name = key.rpartition("/")
            with (
                _refusals_named(self.place / key),
                contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError),
            ):
                (self._plain_folder(folder) / name).unlink()
            _remove_empty(self.root, self._key(key))

    def delete_below(self, key: str) -> None:
        """Remove a directory with everything in it, as far as it can be removed."""
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
        """A directory right here, so that a file made in it can be renamed to its key."""
        with _refusals_named(self.place / "scratch"):
            folder = self._new_file(staged_name("scratch"))
            folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what processes that ended, or were silent for a day, left right here."""
        for entry in self.entries():
            owner, path = owner_of(entry.name), Path(self.place, entry.name)
            if owner is not None and abandoned(path, owner):
                with contextlib.suppress(OSError):  # renamed first: a writer that lives notices
                    taken = path.rename(path.with_name(staged_name(owner.target)))
                    self.delete_below(taken.name)

    def check_exclusive(self) -> None:
        """Whether this file system has links, and refuses one to a name that is there."""
        if not _refuses_names(self.root):
            raise _no_links(self.root)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """One after the other: a disk answers at once."""
        return [function(item) for item in items]

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix and key else self._prefix or key

    def _plain_folder(self, key: str) -> Path:
        """The directory of that key, each part of it below the root a real one."""
        path = str(self.root)  # strings: joining paths took longer than asking the system
        for part in filter(None, self._key(key).split("/")):
            path = f"{path}/{part}"
            _refuse(path, stat.S_ISDIR, "directory")
        return Path(path)

    def _plain_file(self, key: str) -> Path:
        folder, _, name = self._key(key).rpartition("/")
        path = type(self)(self.root)._plain_folder(folder) / name
        _refuse(path, stat.S_ISREG, "file")
        return path

    def _new_file(self, key: str, *, lasting: bool = True) -> Path:
        """The path of a file to write, its directories made, none of them a link.

        lasting: whether new directories survive a power cut at once, or once `flush` was called.
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
    def _staged(self, key: str, parts: Buffers) -> Iterator[Path]:
        """A flushed file beside `key` under a name of this process; gone at the end."""
        name = staged_name(key.rpartition("/")[2])
        staged = self.place / self._sibling(key, name)
        with contextlib.ExitStack() as end:
            with self._created(self._sibling(key, name)) as file:
                end.callback(staged.unlink, missing_ok=True)
                _write_all(file, parts)
                os.fsync(file.fileno())  # not by its name, which may be swept meanwhile
            yield staged

    @contextlib.contextmanager
    def _created(self, key: str, *, lasting: bool = True) -> Iterator[Any]:
        """A new file to write. Its folder is made again where a sweep removes it this moment."""
        while True:
            with contextlib.suppress(FileNotFoundError):
                file = self._new_file(key, lasting=lasting).open("xb", buffering=0)
                break
        with file:
            yield file

    def _replace(self, path: Path, key: str) -> None:
        """Give a flushed file the name of an object, which may be there."""
        target = self.place / key
        if target.is_dir() and not target.is_symlink():
            _refuse(target, stat.S_ISREG, "file")
        path.replace(target)
        _flush_names(target.parent)

    @staticmethod
    def _sibling(key: str, name: str) -> str:
        folder, slash, _ = key.rpartition("/")
        return f"{folder}{slash}{name}"


class FileSource:
    """An open file. Read, not mapped: one that is cut short, or removed on a network file system,
    would end a process that has it mapped.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer`; any number of threads may at once."""
        while buffer:
            n = os.preadv(self._descriptor, [buffer[:READ_BYTES]], offset)
            if not n:
                raise EOFError(f"it ends at byte {offset}")
            buffer, offset = buffer[n:], offset + n


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to a file of the user's, in one lasting step."""
    DiskObjects(path.parent).put(path.name, data)


def make_directory(path: Path) -> None:
    """Make `path` and what is missing above it, to survive a power cut."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        _flush_names(folder.parent)


@lru_cache(maxsize=64)
def _refuses_names(root: Path) -> bool:
    return exclusive_twice(DiskObjects(root))


def _remove_empty(root: Path, key: str) -> None:
    """Remove the folders above a key that are empty: a bucket has none either."""
    with contextlib.suppress(OSError):
        while "/" in key:
            key = key.rpartition("/")[0]
            (root / key).rmdir()


def _write_all(file: Any, parts: Buffers) -> None:
    for part in parts:
        view = memoryview(part).cast("B")
        while view:  # an unbuffered write may take less than it was given
            view = view[file.write(view) :]


def _link_to_new(path: Path, target: Path) -> bool:
    """Give the file `path` the name `target` as well; False where something bears it."""
    try:
        os.link(path, target, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if not only_writer():
            raise _no_links(target.parent) from None
        if os.path.lexists(target):
            return False
        path.rename(target)
    return True


def _no_links(folder: Path) -> MachineError:
    return MachineError(
        f"the file system of {folder} has no hard links, which decide between two writers. Use "
        "another one, or, if you make sure that one command at a time writes here, set "
        f"{ONLY_WRITER}=1.",
        kind=ErrorKind.DENIED,
    )


def _identity(path: Path) -> tuple[int, int, int]:
    """Which file it is; a new one may get the number of one that is gone."""
    found = path.lstat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _refuse(path: Path | str, fits: Callable[[int], bool], kind: str) -> None:
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        raise FormatError(
            f"{path}: a symbolic link. A store holds none, since one may lead anywhere: put the "
            f"{kind} itself there. {ADVICE}",
            kind=ErrorKind.CORRUPT,
        )
    if not fits(mode):
        raise FormatError(f"{path}: not a {kind}. {ADVICE}", kind=ErrorKind.CORRUPT)


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
def _refusals_named(path: Path) -> Iterator[None]:
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
        if error.errno in (None, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.ENOTEMPTY):
            raise
        raise MachineError(
            f"the disk of {path.parent} failed: {error.strerror}. Every committed shard is whole. "
            "See what the system says of the disk (`dmesg`), then repeat the same command: it "
            "resumes.",
            kind=ErrorKind.DISK_FAILED,
        ) from None
