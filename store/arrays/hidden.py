"""Activations of one site of one shard as a Zarr v3 array, SPEC.md section 5.

(T, d) rows in the dtype they were computed in, one object per site: the sharding codec holds
chunks of about 2 MiB, each compressed by Blosc-zstd. bfloat16 is stored as the uint16 of its
bits, since Zarr has no such type in every release we read with; an attribute names the truth.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import zarr
from zarr.buffer import cpu
from zarr.codecs import BloscCodec
from zarr.storage import LocalStore, MemoryStore

from lpp.store.arrays.layout import METADATA_KEY, NUMPY_DTYPE, ArraySpec, Group, site_array
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.plan import SiteSpec, StoredDtype
from lpp.store.objects.paths import ADVICE

CHUNK_BYTES: Final = 2 << 20
"""Bytes of a chunk before compression, about: a power of two rows."""

BLOCK_BYTES: Final = 2 << 20
"""Blosc's block. Byte-shuffled bfloat16 packs 1.44-fold in 2 MiB and 1.27-fold in the default."""

GROUP_KEY: Final = METADATA_KEY
"""Metadata of the group, inside `hidden.zarr`."""

Rows: TypeAlias = npt.NDArray[np.uint16] | npt.NDArray[np.float16] | npt.NDArray[np.float32]
"""(T, d) activations as they lie on disk."""


def chunk_rows(width: int, itemsize: int) -> int:
    """Rows of a chunk: the power of two nearest to `CHUNK_BYTES`.

    >>> chunk_rows(576, 2)
    2048
    """
    return 1 << max(0, round(math.log2(CHUNK_BYTES / (width * itemsize))))


def check_rows(site: SiteSpec, rows: Rows, dtype: StoredDtype, n: int) -> None:
    """ValueError unless `rows` are (n, width) in the array type of `dtype`, n at least 1."""
    expected = (max(n, 1), site.width)
    if rows.shape != expected or rows.dtype != NUMPY_DTYPE[dtype]:
        raise ValueError(
            f"{site.name}: rows are {rows.dtype} {rows.shape}, "
            f"should be {NUMPY_DTYPE[dtype]} {expected} for {dtype}"
        )


def encode_group() -> memoryview:
    """The object that makes a directory of arrays a Zarr group, at `GROUP_KEY`."""
    objects: dict[str, Any] = {}
    zarr.create_group(MemoryStore(objects), zarr_format=3)
    return memoryview(objects[GROUP_KEY].as_array_like())


def encode_site(site: SiteSpec, rows: Rows, dtype: StoredDtype) -> dict[str, memoryview]:
    """The objects of one site: key inside `hidden.zarr` -> bytes. Holds one site in memory."""
    check_rows(site, rows, dtype, len(rows))
    return encode_array(site_array(site, dtype, len(rows)), rows)


def encode_array(spec: ArraySpec, rows: npt.NDArray[Any]) -> dict[str, memoryview]:
    """The objects of one array: key inside its group -> bytes."""
    n, width = rows.shape
    chunk = min(chunk_rows(width, rows.dtype.itemsize), n)
    objects: dict[str, Any] = {}
    # Chunks equal to the fill value would otherwise be left out, and -0.0 equals 0.0.
    array = zarr.create_array(
        MemoryStore(objects),
        name=spec.name,
        shape=rows.shape,
        dtype=rows.dtype,
        chunks=(chunk, width),
        shards=(-(-n // chunk) * chunk, width),
        compressors=BloscCodec(
            cname="zstd",
            clevel=1,
            shuffle="shuffle",
            typesize=rows.dtype.itemsize,
            blocksize=BLOCK_BYTES,
        ),
        fill_value=0,
        attributes={"lpp": dict(spec.told)},
        config={"write_empty_chunks": True},
        zarr_format=3,
    )
    array[:] = rows
    return {
        key: memoryview(value.as_array_like()) for key, value in objects.items() if key != GROUP_KEY
    }


def read_site(
    group: Group, site: str, *, rows: int, block_rows: int, start: int = 0
) -> Iterator[npt.NDArray[np.float32]]:
    """Rows from `start` up to `rows` in blocks, as float32, cut on chunk boundaries.

    For arrays that `hidden_limits.check_array` found right. FormatError(CORRUPT) for chunks that
    do not unpack.
    """
    array = open_site(group, site)
    chunk = array.chunks[0]
    step = max(chunk, block_rows // chunk * chunk)
    for block in range(start // chunk * chunk, rows, step):
        begin, end = max(block, start), min(block + step, rows)
        yield to_float32(cast("Rows", rows_of(array, site, begin, end)))


def open_site(group: Group, site: str) -> "zarr.Array[Any]":
    """The array of `site`. FormatError(CORRUPT) for one that Zarr does not read."""
    store: LocalStore | MemoryStore
    if isinstance(group, Path):
        store = LocalStore(group, read_only=True)
    else:
        store = MemoryStore({k: cpu.Buffer.from_bytes(v) for k, v in group.items()}, read_only=True)
    try:
        return zarr.open_array(store, path=site, mode="r", zarr_format=3)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"{site}: not an array that Zarr reads ({error}). {ADVICE}", kind=ErrorKind.CORRUPT
        ) from None


def rows_of(array: "zarr.Array[Any]", site: str, start: int, end: int) -> npt.NDArray[Any]:
    """Rows of the array of `site` as they are stored. FormatError(CORRUPT) where they do not
    unpack.
    """
    try:
        return cast("npt.NDArray[Any]", array[start:end])
    except (OSError, ValueError, RuntimeError) as error:  # Blosc, and the index's checksum
        raise FormatError(
            f"{site}: rows from {start} on cannot be unpacked ({error}). {ADVICE}",
            kind=ErrorKind.CORRUPT,
        ) from None


def to_float32(rows: Rows) -> npt.NDArray[np.float32]:
    """Stored rows as numbers; uint16 is bfloat16, the upper half of a float32.

    >>> to_float32(np.array([[0x3F80, 0xC000]], np.uint16))
    array([[ 1., -2.]], dtype=float32)
    """
    if rows.dtype == np.uint16:
        wide = np.empty(rows.shape, np.uint32)
        np.left_shift(rows, 16, out=wide, dtype=np.uint32, casting="unsafe")
        return wide.view(np.float32)
    return rows.astype(np.float32, copy=False)
