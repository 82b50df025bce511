"""Rows go into the objects of an array and come back bit for bit, whoever reads them."""

import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec
from zarr.storage import LocalStore, MemoryStore
from zarr_arrays import array_in, dimension_names, rows_of

from lpp.store.arrays.chunk_index import index_bytes, parse_index
from lpp.store.arrays.encoder import (
    EncodedArray,
    Encoding,
    chunk_rows,
    encode_array,
    row_chunks,
)
from lpp.store.arrays.layout import (
    ArrayLayout,
    ArraySpec,
    group_document,
    metadata_bytes,
    metadata_document,
    parse_layout,
)
from lpp.store.arrays.reader import BytesSource, check_objects, read_rows, to_float32
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.commit_record import ChunkRecord, checksum
from lpp.store.objects.disk import FileSource

BITS: dict[str, type[np.unsignedinteger[Any]]] = {
    "uint16": np.uint16,
    "float16": np.uint16,
    "float32": np.uint32,
    "float64": np.uint64,
}
POOL = ThreadPoolExecutor(2)
"""Threads that decode, whatever this machine has."""

SPECIAL = {
    # -0.0, infinities, quiet and signalling NaNs with payloads, the least subnormal
    "uint16": (0, 0x8000, 0x7F80, 0xFF80, 0x7FC0, 0xFFC1, 0x7F81, 1),
    "float16": (0, 0x8000, 0x7C00, 0xFC00, 0x7E00, 0xFE01, 0x7C01, 1),
    "float32": (0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001, 0x7F800001, 1),
    "float64": (0, 1 << 63, 0x7FF << 52, 0xFFF << 52, 0x7FF8 << 48, 0xFFF8000000000001, 1),
}


def make_spec(rows: int, width: int, data_type: str = "uint16", **changes: Any) -> ArraySpec:
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
    """Random bits with every special value in front, and a last row of -0.0."""
    bits = BITS[spec.data_type]
    rng = np.random.default_rng(spec.rows * 7919 + spec.width)
    rows = rng.integers(0, np.iinfo(bits).max, (spec.rows, spec.width), bits, endpoint=True)
    special = SPECIAL[spec.data_type][: rows.size]
    rows.reshape(-1)[: len(special)] = special
    rows[-1] = 1 << (8 * rows.itemsize - 1)
    return rows.view(spec.data_type)


def same_bits(found: np.ndarray, expected: np.ndarray) -> bool:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    return found.tobytes() == expected.tobytes()


def joined(encoded: EncodedArray) -> bytes:
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
    """The objects that zarr-python writes. stored: rows of an object; None: not sharded."""
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
        shards=None if stored is None else (stored, spec.width),
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


def slow_rows(objects: dict[str, bytes], layout: ArrayLayout) -> np.ndarray:
    """Every row, the plain way: no buffers, no threads, no checks."""
    rows = []
    for number in range(layout.n_objects):
        data = objects[f"c/{number}/0"]
        places = [(0, len(data))]
        if layout.sharded:
            entries = data[-16 * layout.object_chunks - 4 : -4]
            places = list(struct.iter_unpack("<QQ", entries))[: layout.filled_chunks(number)]
        for offset, length in places:
            chunk = data[offset : offset + length]
            plain = numcodecs.Blosc().decode(chunk) if layout.compressed else chunk
            rows.append(np.frombuffer(plain, layout.spec.dtype).reshape(-1, layout.spec.width))
    return np.concatenate(rows)[: layout.spec.rows]


def sources_of(objects: dict[str, bytes], layout: ArrayLayout) -> list[BytesSource]:
    return [BytesSource(objects[f"c/{number}/0"]) for number in range(layout.n_objects)]


def widened(rows: np.ndarray) -> np.ndarray:
    """As float32, with pairs of 16 bits laid side by side for bfloat16."""
    if rows.dtype != np.uint16:
        return rows.astype(np.float32)
    pairs = np.zeros((*rows.shape, 2), "<u2")
    pairs[..., 1] = rows
    return pairs.view("<f4")[..., 0]


