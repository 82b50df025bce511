"""Rows into the objects of a Zarr array: SPEC.md section 5.

Each chunk is packed straight from the rows, without a copy but for a last chunk that is filled up
with zeros. An object is the chunks in row order and their index, byte for byte what zarr-python
writes with these settings.
"""

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lpp.store.arrays.blosc import compress
from lpp.store.arrays.chunk_index import encode_index
from lpp.store.arrays.layout import (
    ArraySpec,
    metadata_bytes,
    metadata_document,
    written_layout,
)
from lpp.store.format.commit_record import ChunkRecord, checksum


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedArray:
    """The two objects of an array."""

    metadata: bytes
    """`zarr.json`."""
    parts: tuple[bytes, ...]
    """`c/0/0`, to be written one part after the other: chunks in row order, then their index."""
    chunks: tuple[ChunkRecord, ...]
    """One for each part but the index."""

    @property
    def bytes(self) -> int:
        """Size of the object `c/0/0`."""
        return sum(map(len, self.parts))


def encode_array(
    spec: ArraySpec, rows: npt.NDArray[Any], executor: Executor | None = None
) -> EncodedArray:
    """Pack the (rows, width) of `spec`, bit for bit.

    executor: of threads, which pack chunks side by side; in turn by default.
    ValueError for rows of another shape or type.
    """
    check_rows(spec, rows)
    rows = np.ascontiguousarray(rows)
    count = written_layout(spec).chunk_rows

    def pack(start: int) -> tuple[bytes, ChunkRecord]:
        packed = compress(_chunk(rows, start, count))
        return packed, ChunkRecord(bytes=len(packed), xxh3_128=checksum(packed))

    starts = range(0, spec.rows, count)
    done = executor.map(pack, starts) if executor else map(pack, starts)
    packed, chunks = zip(*done, strict=True)
    return EncodedArray(
        metadata=metadata_bytes(metadata_document(spec)),
        parts=(*packed, encode_index(map(len, packed))),
        chunks=chunks,
    )


def check_rows(spec: ArraySpec, rows: npt.NDArray[Any]) -> None:
    """ValueError unless `rows` are what `spec` says, at least one."""
    expected = (max(spec.rows, 1), spec.width)
    if rows.shape != expected or rows.dtype != spec.dtype:
        raise ValueError(
            f"{spec.name}: rows are {rows.dtype} {rows.shape}, "
            f"should be {spec.data_type} {expected}"
        )


def _chunk(rows: npt.NDArray[Any], start: int, count: int) -> npt.NDArray[Any]:
    chunk = rows[start : start + count]
    if len(chunk) == count:
        return chunk
    full = np.zeros((count, rows.shape[1]), rows.dtype)
    full[: len(chunk)] = chunk
    return full
