"""Activations of one site of one shard as a Zarr v3 array, SPEC.md section 5.

(T, d) rows in the dtype they were computed in, one object per site: the sharding codec holds
chunks of about 2 MiB, each compressed by Blosc-zstd. bfloat16 is stored as the uint16 of its
bits, since Zarr has no such type in every release we read with; an attribute names the truth.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import zarr
from zarr.buffer import cpu
from zarr.storage import LocalStore, MemoryStore

from lpp.store.arrays import encoder
from lpp.store.arrays.layout import (
    METADATA_KEY,
    NUMPY_DTYPE,
    ArraySpec,
    Group,
    Rows,
    chunk_rows,
    group_document,
    metadata_bytes,
    site_array,
)
from lpp.store.arrays.reader import to_float32
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.plan import SiteSpec, StoredDtype
from lpp.store.objects.paths import ADVICE

__all__ = ["Rows", "chunk_rows", "to_float32"]  # for those that still look for them here

GROUP_KEY: Final = METADATA_KEY
"""Metadata of the group, inside `hidden.zarr`."""


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
    return memoryview(metadata_bytes(group_document()))


def encode_site(site: SiteSpec, rows: Rows, dtype: StoredDtype) -> dict[str, memoryview]:
    """The objects of one site: key inside `hidden.zarr` -> bytes. Holds one site in memory."""
    check_rows(site, rows, dtype, len(rows))
    return encode_array(site_array(site, dtype, len(rows)), rows)


def encode_array(spec: ArraySpec, rows: npt.NDArray[Any]) -> dict[str, memoryview]:
    """The objects of one array: key inside its group -> bytes."""
    encoded = encoder.encode_array(spec, rows)
    return {
        f"{spec.name}/{METADATA_KEY}": memoryview(encoded.metadata),
        f"{spec.name}/c/0/0": memoryview(b"".join(encoded.parts)),
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