SHAPES = [(1, 1), (1, 576), (23, 7), (23, 4096), (2048, 576), (2049, 576), (3 * 256 + 5, 4096)]


@pytest.mark.parametrize("data_type", BITS)
@pytest.mark.parametrize(("n", "width"), SHAPES)
def test_objects_are_those_that_zarr_python_writes(n: int, width: int, data_type: str) -> None:
    spec = make_spec(n, width, data_type)
    rows = make_rows(spec)
    encoded = encode_array(spec, rows)
    layout = parse_layout(encoded.metadata, spec, "here")
    theirs = by_zarr(spec, rows, chunk=layout.chunk_rows, stored=layout.object_rows)
    assert json.loads(encoded.metadata) == json.loads(theirs["zarr.json"])
    assert joined(encoded) == theirs["c/0/0"]


def test_the_metadata_of_a_group_is_that_of_zarr_python() -> None:
    objects: dict[str, Any] = {}
    zarr.create_group(MemoryStore(objects), zarr_format=3)
    theirs = bytes(objects["zarr.json"].as_array_like())
    assert json.loads(metadata_bytes(group_document())) == json.loads(theirs)


@pytest.mark.parametrize("data_type", BITS)
def test_other_readers_read_what_is_written(tmp_path: Path, data_type: str) -> None:
    spec = make_spec(600, 4096, data_type, dimension_names=("token", "feature"))
    rows = make_rows(spec)
    encoded = encode_array(spec, rows)
    (tmp_path / "block.1/c/0").mkdir(parents=True)
    (tmp_path / "zarr.json").write_bytes(metadata_bytes(group_document()))
    (tmp_path / "block.1/zarr.json").write_bytes(encoded.metadata)
    (tmp_path / "block.1/c/0/0").write_bytes(joined(encoded))
    array = array_in(zarr.open_group(str(tmp_path), mode="r"), "block.1")
    assert dimension_names(array) == ("token", "feature")
    assert same_bits(rows_of(array), rows)
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        array = zarr.open_array(LocalStore(tmp_path), path="block.1", mode="r")
        assert "zarrs" in type(array._async_array.codec_pipeline).__module__
        assert same_bits(rows_of(array), rows)
        assert same_bits(np.asarray(array[255:513]), rows[255:513])


def test_chunks_are_recorded_in_row_order() -> None:
    spec = make_spec(1500, 4096)
    rows = make_rows(spec)
    encoded = encode_array(spec, rows)
    assert joined(encoded) == joined(encode_array(spec, np.asfortranarray(rows)))
    assert len(encoded.chunks) == len(encoded.parts) - 1 == 6
    for part, chunk in zip(encoded.parts, encoded.chunks, strict=False):
        assert chunk == ChunkRecord(bytes=len(part), xxh3_128=checksum(part))
    places = parse_index(encoded.parts[-1], encoded.bytes, 6)
    assert places[0][0] == 0
    assert [sum(place) for place in places[:-1]] == [offset for offset, _ in places[1:]]
    assert sum(places[-1]) == encoded.bytes - index_bytes(6)


def test_chunks_of_one_memory_are_packed_one_after_the_other() -> None:
    spec = make_spec(1500, 4096)
    rows = make_rows(spec)
    memory = np.empty((chunk_rows(spec), spec.width), spec.dtype)

    def reused() -> Iterator[Any]:
        for chunk in row_chunks(rows, len(memory)):
            memory[: len(chunk)] = chunk
            yield memory[: len(chunk)]

    encoding = Encoding(spec, reused())
    assert b"".join(encoding) == joined(encode_array(spec, rows))


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (lambda rows: rows[:-1], "a chunk is"),
        (lambda rows: np.concatenate([rows, rows[:1]]), "a chunk is"),
        (lambda rows: rows.view(np.int16), "a chunk is int16"),
        (lambda rows: rows[:, 1:], "a chunk is"),
        (lambda rows: rows[:256], "1244 rows did not come"),
    ],
)
def test_chunks_that_are_not_the_array_are_refused(cut: Callable[[Any], Any], message: str) -> None:
    spec = make_spec(1500, 4096)
    rows = cut(make_rows(spec))
    with pytest.raises(ValueError, match=message):
        list(Encoding(spec, row_chunks(rows, chunk_rows(spec))))


