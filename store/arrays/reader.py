"""Reads rows of a Zarr array, decoded chunk by chunk directly into the returned array.

One thread handles a chunk from start to end: it reads the stored bytes into a buffer that stays in
its core's cache, hashes them, compares the hash with the record, and unpacks them into their slice
of the output. Rows that are widened, or only partly requested, go through a second such buffer.
Nothing is returned before every chunk agrees.

Files are read, not mapped: if a mapped file is truncated or removed on a network file system, the
process ends with SIGBUS, and bytes in a mapping can change between hash and use.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, wait
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import xxhash

from lpp.store.arrays.blosc import check_header, decompress
from lpp.store.arrays.chunk_index import index_bytes, parse_index, places_in_order
from lpp.store.arrays.decode_pool import usable_cores
from lpp.store.arrays.float8 import decode_rows
from lpp.store.arrays.layout import ArrayLayout, Rows
from lpp.store.arrays.metadata import misfit
from lpp.store.objects.protocol import Source

ReadAs: TypeAlias = Literal["stored", "float32"]
"""Rows as stored, with bfloat16 and float8_e4m3 as the bits of bfloat16, uint16; or as float32."""

MIB: Final = 1 << 20

_KEPT_BYTES: Final = 16 * MIB
"""A thread keeps buffers of up to this many bytes; a writer's chunks take 3 MiB at most."""


_TILE_BYTES: Final = MIB
"""Bytes of rows that are converted at a time: small enough that two loops work in the cache."""


class RecordedChunk(Protocol):
    """The commit record's entry of a chunk."""

    @property
    def bytes(self) -> int:
        """Stored size in bytes."""
        ...

    @property
    def xxh3_128(self) -> str:
        """Checksum of the stored bytes, in hex."""
        ...


