"""The objects of a store at an address: `protocol.Objects` for a server of plain files.

They are read as those of a bucket are, and listed by the store's `index.json`, which a process
fetches once. An object that the index does not list is not asked for.
"""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NoReturn

from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.commit_record import ObjectRecord, checksum
from lpp.store.format.keys import DATABASE_KEY, INDEX_KEY, MAX_DOCUMENT_BYTES
from lpp.store.format.store_index import Folder, StoreIndex, objects_below, parse_index
from lpp.store.objects.bucket import PART_BYTES, LargerError, bucket_of
from lpp.store.objects.bucket_objects import BucketObjects, BucketSource
from lpp.store.objects.checks import too_large
from lpp.store.objects.copies import copied
from lpp.store.objects.place import BucketPath, read_only
from lpp.store.objects.protocol import Entry

_KEPT_BYTES: Final = 256 << 20
"""Bytes of rows that a process keeps in memory: standard errors read the rows of a site again."""

MAKE: Final = "lpp-analyze index STORE"
"""The command that makes the index."""


class _Rows:
    """The ranges of objects that were read last, one range an object, up to `_KEPT_BYTES`."""

    def __init__(self) -> None:
        self._ranges: OrderedDict[BucketPath, tuple[int, memoryview]] = OrderedDict()
        self._bytes, self._lock = 0, threading.Lock()

    def get(self, place: BucketPath, wanted: range) -> tuple[int, memoryview] | None:
        """A range that covers `wanted`: the first byte's offset, and the bytes."""
        with self._lock:
            start, data = self._ranges.get(place, (0, memoryview(b"")))
        return (start, data) if start <= wanted.start < wanted.stop <= start + len(data) else None

    def keep(self, place: BucketPath, start: int, data: memoryview) -> None:
        """Keep a range, and drop those that were kept longest if there are too many bytes."""
        with self._lock:
            self._bytes += len(data) - len(self._ranges.pop(place, (0, b""))[1])
            self._ranges[place] = start, data
            while self._bytes > _KEPT_BYTES:
                self._bytes -= len(self._ranges.popitem(last=False)[1][1])


_rows: Final = _Rows()


class AddressObjects(BucketObjects):
    """The objects below a folder of the store at the address `root`."""

    @property
    def _index(self) -> StoreIndex:
        return _index_of(self.root)

    def _listed(self, key: str) -> Folder | int | None:
        return self._index.find(f"{self._prefix}/{key}".strip("/"))

    def _size(self, key: str) -> int:
        size = self._listed(key)
        if not isinstance(size, int):
            raise FileNotFoundError(f"{self.place / key}: not in the index")
        return size

    # reading

    def exists(self, key: str) -> bool:
        """No request."""
        return self._listed(key) is not None

    def entries(self, key: str = "") -> list[Entry]:
        """No request."""
        folder = self._listed(key)
        names = sorted(folder.items()) if isinstance(folder, Mapping) else ()
        return [Entry(name=name, is_folder=isinstance(node, Mapping)) for name, node in names]

    def walk(self, key: str = "") -> Iterator[str]:
        """No request."""
        folder = self._listed(key)
        objects = (
            objects_below(folder, f"{key}/" if key else "") if isinstance(folder, Mapping) else ()
        )
        yield from sorted(name for name, _ in objects)

    def get(self, key: str, most: int) -> bytes:
        """One request, several for a large object."""
        if self._size(key) > most:
            raise too_large(self.place / key, most)
        return bytes(self._whole(key))

    @contextlib.contextmanager
    def open(
        self, key: str, *, ahead: range = range(0), size: int | None = None
    ) -> Iterator[BucketSource]:
        """As in a bucket, without a request for the size, or for rows that were read last."""
        size, place = self._size(key) if size is None else size, self.place / key
        with self._present(key):
            start, data = _rows.get(place, ahead) or (
                ahead.start,
                self._bucket.get_range(self._key(key), ahead.start, ahead.stop),
            )
            yield BucketSource(self._bucket, self._key(key), start, data, size)
        _rows.keep(place, start, data)  # they agreed with their checksums

    def local(self, key: str) -> Path:
        """A local copy, fetched once per process; the database is compared with the index."""
        version = self._size(key), self._index.database_xxh3_128
        return copied(self.place / key, version, lambda: self._uncovered(key))

    def _uncovered(self, key: str) -> memoryview:
        data = self._whole(key)
        of_database = self.place == self.root and key == DATABASE_KEY
        if of_database and checksum(data) != self._index.database_xxh3_128:
            raise self._changed(key, "altered")
        return data

    def _compared(self, key: str, recorded: ObjectRecord) -> memoryview:
        data = self._whole(key)
        if ObjectRecord.of([data]).whole != recorded.whole:
            raise ValueError(f"{self.place / key}: altered or cut short")
        return data

    def _whole(self, key: str) -> memoryview:
        """The bytes of an object, as many as the index says."""
        size, full = self._size(key), self._key(key)
        with self._present(key):
            try:
                if size <= PART_BYTES:
                    data = self._bucket.get(full, size)
                else:
                    data = self._bucket.get_range(full, 0, size)
            except LargerError:
                raise self._changed(key, f"more than {size} bytes") from None
        if len(data) != size:
            raise self._changed(key, f"{len(data)} bytes, not {size}")
        return data

    @contextlib.contextmanager
    def _present(self, key: str) -> Iterator[None]:
        """Turn the server's answer that it has no such object into FormatError."""
        try:
            yield
        except FileNotFoundError as error:
            if error.filename != str(self.place / key):
                raise
            raise self._changed(key, "missing") from None

    def _changed(self, key: str, what: str) -> FormatError:
        """The error that an object is not as the index says. The next call reads the index anew."""
        _index_of.cache_clear()
        return FormatError(
            f"{self.place / key}: {what}, unlike {INDEX_KEY} says. The store was changed after its "
            "index was made, or the server sends something else. Repeat the command; if that does "
            f"not help, the owner of the store makes the index again: {MAKE}",
            kind=ErrorKind.CORRUPT,
        )

    # writing

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        """MachineError(READ_ONLY)."""
        raise read_only(self.root)

    write: Any = _refuse
    put: Any = _refuse
    put_file: Any = _refuse
    put_new: Any = _refuse
    put_over: Any = _refuse
    delete: Any = _refuse
    delete_below: Any = _refuse
    check_exclusive: Any = _refuse


@lru_cache(maxsize=64)
def _index_of(root: BucketPath) -> StoreIndex:
    """The index of the store at an address. FormatError(NOT_A_STORE) if there is none."""
    path = root / INDEX_KEY
    try:
        data = bucket_of(root.root).get(path.key, MAX_DOCUMENT_BYTES)
    except FileNotFoundError:
        raise FormatError(
            f"{path}: not there, and without this file the objects of a store are not found over "
            f"HTTP. If {root} is a store, its owner makes the file: {MAKE}. Else correct the "
            "address.",
            kind=ErrorKind.NOT_A_STORE,
        ) from None
    except LargerError:
        raise too_large(path, MAX_DOCUMENT_BYTES) from None
    return parse_index(bytes(data), str(path))
