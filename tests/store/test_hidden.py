"""Activations come back bit for bit, in blocks that fit memory."""

from typing import Any

import numpy as np
import pytest
import zarr

from lpp.store.arrays.hidden import (
    GROUP_KEY,
    chunk_rows,
    encode_group,
    encode_site,
    read_site,
    to_float32,
)
from lpp.store.format.plan import SiteSpec

SPECIAL = {
    # zeros, ones, infinities, quiet and signalling NaNs with payloads, subnormals, the largest
    "bfloat16": (0, 0x8000, 0x3F80, 0x7F80, 0xFF80, 0x7FC0, 0xFFC1, 0x7F81, 1, 0x8001, 0x7F7F),
    "float16": (0, 0x8000, 0x3C00, 0x7C00, 0xFC00, 0x7E00, 0xFE01, 0x7C01, 1, 0x8001, 0x7BFF),
    "float32": (
        *(0, 1 << 31, 0x3F800000, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001, 0x7F800001),
        *(1, 0x80000001, 0x7F7FFFFF),
    ),
}
BITS = {"bfloat16": np.uint16, "float16": np.uint16, "float32": np.uint32}
KIND = {"bfloat16": np.uint16, "float16": np.float16, "float32": np.float32}


def special_rows(dtype: str, n: int, width: int) -> np.ndarray:
    """Random bits with every special value in front, the first and last rows all zero."""
    rng = np.random.default_rng(width * 7919 + n)
    bits = rng.integers(0, np.iinfo(BITS[dtype]).max, (n, width), BITS[dtype], endpoint=True)
    flat = bits.reshape(-1)
    count = min(len(SPECIAL[dtype]), len(flat))
    flat[:count] = SPECIAL[dtype][:count]
    bits[n // 2] = 0
    bits[-1] = 0x8000 << (8 * bits.itemsize - 16)  # a row of -0.0, which equals the fill value
    return bits.view(KIND[dtype])


def store_site(tmp_path: Any, rows: np.ndarray, dtype: Any) -> Any:
    site = SiteSpec(name="final", convention="post_norm", width=rows.shape[1])
    objects = {GROUP_KEY: encode_group(), **encode_site(site, rows, dtype)}
    for key, data in objects.items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize("dtype", sorted(SPECIAL))
@pytest.mark.parametrize("width", [1, 7, 576, 4096])
def test_bits_survive(tmp_path: Any, dtype: Any, width: int) -> None:
    rows = special_rows(dtype, 23, width)
    group = store_site(tmp_path, rows, dtype)
    array = zarr.open_group(str(group), mode="r")["final"]
    assert np.array_equal(np.asarray(array[:]).view(BITS[dtype]), rows.view(BITS[dtype]))
    (back,) = read_site(group, "final", rows=23, block_rows=1000)
    assert back.dtype == np.float32
    assert back.flags.c_contiguous
    assert back.flags.writeable
    expected = reference_float32(rows, dtype)
    assert np.array_equal(back.view(np.uint32), expected.view(np.uint32))


def reference_float32(rows: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        pairs = np.zeros((*rows.shape, 2), "<u2")
        pairs[..., 1] = rows
        return pairs.view("<f4")[..., 0]
    return rows.astype(np.float32)


@pytest.mark.parametrize(
    "n_of_chunk",
    [lambda c: 1, lambda c: c - 1, lambda c: c, lambda c: c + 1, lambda c: 3 * c + 5],
    ids=["1", "chunk-1", "chunk", "chunk+1", "3 chunks and 5"],
)
def test_every_row_count_around_the_chunk(tmp_path: Any, n_of_chunk: Any) -> None:
    width = 4096
    chunk = chunk_rows(width, 2)
    assert chunk == 256
    n = n_of_chunk(chunk)
    rows = special_rows("bfloat16", n, width)
    group = store_site(tmp_path, rows, "bfloat16")
    objects = [p.relative_to(group).as_posix() for p in group.rglob("*") if p.is_file()]
    assert sorted(objects) == ["final/c/0/0", "final/zarr.json", "zarr.json"]
    expected = to_float32(rows).view(np.uint32)
    for block_rows in (1, chunk, 2 * chunk + 1):
        blocks = list(read_site(group, "final", rows=n, block_rows=block_rows))
        step = max(chunk, block_rows // chunk * chunk) if n >= chunk else n
        assert [len(b) for b in blocks] == [min(step, n - s) for s in range(0, n, step)]
        assert np.array_equal(np.concatenate(blocks).view(np.uint32), expected)
    for rows_wanted in {1, n // 2 + 1, n}:
        blocks = list(read_site(group, "final", rows=rows_wanted, block_rows=1))
        assert np.array_equal(np.concatenate(blocks).view(np.uint32), expected[:rows_wanted])
    assert list(read_site(group, "final", rows=0, block_rows=1)) == []


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_chunk_of_negative_zeros_is_not_taken_for_the_fill_value(tmp_path: Any, dtype: Any) -> None:
    chunk = chunk_rows(4096, np.dtype(dtype).itemsize)
    rows = np.full((3 * chunk, 4096), -0.0, dtype)
    rows[chunk : 2 * chunk] = 0.0
    group = store_site(tmp_path, rows, dtype)
    blocks = list(read_site(group, "final", rows=3 * chunk, block_rows=1))
    assert [np.unique(np.signbit(block)).tolist() for block in blocks] == [[True], [False], [True]]


@pytest.mark.parametrize(
    ("width", "itemsize", "expected"),
    [
        (576, 2, 2048),
        (576, 4, 1024),
        (4096, 2, 256),
        (1, 2, 1 << 20),
        (1 << 20, 4, 1),
        (10**7, 4, 1),
    ],
)
def test_chunks_are_about_two_mib_and_never_empty(width: int, itemsize: int, expected: int) -> None:
    assert chunk_rows(width, itemsize) == expected


@pytest.mark.parametrize(
    ("rows", "dtype"),
    [
        (np.zeros((3, 4), np.float32), "bfloat16"),
        (np.zeros((3, 4), np.uint16), "float16"),
        (np.zeros((3, 5), np.uint16), "bfloat16"),
        (np.zeros((3,), np.uint16), "bfloat16"),
        (np.zeros((0, 4), np.uint16), "bfloat16"),
    ],
    ids=["dtype", "bits of another dtype", "width", "one dimension", "no rows"],
)
def test_rows_that_do_not_fit_are_refused(rows: Any, dtype: Any) -> None:
    site = SiteSpec(name="final", convention="post_norm", width=4)
    with pytest.raises(ValueError, match="final: rows are"):
        encode_site(site, rows, dtype)


def test_the_same_rows_give_the_same_bytes() -> None:
    rows = special_rows("bfloat16", 300, 4096)
    site = SiteSpec(name="final", convention="post_norm", width=4096)
    first, second = (encode_site(site, r, "bfloat16") for r in (rows, np.asfortranarray(rows)))
    assert {k: bytes(v) for k, v in first.items()} == {k: bytes(v) for k, v in second.items()}


def test_compression_earns_its_time() -> None:
    # Activations share exponents: the high bytes pack, the mantissas do not.
    values = np.random.default_rng(3).normal(size=(2048, 576)).astype(np.float32)
    rows = (values.view(np.uint32) >> 16).astype(np.uint16)
    site = SiteSpec(name="final", convention="residual", width=576)
    stored = sum(len(data) for data in encode_site(site, rows, "bfloat16").values())
    assert rows.nbytes / stored > 1.3
