"""The objects below a prefix of a bucket: `protocol.Objects` for buckets."""

import contextlib
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final, Self

from lpp.store.errors import ErrorKind, LppError, MachineError
from lpp.store.format.commit_record import ObjectRecord
from lpp.store.objects.bucket import PART_BYTES, Bucket, LargerError, bucket_of
from lpp.store.objects.checks import ONLY_WRITER, exclusive_twice, only_writer, too_large
from lpp.store.objects.copies import copied
from lpp.store.objects.owners import owner_of
from lpp.store.objects.place import BucketPath
from lpp.store.objects.protocol import Buffers, Entry, Item, Result, Stat, Version

REQUESTS_AT_ONCE: Final = 16
"""Requests of a bucket made at once: each waits for the network, not for this machine."""


class BucketObjects:
    """The objects below a prefix of the store at `root`. Docstrings say what a call costs."""

    is_local: Final = False
    piece_bytes: Final = PART_BYTES

    def __init__(self, root: BucketPath, prefix: str = "") -> None:
        self.root, self._prefix = root, prefix
        self.place = root / prefix if prefix else root

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.root, self._prefix)

    @property
    def _bucket(self) -> Bucket:
        return bucket_of(self.place.root)

    def _key(self, key: str) -> str:
        return f"{self.place.key}/{key}" if self.place.key and key else self.place.key or key

    def below(self, key: str) -> Self:
        """The objects below `key`."""
        return type(self)(self.root, f"{self._prefix}/{key}" if self._prefix else key)

    # reading

    def exists(self, key: str) -> bool:
        """Whether there is an object with this key, or below it: one or two requests."""
        if full := self._key(key):
            with contextlib.suppress(FileNotFoundError):
                self._bucket.head(full)
                return True
        return self._bucket.any_below(full)

    def stat(self, key: str) -> Stat:
        """One request."""
        listed = self._bucket.head(self._key(key))
        return Stat(size=listed.size, modified=listed.modified)

    def entries(self, key: str = "") -> list[Entry]:
        """One request per thousand names."""
        folders, objects = self._bucket.folder(self._key(key))
        entries = [Entry(name=name.rpartition("/")[2], is_folder=True) for name in folders]
        entries += [
            Entry(name=item.key.rpartition("/")[2], is_folder=False)
            for item in objects
            if item.key != self._key(key)
        ]
        return sorted(entries, key=lambda entry: entry.name)

    def walk(self, key: str = "") -> Iterator[str]:
        """One request per thousand objects."""
        start = len(f"{self.place.key}/") if self.place.key else 0
        yield from (item.key[start:] for item in self._bucket.below(self._key(key)))

    def get(self, key: str, most: int) -> bytes:
        """One request, several for a large object. Fetches no byte of one that is too large."""
        try:
            return bytes(self._bucket.get(self._key(key), most))
        except LargerError:
            raise too_large(self.place / key, most) from None

    @contextlib.contextmanager
    def open(
        self, key: str, *, ahead: range = range(0), size: int | None = None
    ) -> Iterator["BucketSource"]:
        """Reads the range `ahead` at once, in parallel parts; every other read is one request."""
        bucket, full = self._bucket, self._key(key)
        data = bucket.get_range(full, ahead.start, ahead.stop)
        yield BucketSource(bucket, full, ahead.start, data, size)

    @contextlib.contextmanager
    def open_compared(self, key: str, recorded: ObjectRecord) -> Iterator["BucketSource"]:
        """The whole object, in memory."""
        data = self._compared(key, recorded)
        yield BucketSource(self._bucket, self._key(key), 0, data, recorded.bytes)

    def file(self, key: str, recorded: ObjectRecord) -> Path:
        """A local copy, fetched and compared once per process."""
        return copied(self.place / key, recorded.whole, lambda: self._compared(key, recorded))

    def _compared(self, key: str, recorded: ObjectRecord) -> memoryview:
        with contextlib.suppress(LargerError):
            data = self._bucket.get(self._key(key), recorded.bytes)
            if ObjectRecord.of([data]).whole == recorded.whole:
                return data
        raise ValueError(f"{self.place / key}: altered or cut short")

    def local(self, key: str) -> Path:
        """A local copy of the current version: two requests, or one if the copy exists already."""
        listed = self._bucket.head(self._key(key))
        return copied(self.place / key, listed, lambda: self._bucket.get(listed.key))

    # writing

    def write(self, key: str, parts: Buffers) -> None:
        """One request, or one per part of a large object."""
        whole = [*parts]
        self._bucket.put(self._key(key), whole[0] if len(whole) == 1 else b"".join(whole))

    def flush(self, keys: Collection[str]) -> None:
        """Nothing to do: a bucket has stored an object when the request returns."""

    def put(self, key: str, data: bytes, *, lasting: bool = True) -> None:
        """One request. `lasting` is not needed here."""
        self._bucket.put(self._key(key), data)

    def put_file(self, key: str, path: Path) -> None:
        """Upload a file, in parts."""
        self._bucket.put(self._key(key), path.read_bytes())

    def put_new(self, key: str, data: bytes) -> bool:
        """A put on the condition that there is no such object."""
        return self._bucket.put_new(self._key(key), data)

    def get_version(self, key: str, most: int) -> tuple[bytes, Version]:
        """One request."""
        return self._bucket.get_tagged(self._key(key), most)

    def put_over(self, key: str, data: bytes, version: Version) -> bool:
        """A put on the condition that the object still has this version."""
        return self._bucket.put_over(self._key(key), data, version)

    def touch(self, key: str, data: bytes) -> None:
        """Put it again."""
        self.put(key, data)

    def delete(self, keys: Iterable[str]) -> None:
        """One request per thousand objects."""
        self._bucket.delete([self._key(key) for key in keys])

    def delete_below(self, key: str) -> None:
        """A listing, then as `delete`."""
        self._bucket.delete([item.key for item in self._bucket.below(self._key(key))])

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary folder of this machine."""
        with tempfile.TemporaryDirectory(prefix="lpp-objects-") as folder:
            yield Path(folder)

    def sweep(self) -> None:
        """Remove temporary objects directly here whose processes ran on this machine and ended."""
        for entry in self.entries():
            owner = owner_of(entry.name)
            if owner is not None and owner.ended:
                self.delete([entry.name])

    def check_exclusive(self) -> None:
        """Checks that the object store respects the condition of a put: three requests, once per
        process. With a store that ignores it, writers would silently overwrite each other.
        """
        if _keeps_conditions(self.root):
            return
        if not only_writer():
            raise MachineError(
                f"{self.place}: this object store ignores the condition of a put (If-None-Match), "
                "so two writers at once would overwrite each other unseen. Use a store that keeps "
                "it, or, if you make sure that one command at a time writes here, set "
                f"{ONLY_WRITER}=1.",
                kind=ErrorKind.DENIED,
            )
        self._bucket.conditional = False

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Several at once: each waits for the network."""
        with ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="lpp-requests") as pool:
            return list(pool.map(function, items))