@pytest.mark.parametrize(
    ("rows", "data_type"),
    [
        (np.zeros((3, 4), np.float32), "uint16"),
        (np.zeros((3, 4), np.uint16), "float16"),
        (np.zeros((3, 5), np.uint16), "uint16"),
        (np.zeros((3,), np.uint16), "uint16"),
        (np.zeros((3, 4), ">u2"), "uint16"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows: Any, data_type: str) -> None:
    with pytest.raises(ValueError, match=r"block.1: rows are .*should be"):
        encode_array(make_spec(3, 4, data_type), rows)


def test_an_array_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"should be uint16 \(1, 4\)"):
        encode_array(make_spec(0, 4), np.zeros((0, 4), np.uint16))


@dataclass(frozen=True)
class Stored:
    """An array in memory, whoever wrote it."""

    rows: np.ndarray
    layout: ArrayLayout
    objects: dict[str, bytes]
    chunks: Sequence[ChunkRecord] | None


@st.composite
def arrays(draw: st.DrawFn) -> Stored:
    """Arrays in every layout that a reader takes."""
    n, width = draw(st.integers(1, 70)), draw(st.integers(1, 9))
    data_type = draw(st.sampled_from(sorted(BITS)))
    names = draw(st.sampled_from([None, ("token", "feature"), (None, "feature")]))
    spec = make_spec(n, width, data_type, dimension_names=names)
    rows = make_rows(spec)
    if names == spec.dimension_names == ("token", "feature") and draw(st.booleans()):
        encoded = encode_array(spec, rows)
        objects = {"zarr.json": encoded.metadata, "c/0/0": joined(encoded)}
        recorded = encoded.chunks if draw(st.booleans()) else None
        return Stored(rows, parse_layout(encoded.metadata, spec, "x"), objects, recorded)
    chunk = draw(st.integers(1, n))
    stored = draw(st.none() | st.integers(1, 5).map(lambda k: k * chunk))
    objects = by_zarr(spec, rows, chunk=chunk, stored=stored, compressed=draw(st.booleans()))
    layout = parse_layout(objects["zarr.json"], spec, "x")
    recorded = None
    if (
        layout.sharded and layout.n_objects == 1 and layout.filled_chunks(0) == layout.object_chunks
    ):  # as format 3 has it, whatever packs the chunks
        data = objects["c/0/0"]
        size = index_bytes(layout.object_chunks)
        places = parse_index(data[-size:], len(data), layout.object_chunks)
        if [sum(p) for p in places[:-1]] == [p[0] for p in places[1:]] and places[0][0] == 0:
            recorded = tuple(
                ChunkRecord(bytes=k, xxh3_128=checksum(data[o : o + k])) for o, k in places
            )
    return Stored(rows, layout, objects, recorded)


@settings(max_examples=150, deadline=None)
@given(stored=arrays(), data=st.data())
def test_any_rows_of_any_layout_come_back(stored: Stored, data: st.DataObject) -> None:
    n = len(stored.rows)
    assert same_bits(slow_rows(stored.objects, stored.layout), stored.rows)
    start = data.draw(st.integers(0, n))
    end = data.draw(st.integers(start, n))
    pool = data.draw(st.sampled_from([None, POOL]))
    sources = sources_of(stored.objects, stored.layout)
    check_objects(sources, stored.layout, where="x", chunks=stored.chunks)

    def read(**options: Any) -> np.ndarray:
        return read_rows(
            sources, stored.layout, start, end, where="x", chunks=stored.chunks, **options
        )

    assert same_bits(read(pool=pool), stored.rows[start:end])
    if stored.rows.itemsize < 8:
        expected = widened(stored.rows[start:end])
        assert same_bits(read(pool=pool, dtype="float32"), expected)
        out = np.full((end - start, stored.layout.spec.width), 7, np.float32)
        assert read(dtype="float32", out=out) is out
        assert same_bits(out, expected)


class Watched(BytesSource):
    """Notes what is read of it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.read: list[tuple[int, int]] = []

    def read_into(self, buffer: memoryview, offset: int) -> None:
        self.read.append((offset, buffer.nbytes))
        super().read_into(buffer, offset)


@pytest.fixture(scope="module")
def six_chunks() -> Stored:
    """5 chunks of 256 rows and a sixth of 220."""
    spec = make_spec(1500, 4096)
    rows = make_rows(spec)
    encoded = encode_array(spec, rows)
    objects = {"zarr.json": encoded.metadata, "c/0/0": joined(encoded)}
    return Stored(rows, parse_layout(encoded.metadata, spec, "x"), objects, encoded.chunks)


def read(stored: Stored, start: int = 0, end: int | None = None, **options: Any) -> np.ndarray:
    end = stored.layout.spec.rows if end is None else end
    sources = options.pop("sources", None) or sources_of(stored.objects, stored.layout)
    options = {"chunks": stored.chunks, "where": "s/hidden.zarr/block.1", **options}
    return read_rows(sources, stored.layout, start, end, **options)


@pytest.mark.parametrize(
    ("start", "end", "touched"),
    [(0, 1500, range(6)), (300, 301, [1]), (256, 512, [1]), (255, 513, [0, 1, 2]), (9, 9, [])],
)
def test_only_the_chunks_of_these_rows_are_read(
    six_chunks: Stored, start: int, end: int, touched: Sequence[int]
) -> None:
    source = Watched(six_chunks.objects["c/0/0"])
    assert same_bits(read(six_chunks, start, end, sources=[source]), six_chunks.rows[start:end])
    lengths = [chunk.bytes for chunk in six_chunks.chunks or ()]
    assert source.read == [(sum(lengths[:k]), lengths[k]) for k in touched]


def refused(match: str, call: Any) -> None:
    with pytest.raises(FormatError, match=match) as caught:
        call()
    assert caught.value.kind is ErrorKind.CORRUPT


def altered(stored: Stored, byte: int, bit: int = 0) -> Stored:
    data = bytearray(stored.objects["c/0/0"])
    data[byte] ^= 1 << bit
    return replace(stored, objects={**stored.objects, "c/0/0": bytes(data)})


def test_a_flipped_bit_anywhere_is_refused() -> None:
    spec = make_spec(5, 4)
    encoded = encode_array(spec, make_rows(spec))
    layout = parse_layout(encoded.metadata, spec, "x")
    whole = {"zarr.json": encoded.metadata, "c/0/0": joined(encoded)}
    stored = Stored(make_rows(spec), layout, whole, encoded.chunks)
    for byte in range(encoded.bytes):
        for bit in range(8):
            other = altered(stored, byte, bit)
            sources = sources_of(other.objects, layout)
            if byte < encoded.chunks[0].bytes:
                refused("block.1/c/0/0: .*rows 0 to 4: altered since", lambda o=other: read(o))
            else:  # the index, which only readers that have no record go by
                assert same_bits(read(other), stored.rows)
                refused("x/c/0/0", lambda s=sources: check_objects(s, layout, where="x"))


@pytest.mark.parametrize("pool", [None, POOL])
def test_damage_is_refused_where_it_is_touched(six_chunks: Stored, pool: Any) -> None:
    ends = np.cumsum([chunk.bytes for chunk in six_chunks.chunks or ()])
    for byte in (ends[1], ends[1] + 4, ends[1] + 100, ends[2] - 1):
        bad = altered(six_chunks, int(byte))
        refused(
            r"s/hidden.zarr/block.1/c/0/0: .*\(rows 512 to 767: altered since they were comm",
            lambda bad=bad: read(bad, pool=pool, dtype="float32"),
        )
        assert same_bits(read(bad, 0, 512, pool=pool), six_chunks.rows[:512])


def test_other_chunks_than_recorded_are_refused(six_chunks: Stored) -> None:
    chunks = list(six_chunks.chunks or ())
    data = six_chunks.objects["c/0/0"]
    swapped = [chunks[1], chunks[0], *chunks[2:]]
    refused("altered since", lambda: read(six_chunks, chunks=swapped))
    refused("6 chunks|5 chunks", lambda: read(six_chunks, chunks=chunks[:5]))
    shorter = [*chunks[:5], replace(chunks[5], bytes=chunks[5].bytes - 1)]
    refused("by the sizes of its chunks", lambda: read(six_chunks, chunks=shorter))
    for size in (0, 3, len(data) // 2, len(data) - 1):
        cut = replace(six_chunks, objects={"c/0/0": data[:size]})
        refused("bytes, should be", lambda cut=cut: read(cut))
        refused(
            "too few for|outside|index",
            lambda cut=cut: check_objects(
                sources_of(cut.objects, cut.layout), cut.layout, where="x"
            ),
        )
    refused("0 objects, should be 1", lambda: read_rows([], six_chunks.layout, 0, 1, where="x"))


def test_a_record_that_agrees_with_a_hostile_chunk_does_not_unpack_it(six_chunks: Stored) -> None:
    def declares(field: int, value: int, match: str) -> None:
        data = bytearray(six_chunks.objects["c/0/0"])
        struct.pack_into("<I", data, field, value)
        first, *rest = six_chunks.chunks or ()
        recorded = [
            ChunkRecord(bytes=first.bytes, xxh3_128=checksum(data[: first.bytes])),
            *rest,
        ]
        bad = replace(six_chunks, objects={"c/0/0": bytes(data)}, chunks=recorded)
        refused(match, lambda: read(bad))
        refused(match, lambda: read(bad, chunks=None))
        refused(
            match, lambda: check_objects(sources_of(bad.objects, bad.layout), bad.layout, where="x")
        )

    declares(4, 1 << 30, "unpacks to 1073741824, should be 2097152")
    declares(8, 1 << 30, "blocks of 1073741824 bytes")
    declares(12, 99, "a chunk of .* that unpacks")


def reindexed(stored: Stored, places: list[tuple[int, int]], *, crc: int = 0) -> Stored:
    """The same chunks with another index, its checksum right but for `crc`."""
    data = stored.objects["c/0/0"]
    entries = b"".join(struct.pack("<QQ", *place) for place in places)
    index = entries + struct.pack("<I", google_crc32c.value(entries) ^ crc)
    return replace(stored, objects={"c/0/0": data[: -index_bytes(6)] + index}, chunks=None)


def test_hostile_indices_are_refused(six_chunks: Stored) -> None:
    data = six_chunks.objects["c/0/0"]
    good = parse_index(data[-index_bytes(6) :], len(data), 6)
    assert same_bits(read(reindexed(six_chunks, good)), six_chunks.rows)
    cases = {
        "a chunk is missing": [((1 << 64) - 1, (1 << 64) - 1), *good[1:]],
        "outside the object": [(1 << 63, 1 << 63), *good[1:]],
        "outside": [*good[:5], (good[5][0], good[5][1] + 1)],
        "two chunks at one place": [good[1], *good[1:]],
        "at one place": [(0, good[0][1] + 1), *good[1:]],
        "a chunk of 0 bytes": [(0, 0), *good[1:]],
        "a chunk of": [(1, good[0][1] - 1), *good[1:]],
    }
    for match, places in cases.items():
        bad = reindexed(six_chunks, places)
        refused(match, lambda bad=bad: read(bad))
        refused(
            match,
            lambda bad=bad: check_objects(
                sources_of(bad.objects, bad.layout), bad.layout, where="x"
            ),
        )
    refused("checksum of its index", lambda: read(reindexed(six_chunks, good, crc=1)))
    moved = reindexed(six_chunks, [good[1], good[0], *good[2:]])
    sources = sources_of(moved.objects, moved.layout)
    refused(
        "elsewhere than their record",
        lambda: check_objects(sources, moved.layout, where="x", chunks=six_chunks.chunks),
    )


def test_a_chunk_that_does_not_unpack_is_refused() -> None:
    spec = make_spec(1500, 4096)
    rows = np.arange(1500 * 4096, dtype=np.uint16).reshape(1500, 4096)  # compressible
    encoded = encode_array(spec, rows)
    layout = parse_layout(encoded.metadata, spec, "x")
    for damaged in (slice(16, 20), slice(20, 200)):  # where its block begins; the block
        data = bytearray(joined(encoded))
        data[damaged] = b"\xff" * (damaged.stop - damaged.start)
        for pool in (None, POOL):
            refused(
                "c/0/0: .*rows 0 to 255: a chunk that does not unpack",
                lambda d=data, p=pool: read_rows(
                    [BytesSource(d)], layout, 0, 1500, where="x", pool=p
                ),
            )


@pytest.mark.parametrize("compressed", [True, False])
def test_chunks_larger_than_a_thread_keeps_memory_for(compressed: bool) -> None:
    spec = make_spec(3, 4 << 20)
    rows = np.zeros((3, 4 << 20), np.uint16)
    rows[:, ::1024] = [[1], [2], [3]]
    objects = by_zarr(spec, rows, chunk=3, compressed=compressed)
    layout = parse_layout(objects["zarr.json"], spec, "x")
    assert layout.chunk_bytes == 24 << 20
    found = read_rows(sources_of(objects, layout), layout, 1, 3, where="x")
    assert same_bits(found, rows[1:])


def test_a_plain_chunk_of_another_size_is_refused() -> None:
    spec = make_spec(4, 4)
    objects = by_zarr(spec, make_rows(spec), chunk=4, compressed=False)
    layout = parse_layout(objects["zarr.json"], spec, "x")
    for data in (objects["c/0/0"] + b"x", objects["c/0/0"][:-1], b""):
        refused("should be 32", lambda d=data: read_rows([BytesSource(d)], layout, 0, 4, where="x"))


def test_what_is_asked_for_must_fit(six_chunks: Stored) -> None:
    for start, end in [(-1, 3), (3, 2), (0, 1501)]:
        with pytest.raises(ValueError, match="rows"):
            read(six_chunks, start, end)
    for out in (
        np.empty((9, 4096)),
        np.empty((10, 4096), np.float32),
        np.empty((10, 8192), "<u2")[:, ::2],
    ):
        with pytest.raises(ValueError, match="out is"):
            read(six_chunks, 0, 10, out=out)
    spec = make_spec(3, 4, "float64")
    encoded = encode_array(spec, make_rows(spec))
    layout = parse_layout(encoded.metadata, spec, "x")
    with pytest.raises(ValueError, match="float64"):
        read_rows([BytesSource(joined(encoded))], layout, 0, 3, where="x", dtype="float32")


def test_files_are_read_where_they_end_and_no_further(six_chunks: Stored, tmp_path: Path) -> None:
    path = tmp_path / "0"
    path.write_bytes(six_chunks.objects["c/0/0"])
    descriptor = os.open(path, os.O_RDONLY)
    try:
        source = FileSource(descriptor)
        assert same_bits(read(six_chunks, sources=[source], pool=POOL), six_chunks.rows)
        os.truncate(path, 1000)  # cut short while it is open
        refused("rows 0 to 255: it ends at byte 1000", lambda: read(six_chunks, sources=[source]))
        refused("it ends at byte", lambda: read(six_chunks, sources=[source], chunks=None))
    finally:
        os.close(descriptor)


class Failing(BytesSource):
    """A disk that fails at one chunk, slowly."""

    def __init__(self, data: bytes, at: int) -> None:
        super().__init__(data)
        self._at = at
        self.reading = 0

    def read_into(self, buffer: memoryview, offset: int) -> None:
        self.reading += 1
        if offset == self._at:
            raise OSError(5, "Input/output error")
        threading.Event().wait(0.01)
        super().read_into(buffer, offset)
        self.reading -= 1


@pytest.mark.parametrize("pool", [None, POOL])
def test_a_failure_leaves_no_thread_at_work(six_chunks: Stored, pool: Any) -> None:
    chunks = six_chunks.chunks or ()
    source = Failing(six_chunks.objects["c/0/0"], chunks[0].bytes)
    with pytest.raises(OSError, match="Input/output"):
        read(six_chunks, sources=[source], pool=pool)
    assert source.reading == 1  # the one that failed


def test_several_readers_at_once(six_chunks: Stored) -> None:
    expected = widened(six_chunks.rows)
    bad = altered(six_chunks, 100)
    found: list[Any] = []

    def reader(number: int) -> None:
        for start in range(number, 1000, 190):
            if number == 3:
                refused("altered", lambda s=start: read(bad, 0, s + 1, pool=POOL))
            rows = read(six_chunks, start, start + 300, dtype="float32", pool=POOL)
            found.append(same_bits(rows, expected[start : start + 300]))

    threads = [threading.Thread(target=reader, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == sum(len(range(n, 1000, 190)) for n in range(5))
    assert all(found)


def test_a_pool_that_is_busy_delays_nobody(six_chunks: Stored) -> None:
    release = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(release.wait)
        try:
            assert same_bits(read(six_chunks, pool=pool), six_chunks.rows)
        finally:
            release.set()


CHILD = """
import os, sys
from lpp.store.arrays.decode_pool import decode_pool
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:int(sys.argv[1])])
pool = decode_pool()
print(pool and pool._max_workers, pool is decode_pool())
"""


def test_one_core_needs_no_pool() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, "1"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["None", "True"]


def test_a_forked_process_has_threads_of_its_own() -> None:
    code = """
