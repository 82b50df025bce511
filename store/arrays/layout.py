"""How rows of a site are divided into chunks: SPEC.md section 5."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from lpp.store.arrays.planes import LEAST_PLANE
from lpp.store.format.plan import SiteDtype, SiteSpec

NUMPY_DTYPE: Final[Mapping[SiteDtype, str]] = {
    "bfloat16": "uint16",
    "float16": "float16",
    "float32": "float32",
    "float8_e4m3": "uint8",
    "uint8": "uint8",
    "uint16": "uint16",
    "int32": "int32",
}
"""The array type that stores each dtype."""

ITEM_BYTES: Final[Mapping[SiteDtype, int]] = {
    dtype: np.dtype(name).itemsize for dtype, name in NUMPY_DTYPE.items()
}
"""Bytes of a value. A row of float8_e4m3 has a byte more."""

CHUNK_BYTES: Final = 1 << 20
"""Approximate bytes of a chunk before compression: a power of two rows. 2 MiB pack to .98 of the
bytes; a random order of smaller chunks mixes rows better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How a writer makes the chunks of an array. With the rows it decides every byte of them."""

    planes: bool = True
    """Whether floats are packed by `arrays.planes`; by Blosc's own writer otherwise."""
    chunk_bytes: int | None = None
    """Approximate bytes of a chunk, if not `CHUNK_BYTES`."""


PACKINGS: Final = (Packing(), Packing(planes=False), Packing(planes=False, chunk_bytes=2 << 20))
"""As this release packs, then as earlier releases did, the latest first."""

SITE_DIMENSIONS: Final = ("token", "feature")
"""Names of the dimensions of a site's rows, for readers such as xarray that need them."""

Rows: TypeAlias = npt.NDArray[np.uint16] | npt.NDArray[np.float16] | npt.NDArray[np.float32]
"""(T, d) activations as stored; uint16 holds the bits of bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """An array of a group, as plan and record require it."""

    name: str
    """Name of a site."""
    rows: int
    width: int
    """Columns on disk."""
    data_type: str
    """Type as Zarr and NumPy name it; uint16 for the bits of bfloat16, uint8 for float8_e4m3."""
    lpp: Mapping[str, Any]
    """Its attribute `lpp`: what a reader without this package needs."""
    dimension_names: tuple[str, str]
    """Names as a writer sets them."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a value on disk: little-endian."""
        return np.dtype(self.data_type).newbyteorder("<")

    @property
    def item_bytes(self) -> int:
        """Bytes of a value."""
        return self.dtype.itemsize

    @property
    def row_bytes(self) -> int:
        """Bytes of an unpacked row."""
        return self.width * self.item_bytes

    @property
    def is_float8(self) -> bool:
        """Whether a row is an exponent and codes (`arrays.float8`), which a reader decodes."""
        return self.lpp.get("dtype") == "float8_e4m3"

    @property
    def decoded_width(self) -> int:
        """Columns of a row as read."""
        return self.width - self.is_float8

    @property
    def decoded_dtype(self) -> np.dtype[Any]:
        """Type of a value as read where no other is requested: that on disk, or uint16, the bits of
        bfloat16, for float8_e4m3.
        """
        return np.dtype("<u2") if self.is_float8 else self.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayLayout:
    """How the rows of an array are divided into the chunks of its object, `c/0/0`."""

    spec: ArraySpec
    chunk_rows: int
    """Rows of each chunk; the last one is padded."""
    compressed: bool
    """Whether each chunk is compressed by Blosc."""
    by_planes: bool = False
    """Whether `arrays.planes` packs each chunk. Readers need not know: each is a Blosc chunk."""

    @property
    def n_chunks(self) -> int:
        """Chunks of the object."""
        return -(-self.spec.rows // self.chunk_rows)

    @property
    def object_rows(self) -> int:
        """Rows of the object, padding included."""
        return self.n_chunks * self.chunk_rows

    @property
    def chunk_bytes(self) -> int:
        """Bytes of an unpacked chunk."""
        return self.chunk_rows * self.spec.row_bytes


def chunk_rows(width: int, itemsize: int, chunk_bytes: int | None = None) -> int:
    """Rows of a chunk: `chunk_bytes` (by default `CHUNK_BYTES`) over the bytes of a row, its log2
    rounded.

    >>> chunk_rows(576, 2)
    1024
    """
    return 1 << max(0, round(math.log2((chunk_bytes or CHUNK_BYTES) / (width * itemsize))))


def site_array(site: SiteSpec, dtype: SiteDtype, rows: int) -> ArraySpec:
    """The array of `site` in `hidden.zarr`, for a shard of `rows` rows."""
    return ArraySpec(
        name=site.name,
        rows=rows,
        width=site.width + (dtype == "float8_e4m3"),
        data_type=NUMPY_DTYPE[dtype],
        lpp={"site": site.name, "dtype": dtype, "convention": site.convention},
        dimension_names=SITE_DIMENSIONS,
    )


def written_layout(spec: ArraySpec, packing: Packing = PACKINGS[0]) -> ArrayLayout:
    """The layout that a writer chooses. Integers, rows of 8 bits and chunks of a few values gain
    nothing by planes: Blosc's own writer packs them.
    """
    chunk = min(chunk_rows(spec.width, spec.item_bytes, packing.chunk_bytes), spec.rows)
    floats = spec.lpp.get("dtype") in ("bfloat16", "float16", "float32")
    return ArrayLayout(
        spec=spec,
        chunk_rows=chunk,
        compressed=True,
        by_planes=packing.planes and floats and chunk * spec.width >= LEAST_PLANE,
    )
