"""Open the objects at a place, on a disk or in a bucket."""

from pathlib import Path

from lpp.store.objects.bucket_objects import BucketObjects
from lpp.store.objects.disk import DiskObjects
from lpp.store.objects.place import Url, place
from lpp.store.objects.protocol import Objects


def objects_at(url: Url) -> Objects:
    """The objects below `url`. Accesses nothing; raises what `place` does."""
    where = place(url)
    return DiskObjects(where) if isinstance(where, Path) else BucketObjects(where)
