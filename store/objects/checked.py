"""Objects that hold what their record says: compared before a byte of them is used.

On a disk a file is read through for its checksum, then read again, from the system's cache. From a
bucket an object is fetched once and compared in memory.
"""

from pathlib import Path

from lpp.store.objects.copies import copied
from lpp.store.objects.disk import ObjectRecord, checksum, describe
from lpp.store.objects.object_path import ObjectPath
from lpp.store.objects.place import Place


def checked_file(path: Place, recorded: ObjectRecord) -> Path:
    """The object at `path`, or a copy of it on this machine, that holds what `recorded` says.

    Raises FileNotFoundError where there is none, ValueError where it holds anything else.
    """
    if isinstance(path, ObjectPath):
        return copied(path, recorded, lambda: checked_bytes(path, recorded))
    if describe(path) != recorded:
        raise ValueError(f"{path}: altered or cut short")
    return path


def checked_bytes(path: ObjectPath, recorded: ObjectRecord) -> memoryview:
    """The bytes of an object, in memory; raises what `checked_file` does."""
    data = memoryview(path.read_bytes(recorded.bytes))
    if ObjectRecord(bytes=data.nbytes, xxh3_128=checksum(data)) != recorded:
        raise ValueError(f"{path}: altered or cut short")
    return data
