"""Checks for disks and buckets: checksums, and that only one writer can create an object."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import xxhash

from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.commit_record import ChunkRecord, ObjectRecord
from lpp.store.format.keys import ADVICE
from lpp.store.objects.owners import staged_name

if TYPE_CHECKING:
    from lpp.store.objects.protocol import Objects, Source

ONLY_WRITER: Final = "LPP_ONLY_WRITER"
"""Environment variable; with 1 a user confirms that nobody else writes to the store."""

PIECE_BYTES: Final = 1 << 20
"""Bytes hashed at a time: few enough for the core's cache, and memory is constant."""


def describe(source: "Source", piece: int, chunks: Sequence[int] = ()) -> ObjectRecord:
    """Size and checksum of an object, read `piece` bytes at a time.

    chunks: lengths in bytes of its first parts, which get checksums of their own.
    """
    size = source.size
    lengths = [*chunks, size - sum(chunks)] if sum(chunks) <= size else [size]
    digest, parts, start = xxhash.xxh3_128(), [], 0
    buffer = memoryview(bytearray(min(size, piece)))
    for length in lengths:
        of_part = xxhash.xxh3_128()
        for offset in range(start, start + length, piece):
            view = buffer[: min(piece, start + length - offset)]
            source.read_into(view, offset)
            digest.update(view)
            if chunks:
                of_part.update(view)
        parts.append(ChunkRecord(bytes=length, xxh3_128=of_part.hexdigest()))
        start += length
    return ObjectRecord(bytes=size, xxh3_128=digest.hexdigest(), chunks=tuple(parts[:-1]))


def exclusive_twice(objects: "Objects") -> bool:
    """Whether the place refuses to create an object twice, as it must."""
    key = staged_name("exclusive")
    try:
        objects.put_new(key, b"first")
        return not objects.put_new(key, b"second")
    finally:
        objects.delete([key])


def only_writer() -> bool:
    """Whether the user confirms that nobody else writes to the store."""
    return os.environ.get(ONLY_WRITER) == "1"


def too_large(where: Any, most: int) -> FormatError:
    """The error for an object that should be small and is larger than `most` bytes."""
    name = str(where).rpartition("/")[2]
    return FormatError(
        f"{where}: more than {most} bytes, which no {name} needs. {ADVICE}", kind=ErrorKind.CORRUPT
    )
