"""The path of an object or prefix in a bucket. Makes no requests."""

from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True, order=True)
class BucketPath:
    """A key of a bucket, with the part of `pathlib`'s interface that paths need. Sorts by key."""

    root: str
    """The bucket's URL, such as `s3://name`."""
    key: str
    """Without a slash at either end; empty for the bucket itself."""

    def __str__(self) -> str:
        return f"{self.root}/{self.key}" if self.key else self.root

    def __truediv__(self, name: str) -> "BucketPath":
        return BucketPath(self.root, f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> "BucketPath":
        """The prefix that contains it."""
        return BucketPath(self.root, self.key.rpartition("/")[0])

    def relative_to(self, other: "BucketPath") -> PurePosixPath:
        """The key below `other`. Raises ValueError if it is not below."""
        if self.root != other.root:
            raise ValueError(f"{self} is not in {other.root}")
        return PurePosixPath(self.key).relative_to(other.key)