class BucketSource:
    """An object with a range in memory."""

    def __init__(
        self, bucket: Bucket, key: str, start: int, ahead: memoryview, size: int | None
    ) -> None:
        self._bucket, self._key, self._start, self._ahead = bucket, key, start, ahead
        self._size = size

    @cached_property
    def _listed(self) -> tuple[int, str | None]:
        listed = self._bucket.head(self._key)
        return listed.size, listed.e_tag

    @property
    def size(self) -> int:
        """One request if the size is unknown. All later reads are of the same version."""
        return self._listed[0] if self._size is None else self._size

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Reads from memory, or by one request."""
        first, end = offset - self._start, offset - self._start + len(buffer)
        if 0 <= first <= end <= len(self._ahead):
            data = self._ahead[first:end]
        else:
            e_tag = self._listed[1] if "_listed" in self.__dict__ else None
            data = self._bucket.get_range(self._key, offset, offset + len(buffer), e_tag)
        if len(data) != len(buffer):
            raise EOFError(f"it ends at byte {offset + len(data)}")
        buffer[:] = data


@lru_cache(maxsize=64)
def _keeps_conditions(root: BucketPath) -> bool:
    try:
        return exclusive_twice(BucketObjects(root))
    except LppError as error:
        if "NotImplemented" in str(error):
            return False
        raise
