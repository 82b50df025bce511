"""Packs rows of floats as Blosc chunks, byte plane by byte plane: SPEC.md section 5.

Blosc's own writer gives zstd all shuffled bytes. Most of its time goes into short matches and into
noise: the low bytes of activations do not shrink, and the high ones (sign and exponent) are skewed
but repeat nothing. So the highest plane gets Huffman codes alone, and a plane of noise lies in the
chunk as it is, which unpacks as a copy. Where whole rows repeat, as in `embed`, matches pay: in the
low planes zstd's fast search finds them at 2 GB/s, in the high one its long-distance matcher.

A chunk is one block in "splits", Blosc's name for planes that are packed apart, so every Blosc
reads it: https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst
"""

import struct
import threading
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import zstandard

from lpp.store.arrays.blosc import HEADER

ZSTD_VERSION: Final = ".".join(map(str, zstandard.ZSTD_VERSION))
"""Release of zstd. Another release may pack the same rows otherwise."""

LEAST_PLANE: Final = 128
"""Bytes from which a plane may be packed apart: Blosc reads shorter ones as one stream."""

_FLAGS: Final = 0x81
"""Shuffled by bytes, planes packed apart, codec zstd."""

_BEGINS: Final = 8
"""Low bytes of a row that are compared: by chance, no two rows of a chunk share them."""
_COMPARED_ROWS: Final = 256
"""First rows of a chunk, which are compared."""
_DISTINCT: Final = 0.95
"""Share of distinct rows below which matches are looked for."""

_SAMPLE: Final = 4096
"""First and last bytes of a plane that say whether packing it may pay."""


class _Workspace(threading.local):
    """Compressors and memory of one thread. New memory for each plane would cost three times what
    the split costs.
    """

    def __init__(self) -> None:
        self.compressors: dict[tuple[bool, bool], zstandard.ZstdCompressor] = {}
        self.planes = np.empty((4, 0), np.uint8)

    def split(self, rows: npt.NDArray[Any], byte: int) -> npt.NDArray[np.uint8]:
        """One byte of each value of contiguous rows, valid until the next chunk.

        It is the lowest byte of what begins `byte` bytes later. NumPy casts such values, which are
        not aligned, at 30 GB/s; it shifts at 10, and transposes at 4.
        """
        if self.planes.shape[1] < rows.size:
            self.planes = np.empty((4, rows.size), np.uint8)
        plane, held = self.planes[byte, : rows.size], rows.reshape(-1).view(np.uint8)
        later = held[byte : len(held) - rows.itemsize + byte]
        np.copyto(plane[:-1], later.view(f"<u{rows.itemsize}"), casting="unsafe")
        plane[-1] = held[byte - rows.itemsize]
        return plane

    def compressor(self, *, repeat: bool, highest: bool) -> zstandard.ZstdCompressor:
        """For one plane of a chunk. repeat: whether rows repeat."""
        kind = (repeat, highest)
        if kind not in self.compressors:
            self.compressors[kind] = zstandard.ZstdCompressor(
                compression_params=_parameters(repeat, highest)
            )
        return self.compressors[kind]


_workspace = _Workspace()


def compress_planes(rows: npt.NDArray[Any]) -> bytes:
    """One Blosc chunk of contiguous (n, d) rows of 2 or 4 bytes a value.

    Equal rows give equal bytes in every thread and process with the same zstd. Raises ValueError
    for fewer than `LEAST_PLANE` values, or values of another size.
    """
    if rows.size < LEAST_PLANE or rows.itemsize not in (2, 4):
        raise ValueError(f"rows are {rows.dtype} {rows.shape}, too few or of another size")
    repeat = _rows_repeat(rows)
    begin = struct.pack("<i", HEADER.size + 4)  # of the only block
    parts: list[bytes | memoryview] = [begin]
    for byte in range(rows.itemsize):
        plane, highest = _workspace.split(rows, byte), byte == rows.itemsize - 1
        compressor = _workspace.compressor(repeat=repeat, highest=highest)
        stored: bytes | memoryview = plane.data
        if repeat or highest or _may_shrink(compressor, plane):
            stored = min(stored, compressor.compress(plane.data), key=len)  # of equals the first
        parts += [struct.pack("<i", len(stored)), stored]
    total = HEADER.size + sum(map(len, parts))
    header = HEADER.pack(2, 1, _FLAGS, rows.itemsize, rows.nbytes, rows.nbytes, total)
    return b"".join([header, *parts])


def _may_shrink(compressor: zstandard.ZstdCompressor, plane: npt.NDArray[np.uint8]) -> bool:
    """Whether a low plane is more than noise: zeros that fill up a chunk, values of fewer bits."""
    sample = np.concatenate([plane[:_SAMPLE], plane[-_SAMPLE:]])
    return len(compressor.compress(sample.data)) < len(sample)


def _rows_repeat(rows: npt.NDArray[Any]) -> bool:
    """Whether many rows equal others of their chunk. Only the rows decide: equal rows must give
    equal bytes.
    """
    if rows.shape[1] < _BEGINS:
        return False
    low = rows[:_COMPARED_ROWS, :_BEGINS].view(f"u{rows.itemsize}").astype(np.uint8)
    return len(np.unique(low.view(np.uint64))) < _DISTINCT * len(low)


def _parameters(repeat: bool, highest: bool) -> zstandard.ZstdCompressionParameters:
    """Settings of zstd: with a target length above 0, its fastest strategy codes no literals, and
    skips what does not match, the faster the larger the target. The shortest match of 7 and a table
    of 64 entries find next to nothing, on purpose.
    """
    settings = {"hash_log": 6, "target_length": 0 if highest else 1}
    if repeat and highest:
        settings |= {"enable_ldm": 1, "ldm_min_match": 128, "ldm_hash_log": 14}
        settings |= {"ldm_bucket_size_log": 1}
    elif repeat:
        settings = {"hash_log": 15, "target_length": 8}
    return zstandard.ZstdCompressionParameters(
        compression_level=1,
        strategy=zstandard.STRATEGY_FAST,
        window_log=20,
        min_match=7,
        write_content_size=1,
        write_checksum=0,
        **settings,
    )
