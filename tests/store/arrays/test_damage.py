"""Damaged and hostile chunks and indices are refused, never read as rows."""

import struct
from dataclasses import replace
from typing import Any

import google_crc32c
import numpy as np
import pytest
from stored_arrays import (
    POOL,
    Stored,
    altered,
    by_zarr,
    joined,
    make_rows,
    make_spec,
    placed,
    read,
    refused,
    same_bits,
    source_of,
)

from lpp.store.arrays.chunk_index import index_bytes, parse_index
from lpp.store.arrays.encoder import encode_array
from lpp.store.arrays.metadata import parse_layout
from lpp.store.arrays.reader import BytesSource, check_object, read_rows
from lpp.store.format.commit_record import ChunkRecord, checksum


def test_a_flipped_bit_anywhere_is_refused() -> None:
    spec = make_spec(5, 4)
    encoded = encode_array(spec, make_rows(spec))
    layout = parse_layout(encoded.metadata, spec, "x")
    whole = {"zarr.json": encoded.metadata, "c/0/0": joined(encoded)}
    stored = Stored(make_rows(spec), layout, whole, encoded.chunks)
    for byte in range(encoded.bytes):
        for bit in range(8):
            other = altered(stored, byte, bit)
            source = source_of(other.objects)
            if byte < encoded.chunks[0].bytes:
                refused("block.1/c/0/0: .*rows 0 to 4: altered since", lambda o=other: read(o))
            else:  # the index, which only readers that have no record go by
                assert same_bits(read(other), stored.rows)
                refused("x/c/0/0", lambda s=source: check_object(s, layout, where="x/c/0/0"))


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
            lambda cut=cut: check_object(source_of(cut.objects), cut.layout, where="x"),
        )


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
        refused(match, lambda: check_object(source_of(bad.objects), bad.layout, where="x"))

    declares(4, 1 << 30, "unpacks to 1073741824, should be 1048576")
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
            lambda bad=bad: check_object(source_of(bad.objects), bad.layout, where="x"),
        )
    refused("checksum of its index", lambda: read(reindexed(six_chunks, good, crc=1)))
    moved = reindexed(six_chunks, [good[1], good[0], *good[2:]])
    source = source_of(moved.objects)
    chunks = placed(six_chunks, source, six_chunks.chunks)
    refused(
        "elsewhere than their record",
        lambda: check_object(source, moved.layout, where="x", chunks=chunks),
    )


def test_a_chunk_that_does_not_unpack_is_refused() -> None:
    spec = make_spec(1500, 2048)
    rows = np.arange(1500 * 2048, dtype=np.uint16).reshape(1500, 2048)  # compressible
    encoded = encode_array(spec, rows)
    layout = parse_layout(encoded.metadata, spec, "x")
    for damaged in (slice(16, 20), slice(20, 200)):  # where its block begins; the block
        data = bytearray(joined(encoded))
        data[damaged] = b"\xff" * (damaged.stop - damaged.start)
        for pool in (None, POOL):
            refused(
                "c/0/0: .*rows 0 to 255: a chunk that does not unpack",
                lambda d=data, p=pool: read_rows(
                    BytesSource(d), layout, 0, 1500, where="x/c/0/0", pool=p
                ),
            )


def test_a_plain_chunk_of_another_size_is_refused() -> None:
    spec = make_spec(4, 4)
    objects = by_zarr(spec, make_rows(spec), chunk=4, compressed=False)
    layout = parse_layout(objects["zarr.json"], spec, "x")
    plain = objects["c/0/0"][:32]
    for size in (0, 31, 33):
        data = (plain + b"x")[:size]
        entry = struct.pack("<QQ", 0, size)
        data += entry + struct.pack("<I", google_crc32c.value(entry))
        refused("should be 32", lambda d=data: read_rows(BytesSource(d), layout, 0, 4, where="x"))
