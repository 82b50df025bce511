"""The commit protocol, SPEC.md section 6: the same on a disk as in a bucket.

A writer puts its objects under a name of its own, an *attempt*, and then creates COMMIT.json, which
names the attempt. Creation is exclusive, so exactly one of several writers wins; the objects of the
others are removed.

A writer may be suspended at any point and continue after another one has won and removed its
attempt. It detects that in one of three places: its objects are gone when it flushes them; a record
exists when it creates its own; or, if that record was removed in the meantime, its objects are gone
when it checks for them once more. In all three cases its record does not stay.
"""

import contextlib
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from lpp.store.errors import ConflictError, ErrorKind, LppError, MachineError
from lpp.store.format.commit_record import ChunkRecord, Described, ObjectRecord, record_bytes
from lpp.store.format.keys import COMMIT_KEY, MAX_DOCUMENT_BYTES
from lpp.store.objects.protocol import Buffers, Entry, Objects

QUIETLY: Final = (LppError, OSError)
"""Errors that a sweep ignores: files that it cannot remove only take space."""

TRIES: Final = 100
"""Times that a record is put while others remove or replace it."""


class Attempt:
    """The objects that one writer puts into a directory. They count once its record is
    committed.
    """

    def __init__(self, directory: Objects) -> None:
        self.base = secrets.token_hex(8)
        self.older: Collection[Entry] = ()
        """Entries of the directory just before the record was put. Other attempts among them can no
        longer win. An attempt that begins later can, if its writer replaces this record."""
        self._directory = directory
        self._objects: dict[str, ObjectRecord] = {}
        self._in_doubt = False

    def write(self, key: str, parts: Buffers, chunks: Sequence[ChunkRecord] = ()) -> None:
        """Write one object. Any number of threads may call this at once.

        chunks: of an array; complete once its parts have been read.
        """
        described = Described(parts)
        self._directory.write(f"{self.base}/{key}", described)
        self._objects[key] = described.record(chunks)

    def commit(self, record: Any, stays: Callable[[bytes], bool]) -> None:
        """Commit the objects: put `record` if there is no record, or none that stays.

        record: of any kind; this fills in objects and base.
        stays: whether the bytes of an existing record (empty if it is not a file) mean that another
        writer was first. Raises FileExistsError if so, ConflictError if others removed objects
        while they were being written.
        """
        directory = self._directory
        keys = {f"{self.base}/{key}" for key in self._objects}
        try:
            directory.flush(keys)
        except FileNotFoundError:
            raise self._removed(stays) from None
        with contextlib.suppress(*QUIETLY):
            self.older = directory.entries()
        complete = replace(record, objects=self._objects, base=self.base)
        self._put_record(record_bytes(complete), stays)
        if not self._complete(keys):
            with contextlib.suppress(FileNotFoundError):
                if self._counts():
                    directory.delete([COMMIT_KEY])
            self._in_doubt = False
            raise self._removed(stays)

    def _put_record(self, data: bytes, stays: Callable[[bytes], bool]) -> None:
        directory = self._directory
        for _ in range(TRIES):
            self._in_doubt = True
            if directory.put_new(COMMIT_KEY, data):
                return
            try:
                existing, version = directory.get_version(COMMIT_KEY, MAX_DOCUMENT_BYTES)
            except FileNotFoundError:
                continue  # just removed
            if existing == data:
                return  # only the answer was lost: the record is this attempt's
            self._in_doubt = False
            if stays(existing):
                raise FileExistsError(str(directory.place))
            self._in_doubt = True
            if directory.put_over(COMMIT_KEY, data, version):
                return
        raise MachineError(
            f"{directory.place / COMMIT_KEY}: {TRIES} times it was refused because it exists, and "
            "then it was not there, or another one. Whatever was committed is whole. See that the "
            "store keeps conditions and nothing else works there, then repeat the same command.",
            kind=ErrorKind.UNREACHABLE,
        )

    def _complete(self, keys: Collection[str]) -> bool:
        """Whether every object is still there; True if that is unknown."""
        try:
            return {*keys} <= {*self._directory.walk(self.base)}
        except QUIETLY:
            return True

    def _counts(self) -> bool:
        """Whether the record is this attempt's. FileNotFoundError if there is none."""
        record = self._directory.get(COMMIT_KEY, MAX_DOCUMENT_BYTES)
        return f'"{self.base}"'.encode() in record

    def _removed(self, stays: Callable[[bytes], bool]) -> Exception:
        """The error to raise if others have removed the objects.

        FileExistsError if a record of theirs stays.
        """
        where = self._directory.place
        with contextlib.suppress(FileNotFoundError):
            if stays(self._directory.get_version(COMMIT_KEY, MAX_DOCUMENT_BYTES)[0]):
                return FileExistsError(str(where))
        return ConflictError(
            f"{where}: what this process was writing there was removed by another one. See that "
            "nothing else works there, then repeat the same command.",
            kind=ErrorKind.IN_USE,
        )

    def withdraw(self) -> None:
        """Remove the objects, unless they are or may be committed.

        If an answer from a bucket was lost, the request may still take effect.
        """
        with contextlib.suppress(*QUIETLY):
            if self._in_doubt:
                try:
                    if self._counts():
                        return
                except FileNotFoundError:
                    if not self._directory.is_local:
                        return
            self._directory.delete_below(self.base)


@contextlib.contextmanager
def attempt(directory: Objects, *, keep: Collection[str] = ()) -> Iterator[Attempt]:
    """An attempt to fill, and to end with `commit`.

    If the block succeeds, everything that was in `directory` before is removed, except names in
    `keep`. If it fails, the attempt itself is removed. Raises FileExistsError if another writer was
    first.
    """
    stage = Attempt(directory)
    try:
        yield stage
    except BaseException:
        stage.withdraw()
        raise
    _remove(directory, stage.older, {*keep, stage.base})


def sweep(
    directory: Objects, keep: Collection[str], entries: Iterable[Entry] | None = None
) -> None:
    """Remove everything from `directory` but its record and the names in `keep`, if possible.

    entries: only these of it.
    """
    with contextlib.suppress(*QUIETLY):
        _remove(directory, directory.entries() if entries is None else entries, keep)


def _remove(directory: Objects, entries: Iterable[Entry], keep: Collection[str]) -> None:
    with contextlib.suppress(*QUIETLY):
        for entry in entries:
            if entry.name in keep or entry.name == COMMIT_KEY:
                continue
            if entry.is_folder:
                directory.delete_below(entry.name)
            else:
                directory.delete([entry.name])
