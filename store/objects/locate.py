"""The objects at a place, whatever kind of place it is."""

from pathlib import Path

from lpp.store.objects.bucket_objects import BucketObjects
from lpp.store.objects.disk import DiskObjects
from lpp.store.objects.place import Url, place
from lpp.store.objects.protocol import Objects


def objects_at(url: Url) -> Objects:
    """The objects below the directory or prefix `url`. Raises what `place` does; asks nothing."""
    where = place(url)
    return DiskObjects(where) if isinstance(where, Path) else BucketObjects(where)
