"""Rows of arrays come back bit for bit, whoever wrote them and however many threads read."""

import os
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_arrays import (
    BITS,
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
    widened,
)

from lpp.store.arrays.chunk_index import index_bytes, parse_index
from lpp.store.arrays.encoder import encode_array
from lpp.store.arrays.layout import ArrayLayout
from lpp.store.arrays.metadata import parse_layout
from lpp.store.arrays.reader import BytesSource, check_object, read_rows, to_float32
from lpp.store.format.commit_record import ChunkRecord, checksum
from lpp.store.objects.disk import FileSource


def slow_rows(objects: dict[str, bytes], layout: ArrayLayout) -> np.ndarray:
    """Every row, the plain way: no buffers, no threads, no checks."""
    rows, data = [], objects["c/0/0"]
    for offset, length in struct.iter_unpack("<QQ", data[-16 * layout.n_chunks - 4 : -4]):
        chunk = data[offset : offset + length]
        plain = numcodecs.Blosc().decode(chunk) if layout.compressed else chunk
        rows.append(np.frombuffer(plain, layout.spec.dtype).reshape(-1, layout.spec.width))
    return np.concatenate(rows)[: layout.spec.rows]


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
    objects = by_zarr(spec, rows, chunk=chunk, compressed=draw(st.booleans()))
    layout = parse_layout(objects["zarr.json"], spec, "x")
    data, recorded = objects["c/0/0"], None
    places = parse_index(data[-index_bytes(layout.n_chunks) :], len(data), layout.n_chunks)
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
    source = source_of(stored.objects)
    chunks = placed(stored, source, stored.chunks)
    check_object(source, stored.layout, where="x", chunks=chunks)

    def read(**options: Any) -> np.ndarray:
        return read_rows(source, stored.layout, start, end, where="x", chunks=chunks, **options)

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


@pytest.mark.parametrize(
    ("start", "end", "touched"),
    [(0, 1500, range(6)), (300, 301, [1]), (256, 512, [1]), (255, 513, [0, 1, 2]), (9, 9, [])],
)
def test_only_the_chunks_of_these_rows_are_read(
    six_chunks: Stored, start: int, end: int, touched: Sequence[int]
) -> None:
    source = Watched(six_chunks.objects["c/0/0"])
    assert same_bits(read(six_chunks, start, end, source=source), six_chunks.rows[start:end])
    lengths = [chunk.bytes for chunk in six_chunks.chunks or ()]
    assert source.read == [(sum(lengths[:k]), lengths[k]) for k in touched]


@pytest.mark.parametrize("compressed", [True, False])
def test_chunks_larger_than_a_thread_keeps_memory_for(compressed: bool) -> None:
    spec = make_spec(3, 4 << 20)
    rows = np.zeros((3, 4 << 20), np.uint16)
    rows[:, ::1024] = [[1], [2], [3]]
    objects = by_zarr(spec, rows, chunk=3, compressed=compressed)
    layout = parse_layout(objects["zarr.json"], spec, "x")
    assert layout.chunk_bytes == 24 << 20
    found = read_rows(source_of(objects), layout, 1, 3, where="x")
    assert same_bits(found, rows[1:])


def test_what_is_asked_for_must_fit(six_chunks: Stored) -> None:
    for start, end in [(-1, 3), (3, 2), (0, 1501)]:
        with pytest.raises(ValueError, match="rows"):
            read(six_chunks, start, end)
    for out in (
        np.empty((9, 2048)),
        np.empty((10, 2048), np.float32),
        np.empty((10, 8192), "<u2")[:, ::2],
    ):
        with pytest.raises(ValueError, match="out is"):
            read(six_chunks, 0, 10, out=out)
    spec = make_spec(3, 4, "float64")
    encoded = encode_array(spec, make_rows(spec))
    layout = parse_layout(encoded.metadata, spec, "x")
    with pytest.raises(ValueError, match="float64"):
        read_rows(BytesSource(joined(encoded)), layout, 0, 3, where="x", dtype="float32")


def test_files_are_read_where_they_end_and_no_further(six_chunks: Stored, tmp_path: Path) -> None:
    path = tmp_path / "0"
    path.write_bytes(six_chunks.objects["c/0/0"])
    descriptor = os.open(path, os.O_RDONLY)
    try:
        source = FileSource(descriptor)
        assert same_bits(read(six_chunks, source=source, pool=POOL), six_chunks.rows)
        os.truncate(path, 1000)  # cut short while it is open
        refused("rows 0 to 255: it ends at byte 1000", lambda: read(six_chunks, source=source))
        refused("it ends at byte", lambda: read(six_chunks, source=source, chunks=None))
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
        read(six_chunks, source=source, pool=pool)
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
from lpp.store.arrays.layout import ArraySpec
from lpp.store.arrays.metadata import parse_layout
from lpp.store.arrays.reader import BytesSource, read_rows, recorded_chunks
module.usable_cores = lambda: 4
names = {"dimension_names": ("token", "feature"), "lpp": {}}
spec = ArraySpec(name="a", rows=1500, width=2048, data_type="uint16", **names)
rows = np.arange(1500 * 2048, dtype=np.uint16).reshape(1500, 2048)
encoded = encode_array(spec, rows)
layout = parse_layout(encoded.metadata, spec, "x")
source = BytesSource(b"".join(encoded.parts))
chunks = recorded_chunks(source, layout, encoded.chunks, where="x")
def right():
    pool = module.decode_pool()
    found = read_rows(source, layout, 0, 1500, where="x", chunks=chunks, pool=pool)
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
