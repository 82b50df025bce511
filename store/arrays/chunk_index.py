"""The index of the chunks of one object, at its end.

https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/: offset and length of each
chunk as little-endian uint64, then the CRC-32C of those bytes as little-endian uint32.
"""

import struct
from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise
from typing import Final

import google_crc32c

ENTRY: Final = struct.Struct("<QQ")
CHECKSUM: Final = struct.Struct("<I")

_ABSENT: Final = ((1 << 64) - 1, (1 << 64) - 1)
"""Entry of a chunk that was not written, which readers would take for the fill value."""


def index_bytes(chunks: int) -> int:
    """Bytes of the index of `n` chunks."""
    return chunks * ENTRY.size + CHECKSUM.size


def encode_index(lengths: Iterable[int]) -> bytes:
    """The index of chunks of these lengths, which are stored one after the other from byte 0."""
    entries = b"".join(ENTRY.pack(*place) for place in places_in_order(lengths))
    return entries + CHECKSUM.pack(google_crc32c.value(entries))


def places_in_order(lengths: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(offset, length) of chunks of these lengths, one after the other.

    >>> list(places_in_order([5, 3]))
    [(0, 5), (5, 3)]
    """
    ends = accumulate(lengths, initial=0)
    return ((start, end - start) for start, end in pairwise(ends))


def parse_index(index: bytes, object_bytes: int, needed: int) -> list[tuple[int, int]]:
    """(offset, length) of the first `needed` chunks of an object of `object_bytes` bytes, in row
    order.

    The other chunks have no rows and may be absent. Raises ValueError unless every chunk that is
    present lies before the index, no two overlap, and the checksum of the index is right.
    """
    entries = index[: -CHECKSUM.size]
    places = list(ENTRY.iter_unpack(entries))
    if _ABSENT in places[:needed]:
        raise ValueError("a chunk is missing")
    end = 0
    for offset, length in sorted(place for place in places if place != _ABSENT):
        if offset + length > object_bytes - len(index):
            raise ValueError("a chunk outside the object")
        if offset < end:
            raise ValueError("two chunks at one place")
        end = offset + length
    if CHECKSUM.unpack(index[-CHECKSUM.size :]) != (google_crc32c.value(entries),):
        raise ValueError("the checksum of its index does not match")
    return places[:needed]