import os, numpy as np
from lpp.store.arrays import decode_pool as module
from lpp.store.arrays.encoder import encode_array
from lpp.store.arrays.layout import ArraySpec, parse_layout
from lpp.store.arrays.reader import BytesSource, read_rows
module.usable_cores = lambda: 4
names = {"dimension_names": ("token", "feature"), "lpp": {}}
spec = ArraySpec(name="a", rows=1500, width=4096, data_type="uint16", **names)
rows = np.arange(1500 * 4096, dtype=np.uint16).reshape(1500, 4096)
encoded = encode_array(spec, rows)
layout = parse_layout(encoded.metadata, spec, "x")
source = BytesSource(b"".join(encoded.parts))
def right():
    pool = module.decode_pool()
    found = read_rows([source], layout, 0, 1500, where="x", chunks=encoded.chunks, pool=pool)
    return pool is not None and bool((found == rows).all())
assert right()
parent = module.decode_pool()
module._lock.acquire()  # as another thread might at the moment of the fork
child = os.fork()
if child == 0:
    os._exit(0 if module.decode_pool() is not parent and right() else 1)
module._lock.release()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), right())
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["0", "True"]


def test_to_float32_gives_back_what_is_float32() -> None:
    rows = make_rows(make_spec(3, 9, "float32"))
    assert to_float32(rows) is rows
    for data_type in ("uint16", "float16"):
        rows = make_rows(make_spec(40, 9, data_type))
        assert same_bits(to_float32(rows), widened(rows))


