"""Encodes rows as the objects of a Zarr array: SPEC.md section 5.

Each chunk is packed directly from the rows, without a copy (except a last chunk, which is padded
with zeros), and can be written before the next one is packed. An object is the chunks in row order
and their index.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lpp.store.arrays.blosc import compress
from lpp.store.arrays.chunk_index import encode_index
from lpp.store.arrays.float8 import encode_rows
from lpp.store.arrays.layout import PACKINGS, ArraySpec, Packing, written_layout
from lpp.store.arrays.metadata import metadata_bytes, metadata_document
from lpp.store.arrays.planes import compress_planes
from lpp.store.format.commit_record import ChunkRecord, checksum


class Encoding:
    """The object `c/0/0` of an array, encoded once, part by part on request.

    chunks: the (rows, width) of `spec` in chunks of `chunk_rows`, the last with the remaining rows;
    for float8_e4m3, rows that `float8.encode_rows` takes, which are rounded here. A chunk is packed
    before the next is requested, so all may use the same memory.
    """

    def __init__(
        self,
        spec: ArraySpec,
        chunks: Iterable[npt.NDArray[Any]],
        packing: Packing = PACKINGS[0],
    ) -> None:
        self._spec, self._chunks, self._packing = spec, chunks, packing
        self.records: list[ChunkRecord] = []
        """Size and checksum of each chunk so far."""

    @property
    def metadata(self) -> bytes:
        """`zarr.json`."""
        return metadata_bytes(metadata_document(self._spec, self._packing))

    def __iter__(self) -> Iterator[bytes]:
        """Chunks in row order, then their index.

        Raises ValueError for chunks of another shape or type, or too few or too many rows.
        """
        spec, layout = self._spec, written_layout(self._spec, self._packing)
        count, left = layout.chunk_rows, spec.rows
        pack = compress_planes if layout.by_planes else compress
        for rows in self._chunks:
            chunk = encode_rows(rows) if spec.is_float8 else rows
            expected = (min(count, left), spec.width)
            if chunk.shape != expected or chunk.dtype != spec.dtype:
                raise ValueError(
                    f"{spec.name}: a chunk is {chunk.dtype} {chunk.shape}, "
                    f"should be {spec.data_type} {expected}"
                )
            left -= len(chunk)
            packed = pack(_filled_up(chunk, count))
            self.records.append(ChunkRecord(bytes=len(packed), xxh3_128=checksum(packed)))
            yield packed
        if left:
            raise ValueError(f"{spec.name}: {left} rows did not come")
        yield encode_index(record.bytes for record in self.records)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedArray:
    """The two objects of an array, whole in memory."""

    metadata: bytes
    """`zarr.json`."""
    parts: tuple[bytes, ...]
    """`c/0/0`, concatenated: chunks in row order, then their index."""
    chunks: tuple[ChunkRecord, ...]
    """Size and checksum of each part except the index."""

    @property
    def bytes(self) -> int:
        """Size of the object `c/0/0`."""
        return sum(map(len, self.parts))


def encode_array(
    spec: ArraySpec, rows: npt.NDArray[Any], packing: Packing = PACKINGS[0]
) -> EncodedArray:
    """Pack the rows of `spec`, bit for bit unless they are to be rounded to float8_e4m3.

    ValueError for another shape or type.
    """
    check_rows(spec, rows)
    encoding = Encoding(spec, row_chunks(rows, chunk_rows(spec, packing)), packing)
    parts = tuple(encoding)
    return EncodedArray(metadata=encoding.metadata, parts=parts, chunks=tuple(encoding.records))


def row_chunks(rows: npt.NDArray[Any], count: int) -> Iterator[npt.NDArray[Any]]:
    """An array in chunks of `count` rows, each contiguous."""
    rows = np.ascontiguousarray(rows)
    for start in range(0, len(rows), count):
        yield rows[start : start + count]


def chunk_rows(spec: ArraySpec, packing: Packing = PACKINGS[0]) -> int:
    """Rows of each chunk of an array except the last."""
    count: int = written_layout(spec, packing).chunk_rows
    return count


def _filled_up(chunk: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """A chunk of `count` rows; a last chunk with fewer rows is padded with zeros."""
    if len(chunk) == count:
        return chunk
    full = np.zeros((count, chunk.shape[1]), chunk.dtype)
    full[: len(chunk)] = chunk
    return full


def check_rows(spec: ArraySpec, rows: npt.NDArray[Any]) -> None:
    """Raise ValueError unless `rows` have the shape and type of `spec`, and at least one row. Of
    what is to be rounded to float8_e4m3, `encode_rows` checks the type.
    """
    expected = (max(spec.rows, 1), spec.decoded_width)
    if rows.shape != expected or (rows.dtype != spec.dtype and not spec.is_float8):
        raise ValueError(
            f"{spec.name}: rows are {rows.dtype} {rows.shape}, "
            f"should be {spec.data_type} {expected}"
        )
