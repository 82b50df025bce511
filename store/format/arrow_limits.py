"""What an Arrow IPC file says that it holds, read from its metadata before anything is unpacked.

A few kilobytes of zstd may unpack to terabytes. Each compressed buffer begins with its unpacked
length, so the sum is known from the footer and the head of each record batch: some hundred bytes,
whatever the file's size. Layouts: Arrow's `File.fbs`, `Message.fbs` and `Schema.fbs`, and the
FlatBuffers encoding (vtables, relative offsets); this reads the few fields it needs. Imports no
pyarrow, so that `lpp-sql` can ask before it loads it.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_MAGIC: Final = b"ARROW1"
_RECORD_BATCH: Final = 3  # of the union `MessageHeader`
_BLOCK: Final = 24  # bytes of the struct `Block`: offset, metaDataLength, bodyLength

FLOOR_BYTES: Final = 64 << 20
"""A table that unpacks to less is read whatever its compression ratio."""

MAX_RATIO: Final = 256
"""Largest compression ratio of a larger table. Token statistics compress 1.5-fold."""


@dataclass(frozen=True, kw_only=True)
class DeclaredSize:
    """What a file declares."""

    rows: int
    unpacked: int
    """Bytes of all buffers of all columns, unpacked."""


def declared(data: memoryview) -> DeclaredSize:
    """What the Arrow file `data` declares; ValueError if its metadata is invalid."""
    try:
        batches = [_batch(data, *block) for block in _blocks(data)]
    except struct.error as error:
        raise ValueError(f"a length points outside the file ({error})") from None
    return DeclaredSize(
        rows=sum(b.rows for b in batches), unpacked=sum(b.unpacked for b in batches)
    )


def check_declared(data: memoryview, *, rows: int | None, most: int | None = None) -> None:
    """ValueError where `data` holds other than `rows` rows, or unpacks to more than it may.

    most: bytes that this many rows may take. In any case, a file that compresses more than
    `MAX_RATIO`-fold may unpack to at most `FLOOR_BYTES`.
    """
    size = declared(data)
    if rows is not None and size.rows != rows:
        raise ValueError(f"{size.rows} rows, {rows} were committed")
    bound = max(FLOOR_BYTES, MAX_RATIO * data.nbytes)
    bound = bound if most is None else min(bound, most)
    if size.unpacked > bound:
        raise ValueError(
            f"{data.nbytes} bytes that unpack to {size.unpacked}, where {bound} are the most"
        )


def _blocks(data: memoryview) -> Iterator[tuple[int, int, int]]:
    """(offset, bytes of metadata, bytes of body) of each record batch."""
    if data.nbytes < 2 * len(_MAGIC) + 6 or bytes(data[-len(_MAGIC) :]) != _MAGIC:
        raise ValueError("it does not end as an Arrow file does")
    end = data.nbytes - len(_MAGIC) - 4
    size = _read(data, "<i", end)
    footer = _root(data[end - _within(size, end) : end])
    if footer.vector(2, _BLOCK)[1]:
        raise ValueError("it has dictionaries, which no column of ours needs")
    start, count = footer.vector(3, _BLOCK)
    for index in range(count):
        offset, metadata, body = struct.unpack_from("<qi4xq", footer.data, start + _BLOCK * index)
        _within(offset, end), _within(metadata, end - offset)
        yield offset, metadata, _within(body, end - offset - metadata)


def _batch(data: memoryview, offset: int, metadata: int, body: int) -> DeclaredSize:
    prefix = 8 if _read(data, "<I", offset) == 0xFFFFFFFF else 4  # older files: the length alone
    message = _root(data[offset + prefix : offset + metadata])
    batch = message.table(2)
    if message.number(1, "<B") != _RECORD_BATCH or batch is None:
        raise ValueError("its footer names a record batch that is none")
    content = data[offset + metadata : offset + metadata + body]
    packed = batch.table(3) is not None
    start, count = batch.vector(2, 16)
    unpacked = 0
    for index in range(count):
        begin, length = struct.unpack_from("<qq", batch.data, start + 16 * index)
        _within(length, body - _within(begin, body))
        size = _read(content, "<q", begin) if packed and length else -1
        unpacked += length if size == -1 else _within(size, 1 << 62)
    return DeclaredSize(rows=_within(batch.number(0, "<q"), 1 << 62), unpacked=unpacked)


def _within(value: int, most: int) -> int:
    if not 0 <= value <= most:
        raise ValueError(f"a length or place of {value} where at most {most} fits")
    return value


def _read(data: memoryview, code: str, offset: int) -> int:
    value: int = struct.unpack_from(code, data, _within(offset, data.nbytes))[0]
    return value


def _root(data: memoryview) -> "_Table":
    return _Table(data, _read(data, "<I", 0))


class _Table:
    """A table of a FlatBuffer, at `offset` in `data`."""

    def __init__(self, data: memoryview, offset: int) -> None:
        self.data, self._offset = data, offset
        self._vtable = offset - _read(data, "<i", offset)
        self._size = _read(data, "<H", self._vtable)

    def _field(self, index: int) -> int:
        """Offset of field `index`; 0 if the field is absent, which stands for its default."""
        slot = 4 + 2 * index
        offset = _read(self.data, "<H", self._vtable + slot) if slot + 2 <= self._size else 0
        return self._offset + offset if offset else 0

    def number(self, index: int, code: str) -> int:
        offset = self._field(index)
        return _read(self.data, code, offset) if offset else 0

    def table(self, index: int) -> "_Table | None":
        offset = self._field(index)
        return _Table(self.data, offset + _read(self.data, "<I", offset)) if offset else None

    def vector(self, index: int, item: int) -> tuple[int, int]:
        """Offset of the first item and number of items; all items lie inside the data."""
        offset = self._field(index)
        if not offset:
            return 0, 0
        offset += _read(self.data, "<I", offset)
        count = _read(self.data, "<I", offset)
        _within(count * item, self.data.nbytes - offset - 4)
        return offset + 4, count