def changed(document: Any, place: str, value: Any) -> bytes:
    """The metadata with one field set to another value, or without it."""
    part = document
    *above, name = (int(key) if key.isdigit() else key for key in place.split("/"))
    for key in above:
        part = part[key]
    if value is None:
        del part[name]
    else:
        part[name] = value
    return json.dumps(document).encode()


GOOD: list[tuple[str, Any]] = [
    ("dimension_names", ["token", "feature"]),
    ("dimension_names", [None, "feature"]),
    ("data_type", "bfloat16"),
    ("attributes", {}),
    ("attributes", {"another": {"reader's": 1}}),
    ("storage_transformers", None),
    ("fill_value", 0.0),
    ("codecs/0/configuration/codecs/1/configuration/cname", "lz4"),
]


@pytest.mark.parametrize(("place", "value"), GOOD)
def test_metadata_that_says_the_same_is_taken(place: str, value: Any) -> None:
    spec = make_spec(12, 4)
    layout = parse_layout(changed(metadata_document(spec), place, value), spec, "x")
    assert (layout.object_rows, layout.chunk_rows) == (12, 12)
    assert layout.sharded
    assert layout.compressed


@pytest.mark.parametrize("fill", [0, 0.0, 1.5, "NaN", "Infinity", "-Infinity", "0x0000", "0x7fC0"])
def test_bfloat16_is_taken_with_any_fill_value_of_that_type(fill: Any) -> None:
    spec = make_spec(12, 4)
    document = {**metadata_document(spec), "data_type": "bfloat16", "fill_value": fill}
    assert parse_layout(json.dumps(document).encode(), spec, "x").chunk_rows == 12


