"""The protocol of a place that holds objects: a directory of a disk, or a prefix of a bucket.

Objects have keys: relative paths of parts separated by `/`. An object appears whole or not at all.
Two calls decide between writers, and both places keep them exactly: `put_new` refuses a key that
is there, `put_over` refuses one that is another version by now. Nothing here follows a link out of
the store, or waits for a pipe.

Every call raises FileNotFoundError for an object that is not there, FormatError(CORRUPT) for what
is no plain object (a link, a pipe), MachineError for a place that is full, failing or refusing.
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
"""Parts of one object, end to end: anything with the buffer protocol. Taken once, in order."""

Version: TypeAlias = Any
"""What names one version of an object; only the place that gave it understands it."""


@dataclass(frozen=True, kw_only=True)
class Stat:
    """Of one object."""

    size: int
    modified: float
    """Seconds since the epoch, by the clock of the place."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What lies right in a folder."""

    name: str
    is_folder: bool


class Source(Protocol):
    """The stored bytes of one object, or of a range of it."""

    @property
    def size(self) -> int:
        """Bytes of the whole object."""

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` with the bytes from `offset` of the object on. EOFError: it ends before."""


class Objects(Protocol):
    """The objects below one place."""

    @property
    def root(self) -> Place:
        """The store that they belong to."""

    @property
    def place(self) -> Place:
        """The directory or prefix, for people and for messages."""

    @property
    def is_local(self) -> bool:
        """Whether a small read costs next to nothing; in a bucket it costs a request."""

    @property
    def piece_bytes(self) -> int:
        """Bytes that are worth a read of their own."""

    def below(self, key: str) -> "Objects":
        """The objects below `key`. Asks nothing."""

    def exists(self, key: str) -> bool:
        """Whether there is an object of that key; anything, on a disk, that bears the name."""

    def stat(self, key: str) -> Stat:
        """Size and time of an object."""

    def entries(self, key: str = "") -> list[Entry]:
        """What lies right in the folder `key`, by name; nothing where there is no such folder."""

    def walk(self, key: str = "") -> Iterator[str]:
        """Key of every object below the folder `key`, in order. On a disk also what a store may
        not hold: links, pipes, and directories with nothing in them.
        """

    def get(self, key: str, most: int) -> bytes:
        """The bytes of a small object. FormatError(CORRUPT) for one of more than `most`."""

    def open(
        self, key: str, *, ahead: range = range(0), size: int | None = None
    ) -> AbstractContextManager[Source]:
        """The bytes of an object. ahead: those that will be read; size: of all, where it is known.
        With both, a bucket is asked once.
        """

    def open_compared(self, key: str, recorded: ObjectRecord) -> AbstractContextManager[Source]:
        """The bytes of an object, compared with `recorded` first. ValueError where they differ."""

    def file(self, key: str, recorded: ObjectRecord) -> Path:
        """A file of this machine with the bytes of an object, compared with `recorded` first.

        ValueError where they differ. On a disk the object's own file.
        """

    def local(self, key: str) -> Path:
        """A file of this machine with what the object holds now, compared with nothing."""

    def write(self, key: str, parts: Buffers) -> None:
        """Write a new object. It lasts once `flush` has returned."""

    def flush(self, keys: Collection[str]) -> None:
        """Return when objects that were written, and their names, survive a power cut."""

    def put(self, key: str, data: bytes) -> None:
        """Write an object in place of whatever is there, in one lasting step."""

    def put_file(self, key: str, path: Path) -> None:
        """The same with the content of a file that was made in `scratch`, which is moved."""

    def put_new(self, key: str, data: bytes) -> bool:
        """Write an object that is not there, in one lasting step; False where one is."""

    def get_version(self, key: str, most: int) -> tuple[bytes, Version]:
        """The bytes of a small object, and what names this version of it in `put_over`.

        No bytes for what is no small object (more than `most`, a link, a pipe), so that it can be
        written over.
        """

    def put_over(self, key: str, data: bytes, version: Version) -> bool:
        """Write in place of that version of an object alone; False where it is another by now."""

    def touch(self, key: str, data: bytes) -> None:
        """Make an object that holds `data` look new."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, in the order given; those that are gone already are no matter."""

    def delete_below(self, key: str) -> None:
        """Remove every object below the folder `key`, and the folder."""

    def scratch(self) -> AbstractContextManager[Path]:
        """A folder of this machine for files on their way to `put_file`; gone at the end."""

    def sweep(self) -> None:
        """Remove what writers that ended left right here under names of their own."""

    def check_exclusive(self) -> None:
        """MachineError unless `put_new` is exclusive here, or the user says that nobody else
        writes. Writes nothing that stays.
        """

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """`function` of each item, in order; side by side where requests wait for a network."""
