"""A place in a bucket that reads like a `pathlib.Path`, as far as a store needs one.

An object store has no directories: a prefix is one as long as an object lies under it. Each method
says what it costs in requests; making a path costs none.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from lpp.store.objects.bucket import Bucket, bucket_of


@dataclass(frozen=True, kw_only=True)
class ObjectStat:
    """What `os.stat` says of a file, as far as objects have it."""

    st_size: int
    st_mtime: float
    """Seconds since the epoch, by the server's clock."""


@dataclass(frozen=True, order=True)
class ObjectPath:
    """An object, or a prefix, of a bucket. Equal where URL and key are; sorts by key."""

    root: str
    """The bucket's URL, such as `s3://name`."""
    key: str
    """Without a slash at either end; empty for the bucket itself."""
    listed_as_folder: bool | None = field(default=None, compare=False, repr=False)
    """What a listing said; None where nobody asked."""

    def __str__(self) -> str:
        return f"{self.root}/{self.key}" if self.key else self.root

    def __truediv__(self, name: str) -> "ObjectPath":
        return ObjectPath(self.root, f"{self.key}/{name}" if self.key else name)

    @property
    def bucket(self) -> Bucket:
        """Where requests go."""
        return bucket_of(self.root)

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> "ObjectPath":
        """The prefix it lies under."""
        return ObjectPath(self.root, self.key.rpartition("/")[0])

    def relative_to(self, other: "ObjectPath") -> PurePosixPath:
        """The key below `other`. ValueError where it is not below."""
        if self.root != other.root:
            raise ValueError(f"{self} is not in {other.root}")
        return PurePosixPath(self.key).relative_to(other.key)

    def read_bytes(self, size: int | None = None) -> memoryview | bytes:
        """The object: one request, more where it is large. size: about, where it is known."""
        return self.bucket.get(self.key, size)

    def write_bytes(self, data: bytes | memoryview) -> None:
        """Put the object, whole or not at all, over whatever was there."""
        self.bucket.put(self.key, data)

    def stat(self) -> ObjectStat:
        """Size and time, one request. FileNotFoundError for a prefix too."""
        found = self.bucket.head(self.key)
        return ObjectStat(st_size=found.size, st_mtime=found.modified)

    def is_file(self) -> bool:
        """Whether there is an object of this name: one request, none after a listing."""
        if self.listed_as_folder is not None:
            return not self.listed_as_folder
        if not self.key:
            return False
        try:
            self.bucket.head(self.key)
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether any object lies under it: one request, none after a listing."""
        if self.listed_as_folder is not None:
            return self.listed_as_folder
        return self.bucket.any_below(self.key)

    def exists(self) -> bool:
        """Whether it is an object or a prefix: at most two requests."""
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator["ObjectPath"]:
        """What lies right under it: a request for each thousand names."""
        folders, objects = self.bucket.folder(self.key)
        yield from (ObjectPath(self.root, key, listed_as_folder=True) for key in folders)
        yield from (
            ObjectPath(self.root, item.key, listed_as_folder=False)
            for item in objects
            if item.key != self.key
        )

    def walk_files(self) -> Iterator["ObjectPath"]:
        """Every object under it, at any depth, in order: a request for each thousand."""
        for item in self.bucket.below(self.key):
            yield ObjectPath(self.root, item.key, listed_as_folder=False)