class BytesSource:
    """An object in memory."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data).cast("B")
        self.size = self._data.nbytes

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """`Source.read_into`."""
        if offset + buffer.nbytes > self.size:
            raise EOFError(f"it ends at byte {self.size}")
        buffer[:] = self._data[offset : offset + buffer.nbytes]


class Chunk(NamedTuple):
    """One chunk of an array: the position of its bytes, and its rows."""

    offset: int
    length: int
    first_row: int
    """Index of its first row in the array."""
    xxh3_128: str | None


def read_rows(
    source: Source,
    layout: ArrayLayout,
    start: int,
    end: int,
    *,
    where: str,
    dtype: ReadAs = "stored",
    chunks: Sequence[Chunk] | None = None,
    out: npt.NDArray[Any] | None = None,
    pool: Executor | None = None,
) -> npt.NDArray[Any]:
    """Rows from `start` up to `end` of an array, (end - start, decoded_width).

    source: its object. where: place of the object, for messages. chunks: of the whole array, from
    `recorded_chunks`; this function reads those that hold the rows and compares them with their
    checksums. Without `chunks` it takes their places from the index, and the caller must have
    compared the object with its record. out: where rows are written, C-contiguous;
    new memory by default. pool: threads that decode beside the caller's.

    Raises FormatError(CORRUPT) for bytes that are not as committed; `out` is then undefined. Raises
    OSError if an object cannot be read.
    """
    spec = layout.spec
    if not 0 <= start <= end <= spec.rows:
        raise ValueError(f"rows {start} to {end} of {spec.rows}")
    if dtype == "float32" and spec.item_bytes > 4:
        raise ValueError(f"{spec.data_type} does not fit float32")
    out = _output(
        (end - start, spec.decoded_width),
        spec.decoded_dtype if dtype == "stored" else np.float32,
        out,
    )

    def decode(chunk: Chunk) -> None:
        first, last = max(start, chunk.first_row), min(end, chunk.first_row + layout.chunk_rows)
        try:
            _decode(source, chunk, layout, slice(first, last), out[first - start : last - start])
        except (ValueError, EOFError) as error:
            held = f"rows {chunk.first_row} to {chunk.first_row + layout.chunk_rows - 1}"
            raise misfit(where, f"{held}: {error}") from None

    if chunks is None:
        chunks = _indexed_chunks(source, layout, where)
    touched = slice(start // layout.chunk_rows, -(-end // layout.chunk_rows))
    _each(decode, chunks[touched] if start < end else (), pool)
    return out


def recorded_chunks(
    source: Source, layout: ArrayLayout, recorded: Sequence[RecordedChunk], *, where: str
) -> list[Chunk]:
    """Every chunk, from the record's entries in row order: from byte 0, then the index.

    Raises FormatError(CORRUPT) unless their sizes and number fit the object.
    """
    lengths = [chunk.bytes for chunk in recorded]
    size = sum(lengths) + index_bytes(len(lengths))
    if len(lengths) != layout.n_chunks:
        raise misfit(where, f"{layout.n_chunks} chunks, its record has {len(lengths)}")
    if source.size != size or min(lengths, default=1) < 1:
        why = f"{source.size} bytes, should be {size} by the sizes of its chunks"
        raise misfit(where, why)
    hashes = [chunk.xxh3_128 for chunk in recorded]
    return _chunks(layout, places_in_order(lengths), hashes)


def check_object(
    source: Source, layout: ArrayLayout, *, where: str, chunks: Sequence[Chunk] | None = None
) -> None:
    """Raise FormatError(CORRUPT) unless every chunk exists and declares the size it should have.

    chunks: if given, the index must also agree with these positions, because readers without the
    record use the index. Reads the index and 16 bytes a chunk, and unpacks nothing.
    """
    indexed = _indexed_chunks(source, layout, where)
    try:
        for chunk in indexed:
            header = bytearray(min(16, chunk.length))
            source.read_into(memoryview(header), chunk.offset)
            _check_size(memoryview(header), chunk.length, layout)
        if chunks is not None and [c[:2] for c in indexed] != [c[:2] for c in chunks]:
            raise ValueError("its index places chunks elsewhere than their record")
    except (ValueError, EOFError) as error:
        raise misfit(where, error) from None


def to_float32(rows: Rows, out: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
    """Stored rows as numbers; uint16 is bfloat16, the upper half of a float32.

    out: where they are written; by default new memory, or none for rows of float32.

    >>> to_float32(np.array([[0x3F80, 0xC000]], np.uint16))
    array([[ 1., -2.]], dtype=float32)
    """
    if rows.dtype == np.float32 and out is None:
        return cast("npt.NDArray[np.float32]", rows)
    out = _output((len(rows), *rows.shape[1:]), np.float32, out)
    step = max(1, _TILE_BYTES // max(1, out[:1].nbytes))
    for start in range(0, len(rows), step):
        _convert(rows[start : start + step], out[start : start + step])
    return out


def _convert(rows: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
    """Copy `rows` into `out`, of the same type or of float32."""
    if rows.dtype == np.uint16 and out.dtype == np.float32:
        # Widening, then shifting in place, keeps both loops vectorised: NumPy's left_shift with a
        # cast goes through a small buffer and takes 1.4 times as long.
        bits = out.view(np.uint32)
        bits[...] = rows
        np.left_shift(bits, 16, out=bits)
    else:
        out[...] = rows


def _output(
    shape: tuple[int, ...], dtype: npt.DTypeLike, out: npt.NDArray[Any] | None
) -> npt.NDArray[Any]:
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype or not out.flags.carray:
        raise ValueError(f"out is {out.dtype} {out.shape}, should be {np.dtype(dtype)} {shape}")
    return out


def _indexed_chunks(source: Source, layout: ArrayLayout, where: str) -> list[Chunk]:
    """Every chunk, by the index of the object, with no checksum. FormatError(CORRUPT)."""
    size = index_bytes(layout.n_chunks)
    try:
        if source.size < size:
            raise ValueError(f"{source.size} bytes, too few for {layout.n_chunks} chunks")
        index = bytearray(size)
        source.read_into(memoryview(index), source.size - size)
        places = parse_index(bytes(index), source.size, layout.n_chunks)
    except (ValueError, EOFError) as error:
        raise misfit(where, error) from None
    return _chunks(layout, places, [None] * len(places))


def _chunks(
    layout: ArrayLayout, places: Iterable[tuple[int, int]], hashes: Sequence[str | None]
) -> list[Chunk]:
    starts = range(0, layout.object_rows, layout.chunk_rows)
    return [
        Chunk(*place, first_row, xxh3_128)
        for place, first_row, xxh3_128 in zip(places, starts, hashes, strict=True)
    ]


def _check_size(header: memoryview, length: int, layout: ArrayLayout) -> None:
    if layout.compressed:
        check_header(header, length, layout.chunk_bytes)
    elif length != layout.chunk_bytes:
        raise ValueError(
            f"a chunk of {length} bytes that unpacks to as many, should be {layout.chunk_bytes}"
        )


class _Buffers(threading.local):
    """Memory of one thread, reused for each chunk: new pages cost more than the reading."""

    def __init__(self) -> None:
        self._memory = {"packed": np.empty(0, np.uint8), "unpacked": np.empty(0, np.uint8)}

    def get(self, name: str, size: int) -> npt.NDArray[np.uint8]:
        """(size,) bytes, not initialised."""
        if size > _KEPT_BYTES:
            return np.empty(size, np.uint8)
        if self._memory[name].nbytes < size:
            self._memory[name] = np.empty(-(-size // MIB) * MIB, np.uint8)  # stored sizes vary
        return self._memory[name][:size]


_buffers = _Buffers()


def _decode(
    source: Source, chunk: Chunk, layout: ArrayLayout, rows: slice, out: npt.NDArray[Any]
) -> None:
    """Decode `rows`, by index in the array, of one chunk into `out`. ValueError, EOFError."""
    spec = layout.spec
    packed = _buffers.get("packed", chunk.length).data
    source.read_into(packed, chunk.offset)
    if chunk.xxh3_128 is not None and xxhash.xxh3_128_hexdigest(packed) != chunk.xxh3_128:
        raise ValueError("altered since they were committed")
    _check_size(packed, chunk.length, layout)
    shape = (layout.chunk_rows, spec.width)
    if layout.compressed and out.shape == shape and out.dtype == spec.dtype:
        decompress(packed, out)
        return
    if layout.compressed:
        unpacked = _buffers.get("unpacked", layout.chunk_bytes)
        decompress(packed, unpacked)
    else:
        unpacked = np.frombuffer(packed, np.uint8)
    held = unpacked.view(spec.dtype).reshape(shape)
    convert = decode_rows if spec.is_float8 else _convert
    convert(held[rows.start - chunk.first_row : rows.stop - chunk.first_row], out)


def _each(call: Callable[[Chunk], None], chunks: Sequence[Chunk], pool: Executor | None) -> None:
    """`call` each chunk, in this thread and those of `pool`; raises the first error.

    The caller takes part, so a pool that is busy with other readers delays nobody. Returns only
    when all threads have finished, because the files may then be closed, and `out` reused.

    Each thread takes consecutive chunks, then the last ones of the thread with most left. Two
    threads at neighbouring chunks would both zero the huge page of memory that these share, which
    made reading into new memory 1.5 times as slow.
    """
    threads = min(len(chunks), usable_cores()) if pool and len(chunks) > 1 else 1
    bounds = [len(chunks) * thread // threads for thread in range(threads + 1)]
    runs = [deque(chunks[first:end]) for first, end in pairwise(bounds)]
    lock = threading.Lock()

    def take(queue: deque[Chunk]) -> Chunk | None:
        with lock:
            if queue:
                return queue.popleft()
            longest = max(runs, key=len)
            return longest.pop() if longest else None

    def work(queue: deque[Chunk]) -> None:
        while (chunk := take(queue)) is not None:
            call(chunk)

    futures = [cast("Executor", pool).submit(work, queue) for queue in runs[1:]]
    try:
        work(runs[0])
    finally:
        with lock:  # after a failure no thread takes another chunk
            for run in runs:
                run.clear()
        started = [future for future in futures if not future.cancel()]
        wait(started)
    for future in started:
        future.result()
