"""Open the objects at a place: on a disk, in a bucket or at an address."""

from pathlib import Path

from lpp.store.objects.address_objects import AddressObjects
from lpp.store.objects.bucket_objects import BucketObjects
from lpp.store.objects.disk import DiskObjects
from lpp.store.objects.place import Url, is_read_only, place
from lpp.store.objects.protocol import Objects


def objects_at(url: Url) -> Objects:
    """The objects below `url`. Accesses nothing; raises what `place` does."""
    where = place(url)
    if isinstance(where, Path):
        return DiskObjects(where)
    return AddressObjects(where) if is_read_only(where) else BucketObjects(where)
