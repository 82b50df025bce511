"""The rows of a site as one plain Zarr array, read through the checked reader when it is indexed.

Each shard of a run has a Zarr array of its own, and no array on disk covers all shards. This Zarr
store presents them as one array: `zarr-python` asks for a chunk, the rows are read and checked, and
their bytes are returned uncompressed.
"""

import bisect
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype

from lpp.store.arrays.layout import SITE_DIMENSIONS, chunk_rows, site_array
from lpp.store.arrays.metadata import METADATA_KEY
from lpp.store.arrays.reader import ReadAs
from lpp.store.format.keys import HIDDEN_KEY
from lpp.store.format.plan import Plan, SiteSpec
from lpp.store.runs.shards import Shard


def zarr_view(
    plan: Plan, site: SiteSpec, shards: Sequence[Shard], dtype: ReadAs
) -> "zarr.Array[Any]":
    """Rows of all `shards`, (T, d), read-only."""
    return zarr.open_array(_RowStore(plan, site, shards, dtype), mode="r", zarr_format=3)


class _RowStore(Store):
    """A Zarr store of one array."""

    def __init__(self, plan: Plan, site: SiteSpec, shards: Sequence[Shard], dtype: ReadAs) -> None:
        super().__init__(read_only=True)
        self._plan, self._site, self._shards, self._dtype = plan, site, shards, dtype
        self._edges = np.cumsum([0, *(shard.rows for shard in shards)]).tolist()
        stored = site_array(site, plan.dtype_of(site), 1).decoded_dtype
        self._numpy = np.dtype("float32" if dtype == "float32" else stored)
        # not fewer bytes than a stored chunk of an earlier release, which is unpacked whole
        self._rows = 2 * chunk_rows(site.width, self._numpy.itemsize)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def _metadata(self) -> bytes:
        document = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [self._edges[-1], self._site.width],
            "data_type": self._numpy.name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [self._rows, self._site.width]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            "attributes": {"site": self._site.name, "convention": self._site.convention},
            "dimension_names": list(SITE_DIMENSIONS),
        }
        return json.dumps(document).encode()

    def _chunk(self, number: int) -> bytes:
        """Chunk `number`, the last one padded."""
        first = number * self._rows
        end = min(first + self._rows, self._edges[-1])
        chunk = np.zeros((self._rows, self._site.width), self._numpy.newbyteorder("<"))
        k = bisect.bisect_right(self._edges, first) - 1
        while first < end:
            shard, start = self._shards[k], self._edges[k]
            stop = min(end, self._edges[k + 1])
            spec = site_array(self._site, self._plan.dtype_of(self._site), shard.rows)
            rows = range(first - start, stop - start)
            with shard.array(HIDDEN_KEY, spec, start=rows.start, end=rows.stop) as array:
                values = array.rows(rows.start, rows.stop, dtype=self._dtype)
            done = number * self._rows
            chunk[first - done : stop - done] = values
            first, k = stop, k + 1
        return chunk.tobytes()

    def _data(self, key: str) -> bytes | None:
        if key == METADATA_KEY:
            return self._metadata()
        number = self._number(key)
        return None if number is None else self._chunk(number)

    def _number(self, key: str) -> int | None:
        """Number of the chunk `key`; None for any other key."""
        digits = key.removeprefix("c/").removesuffix("/0")
        inside = key == f"c/{digits}/0" and digits.isdecimal() and int(digits) < self._n_chunks
        return int(digits) if inside else None

    @property
    def _n_chunks(self) -> int:
        return int(-(-self._edges[-1] // self._rows))

    # Zarr's protocol

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        data = self._data(key)
        if data is None:
            return None
        if isinstance(byte_range, RangeByteRequest):
            data = data[byte_range.start : byte_range.end]
        elif isinstance(byte_range, OffsetByteRequest):
            data = data[byte_range.offset :]
        elif isinstance(byte_range, SuffixByteRequest):
            data = data[-byte_range.suffix :]
        return prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    async def exists(self, key: str) -> bool:
        return key == METADATA_KEY or self._number(key) is not None

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()  # raises: the store is read-only

    async def delete(self, key: str) -> None:
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        yield METADATA_KEY
        for number in range(self._n_chunks):
            yield f"c/{number}/0"

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        seen = set()
        async for key in self.list_prefix(start):
            name = key.removeprefix(start).partition("/")[0]
            if name not in seen:
                seen.add(name)
                yield name
