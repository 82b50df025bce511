"""Arrays in memory: random rows, written by this project or by zarr-python, and read again."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, BytesCodec
from zarr.storage import MemoryStore

from lpp.store.arrays.encoder import EncodedArray
from lpp.store.arrays.layout import ArrayLayout, ArraySpec
from lpp.store.arrays.reader import BytesSource, Chunk, read_rows, recorded_chunks
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.commit_record import ChunkRecord
from lpp.store.objects.protocol import Source

BITS: dict[str, type[np.unsignedinteger[Any]]] = {
    "uint16": np.uint16,
    "float16": np.uint16,
    "float32": np.uint32,
    "float64": np.uint64,
}
POOL = ThreadPoolExecutor(2)
"""Threads that decode, whatever the number of this machine's cores."""

SPECIAL = {
    # -0.0, infinities, quiet and signalling NaNs with payloads, the least subnormal
    "uint16": (0, 0x8000, 0x7F80, 0xFF80, 0x7FC0, 0xFFC1, 0x7F81, 1),
    "float16": (0, 0x8000, 0x7C00, 0xFC00, 0x7E00, 0xFE01, 0x7C01, 1),
    "float32": (0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001, 0x7F800001, 1),
    "float64": (0, 1 << 63, 0x7FF << 52, 0xFFF << 52, 0x7FF8 << 48, 0xFFF8000000000001, 1),
}


def make_spec(rows: int, width: int, data_type: str = "uint16", **changes: Any) -> ArraySpec:
    """An array of one site."""
    dtype = {"uint16": "bfloat16"}.get(data_type, data_type)
    lpp = {"site": "block.1", "dtype": dtype, "convention": "residual"}
    spec = ArraySpec(
        name="block.1",
        rows=rows,
        width=width,
        data_type=data_type,
        lpp=lpp,
        dimension_names=("token", "feature"),
    )
    return replace(spec, **changes)


def make_rows(spec: ArraySpec) -> np.ndarray:
    """Random bits, with every special value first and a last row of -0.0."""
    bits = BITS[spec.data_type]
    rng = np.random.default_rng(spec.rows * 7919 + spec.width)
    rows = rng.integers(0, np.iinfo(bits).max, (spec.rows, spec.width), bits, endpoint=True)
    special = SPECIAL[spec.data_type][: rows.size]
    rows.reshape(-1)[: len(special)] = special
    rows[-1] = 1 << (8 * rows.itemsize - 1)
    return rows.view(spec.data_type)


def same_bits(found: np.ndarray, expected: np.ndarray) -> bool:
    """Whether two arrays of one dtype and shape have the same bytes."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    return found.tobytes() == expected.tobytes()


def joined(encoded: EncodedArray) -> bytes:
    """The bytes of the array's object."""
    data = b"".join(encoded.parts)
    assert len(data) == encoded.bytes
    return data


def by_zarr(
    spec: ArraySpec,
    rows: np.ndarray,
    *,
    chunk: int,
    stored: int | None = None,
    compressed: bool = True,
) -> dict[str, bytes]:
    """The objects that zarr-python writes. stored: rows of the object; None: whole chunks."""
    stored = -(-len(rows) // chunk) * chunk if stored is None else stored
    objects: dict[str, Any] = {}
    blosc = BloscCodec(
        cname="zstd",
        clevel=1,
        shuffle="shuffle",
        typesize=rows.dtype.itemsize,
        blocksize=2 << 20,
    )
    array = zarr.create_array(
        MemoryStore(objects),
        name=spec.name,
        shape=rows.shape,
        dtype=rows.dtype,
        chunks=(chunk, spec.width),
        shards=(stored, spec.width),
        serializer=BytesCodec(endian="little"),
        compressors=blosc if compressed else None,
        fill_value=0,
        attributes={"lpp": dict(spec.lpp)},
        dimension_names=spec.dimension_names,
        config={"write_empty_chunks": True},
        zarr_format=3,
    )
    array[:] = rows
    prefix = f"{spec.name}/"
    return {
        key.removeprefix(prefix): bytes(value.as_array_like())
        for key, value in objects.items()
        if key.startswith(prefix)
    }


def source_of(objects: dict[str, bytes]) -> BytesSource:
    """The source from which a reader reads the object of an array."""
    return BytesSource(objects["c/0/0"])


def widened(rows: np.ndarray) -> np.ndarray:
    """Rows as float32; bfloat16 is the upper half, joined with 16 zero bits."""
    if rows.dtype != np.uint16:
        return rows.astype(np.float32)
    pairs = np.zeros((*rows.shape, 2), "<u2")
    pairs[..., 1] = rows
    return pairs.view("<f4")[..., 0]


@dataclass(frozen=True)
class Stored:
    """An array in memory, by any writer."""

    rows: np.ndarray
    layout: ArrayLayout
    objects: dict[str, bytes]
    chunks: Sequence[ChunkRecord] | None


def read(stored: Stored, start: int = 0, end: int | None = None, **options: Any) -> np.ndarray:
    """Rows from `start` to `end`, or to the last one, compared with the record."""
    end = stored.layout.spec.rows if end is None else end
    source = options.pop("source", None) or source_of(stored.objects)
    where = options.pop("where", "s/hidden.zarr/block.1/c/0/0")
    chunks = placed(stored, source, options.pop("chunks", stored.chunks), where)
    return read_rows(source, stored.layout, start, end, where=where, chunks=chunks, **options)


def placed(
    stored: Stored, source: Source, chunks: Sequence[ChunkRecord] | None, where: str = "x"
) -> list[Chunk] | None:
    """Where the record places chunks; None without a record."""
    if chunks is None:
        return None
    return recorded_chunks(source, stored.layout, chunks, where=where)


def refused(match: str, call: Any) -> None:
    """Assert that the call raises CORRUPT and a message that matches."""
    with pytest.raises(FormatError, match=match) as caught:
        call()
    assert caught.value.kind is ErrorKind.CORRUPT


def altered(stored: Stored, byte: int, bit: int = 0) -> Stored:
    """The array with one bit of its object flipped."""
    data = bytearray(stored.objects["c/0/0"])
    data[byte] ^= 1 << bit
    return replace(stored, objects={**stored.objects, "c/0/0": bytes(data)})