SHARDING = "codecs/0/configuration"
BAD: list[tuple[str, Any, str]] = [
    ("data_type", "float16", "data_type is float16, should be uint16"),
    ("data_type", ["uint16"], "data_type"),
    ("fill_value", 1, "fill_value is 1, should be 0"),
    ("fill_value", "0x0000", "fill_value"),
    ("fill_value", True, "fill_value"),
    ("fill_value", None, "fill_value"),
    ("dimension_names", ["token"], "dimension_names"),
    ("dimension_names", ["token", 1], "dimension_names"),
    ("dimension_names", "ab", "dimension_names"),
    ("attributes/lpp/dtype", "float16", "attributes.lpp"),
    ("zarr_format", 2, "zarr_format"),
    ("node_type", "group", "node_type"),
    ("chunk_grid/name", "rectangular", "regular"),
    (f"{SHARDING}/chunk_shape", [5, 4], "chunks of 5 rows in objects of 12"),
    (f"{SHARDING}/index_codecs", [{"name": "crc32c"}], "bytes"),
    (f"{SHARDING}/index_codecs/1", None, "crc32c"),
    (f"{SHARDING}/codecs/0/configuration/endian", "big", "little-endian"),
    (f"{SHARDING}/codecs/1/configuration/typesize", 256, "typesize"),
    (f"{SHARDING}/codecs/1/configuration/cname", "x", "cname"),
    ("must_understand", False, "must_understand"),
]


@pytest.mark.parametrize(("place", "value", "what"), BAD)
def test_metadata_that_says_something_else_is_refused(place: str, value: Any, what: str) -> None:
    spec = make_spec(12, 4)
    data = changed(metadata_document(spec), place, value)
    refused(f"x: not the array .*{what}", lambda: parse_layout(data, spec, "x"))


def test_bfloat16_is_not_taken_for_another_type() -> None:
    for data_type in ("float16", "float32"):
        spec = make_spec(12, 4, data_type)
        data = changed(metadata_document(spec), "data_type", "bfloat16")
        refused("data_type is bfloat16", lambda d=data, s=spec: parse_layout(d, s, "x"))
    spec = make_spec(12, 4)
    for fill in ("nan", "0x00000", "0", [0], None):
        data = json.dumps(
            {**metadata_document(spec), "data_type": "bfloat16", "fill_value": fill}
        ).encode()
        refused("fill_value", lambda d=data, s=spec: parse_layout(d, s, "x"))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"shape": NaN}', b"\xff", b" " * (2 << 20)])
def test_what_is_no_metadata_is_refused(data: bytes) -> None:
    refused("x", lambda: parse_layout(data, make_spec(12, 4), "x"))
