"""Chunks packed plane by plane: any Blosc unpacks them, and equal rows give equal bytes."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numcodecs.blosc
import numpy as np
import pytest
from golden_stores import GOLDEN
from stored import stored_objects
from stored_arrays import make_rows, make_spec
from zarr_arrays import rows_of

from lpp.store import open_store
from lpp.store.arrays.blosc import HEADER
from lpp.store.arrays.encoder import encode_array
from lpp.store.arrays.layout import PACKINGS, Packing, written_layout
from lpp.store.arrays.metadata import packing_of, parse_layout
from lpp.store.arrays.planes import LEAST_PLANE, ZSTD_VERSION, compress_planes
from lpp.store.format.commit_record import ObjectRecord
from tests.store.make_golden import PLANE_CHUNKS, plane_rows, write_alike, write_planes

BITS = {2: np.uint16, 4: np.uint32}


def activations(n: int, width: int, itemsize: int) -> np.ndarray:
    """(n, width) bits of floats whose high bytes are skewed, as those of a model are."""
    rng = np.random.default_rng(n + width)
    values = rng.standard_normal((n, width), np.float32) * rng.lognormal(0, 1, width)
    bits = values.astype(np.float32).view(np.uint32)
    return bits if itemsize == 4 else (bits >> 16).astype(np.uint16)


def repeating(n: int, width: int, itemsize: int) -> np.ndarray:
    """As `embed`: few distinct rows."""
    return activations(n, width, itemsize)[np.random.default_rng(n).integers(0, n // 5 + 1, n)]


def noise(n: int, width: int, itemsize: int) -> np.ndarray:
    """Nothing to pack."""
    rng = np.random.default_rng(n)
    return rng.integers(0, 1 << 8 * itemsize, (n, width), np.uint64).astype(BITS[itemsize])


def zeros(n: int, width: int, itemsize: int) -> np.ndarray:
    """Nothing but padding."""
    return np.zeros((n, width), BITS[itemsize])


MAKERS = (activations, repeating, noise, zeros)


def unpacked(chunk: bytes, rows: np.ndarray) -> np.ndarray:
    """What Blosc makes of a chunk."""
    return np.frombuffer(numcodecs.blosc.decompress(chunk), rows.dtype).reshape(rows.shape)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("itemsize", BITS)
@pytest.mark.parametrize(("n", "width"), [(128, 1), (1, 128), (19, 7), (1024, 576), (300, 2049)])
def test_blosc_unpacks_every_bit(
    make: Callable[[int, int, int], np.ndarray], itemsize: int, n: int, width: int
) -> None:
    rows = make(n, width, itemsize)
    chunk = compress_planes(rows)
    assert np.array_equal(unpacked(chunk, rows), rows)
    *_, size, block, packed = HEADER.unpack_from(chunk)
    assert (size, block, packed) == (rows.nbytes, rows.nbytes, len(chunk))
    assert len(chunk) <= rows.nbytes + HEADER.size + 4 + 4 * itemsize


@pytest.mark.parametrize(
    ("make", "least"), [(activations, 1.4), (repeating, 4), (zeros, 1000), (noise, 0.999)]
)
def test_what_can_shrink_shrinks(make: Callable[[int, int, int], np.ndarray], least: float) -> None:
    rows = make(1024, 576, 2)
    assert rows.nbytes / len(compress_planes(rows)) > least


def test_few_values_and_other_sizes_are_refused() -> None:
    for rows in (zeros(1, LEAST_PLANE - 1, 2), zeros(1, 128, 2).view(np.uint8)):
        with pytest.raises(ValueError, match="rows are"):
            compress_planes(rows)


def digests() -> list[str]:
    """Of the chunks of every kind of rows, in an order that mixes the compressors."""
    chunks = (compress_planes(make(700, 64, size)) for size in BITS for make in MAKERS)
    return [hashlib.sha256(chunk).hexdigest() for chunk in chunks]


def test_equal_rows_give_equal_bytes_in_every_thread() -> None:
    first = digests()
    with ThreadPoolExecutor(4) as threads:
        for others in threads.map(lambda _: digests(), range(12)):
            assert others == first
    rows = activations(700, 64, 2)
    assert compress_planes(np.ascontiguousarray(rows[::-1])[::-1].copy()) == compress_planes(rows)


@pytest.mark.slow
def test_equal_rows_give_equal_bytes_in_every_process() -> None:
    code = f"import sys; sys.path[:0] = {sys.path}; from tests.store.arrays import test_planes"
    words = [sys.executable, "-c", f"{code}; print(*test_planes.digests())"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == digests()


@pytest.mark.parametrize("data_type", ["uint16", "float16", "float32"])
@pytest.mark.parametrize("packing", PACKINGS)
def test_metadata_says_how_an_array_was_packed(data_type: str, packing: Packing) -> None:
    spec = make_spec(4097, 576, data_type)
    encoded = encode_array(spec, make_rows(spec), packing)
    record = ObjectRecord.of([encoded.metadata])
    assert packing_of(spec, record) == packing
    assert packing_of(spec, None) == PACKINGS[0]
    layout = parse_layout(encoded.metadata, spec, "here")
    assert layout.chunk_rows == written_layout(spec, packing).chunk_rows
    assert (f"zstd {ZSTD_VERSION}".encode() in encoded.metadata) == packing.planes


def test_integers_are_packed_by_blosc() -> None:
    spec = make_spec(600, 64, "uint16", lpp={"site": "router.0", "dtype": "uint16"})
    rows = make_rows(spec)
    packed = [encode_array(spec, rows, packing).parts for packing in PACKINGS[:2]]
    assert packed[0] == packed[1]


# The golden chunks


def test_golden_chunks_are_read() -> None:
    runs = open_store(GOLDEN / "planes").runs
    assert len(runs) == 3
    for run in runs.values():
        rows = plane_rows(run.plan.stored_dtype)
        assert run.verify() == []
        assert rows_of(run.array("block.1", dtype="stored")).tobytes() == rows.tobytes()


def test_golden_chunks_are_written_alike(tmp_path: Path) -> None:
    write_alike(tmp_path / "planes", write_planes, PLANE_CHUNKS)
    ours, golden = stored_objects(tmp_path / "planes"), stored_objects(GOLDEN / "planes")
    assert ours.keys() == golden.keys()
    if ZSTD_VERSION == "1.5.7":  # another release may pack otherwise, and SPEC.md says so
        assert ours == golden
