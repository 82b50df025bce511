"""The protocol for objects of a store, on a disk, in a bucket or at an address.

The key of an object is a relative path with `/` as separator. An object appears whole or not at
all. Two calls decide between competing writers, on a disk as in a bucket: `put_new` fails if the
key exists, `put_over` fails if the object has been replaced since. No call follows a link out of
the store, or waits for a pipe.

At an address every call that writes raises MachineError(READ_ONLY).

Every call raises FileNotFoundError for a missing object, FormatError(CORRUPT) for anything but a
plain object (a link, a pipe), and MachineError if the place is full, fails or denies access.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

from lpp.store.format.commit_record import ObjectRecord
from lpp.store.objects.place import Place

Item = TypeVar("Item")
Result = TypeVar("Result")

Buffers: TypeAlias = Iterable[Any]
"""Consecutive parts of one object: anything with the buffer protocol. Iterated once."""

Version: TypeAlias = Any
"""Identifies one version of an object; its type depends on the kind of place."""


@dataclass(frozen=True, kw_only=True)
class Stat:
    """Size and time of one object."""

    size: int
    modified: float
    """Seconds since the epoch, by the clock of the place."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An object or folder directly in a folder."""

    name: str
    is_folder: bool


class Source(Protocol):
    """The stored bytes of one object, or of a range of it."""

    @property
    def size(self) -> int:
        """Bytes of the whole object."""

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` with the bytes from `offset` on. Raises EOFError if there are too few."""


class Objects(Protocol):
    """The objects below one directory or prefix."""

    @property
    def root(self) -> Place:
        """The store that they belong to."""

    @property
    def place(self) -> Place:
        """The directory or prefix, for messages."""

    @property
    def is_local(self) -> bool:
        """Whether small reads are cheap; in a bucket each costs a request."""

    @property
    def piece_bytes(self) -> int:
        """Size in bytes of an efficient read."""

    def below(self, key: str) -> "Objects":
        """The objects below `key`. Accesses nothing."""

    def exists(self, key: str) -> bool:
        """Whether there is an object with this key or below it; on a disk, any such name."""

    def stat(self, key: str) -> Stat:
        """Size and time of an object."""

    def entries(self, key: str = "") -> list[Entry]:
        """The entries directly in the folder `key`, sorted by name; empty if there is no folder."""

    def walk(self, key: str = "") -> Iterator[str]:
        """Key of every object below the folder `key`, in order. On a disk also what a store may
        not contain: links, pipes and empty directories.
        """

    def get(self, key: str, most: int) -> bytes:
        """The bytes of a small object. Raises FormatError(CORRUPT) for more than `most` bytes."""

    def open(
        self, key: str, *, ahead: range = range(0), size: int | None = None
    ) -> AbstractContextManager[Source]:
        """The bytes of an object. ahead: the range that will be read. size: of the object, if it is
        known. With both, a bucket needs one request.
        """

    def open_compared(self, key: str, recorded: ObjectRecord) -> AbstractContextManager[Source]:
        """The bytes of an object, compared with `recorded`. Raises ValueError if they differ."""

    def file(self, key: str, recorded: ObjectRecord) -> Path:
        """A local file with the bytes of an object, compared with `recorded` first; on a disk, the
        object's own file. Raises ValueError if the bytes differ.
        """

    def local(self, key: str) -> Path:
        """A local file with the object's current bytes, which are not compared with a record."""

    def write(self, key: str, parts: Buffers) -> None:
        """Write a new object. It survives a power cut only after `flush`."""

    def flush(self, keys: Collection[str]) -> None:
        """Make written objects and their names durable: they then survive a power cut."""

    def put(self, key: str, data: bytes, *, lasting: bool = True) -> None:
        """Write an object, or replace one, in one atomic and durable step.

        lasting: whether it has to survive a power cut; otherwise it may be empty or gone after one.
        """

    def put_file(self, key: str, path: Path) -> None:
        """`put` the content of a file made in `scratch`; the file is moved."""

    def put_new(self, key: str, data: bytes) -> bool:
        """Create an object in one atomic and durable step; False if the key exists."""

    def get_version(self, key: str, most: int) -> tuple[bytes, Version]:
        """The bytes of a small object, and its version, for `put_over`.

        No bytes for anything else (more than `most` bytes, a link, a pipe), so that it can still be
        replaced.
        """

    def put_over(self, key: str, data: bytes, version: Version) -> bool:
        """Replace exactly this version of an object; False if it has been replaced already."""

    def touch(self, key: str, data: bytes) -> None:
        """Renew the modification time of an object, whose content is `data`."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, in this order; missing ones are ignored."""

    def delete_below(self, key: str) -> None:
        """Remove every object below the folder `key`, and the folder."""

    def scratch(self) -> AbstractContextManager[Path]:
        """A local folder for files that `put_file` will move; removed at the end."""

    def sweep(self) -> None:
        """Remove temporary objects directly here that belong to ended writers."""

    def check_exclusive(self) -> None:
        """Raise MachineError unless `put_new` is exclusive here, or the user confirms that nobody
        else writes. Leaves nothing behind.
        """

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """`function` of each item, in order; several at once if they wait for a network."""
