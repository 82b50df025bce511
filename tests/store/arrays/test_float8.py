"""Rows of 8 bits are rounded as the specification says, and every reader decodes them alike."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st
from stored_arrays import POOL, Stored, by_zarr, joined, make_spec, read, refused, widened
from zarr.storage import LocalStore
from zarr_arrays import rows_of

from lpp.store.arrays.encoder import EncodedArray, encode_array
from lpp.store.arrays.float8 import decode_rows, encode_rows
from lpp.store.arrays.layout import ArrayLayout, ArraySpec, Rows
from lpp.store.arrays.metadata import parse_layout
from lpp.store.arrays.reader import BytesSource, read_rows

SPEC = (Path(__file__).parents[3] / "store" / "SPEC.md").read_text("utf-8")
BFLOAT16 = np.arange(1 << 16, dtype=np.uint16)
"""Every value."""


def codes_of(rows: np.ndarray) -> np.ndarray:
    """`encode_rows`, the plain way: one row at a time, torch rounds. rows: float32."""
    encoded = []
    for row in rows.astype(np.float64):
        finite = np.where(np.isfinite(row), np.clip(row, -448 * 2.0**119, 448 * 2.0**119), 0)
        x = next(x for x in range(7, 247) if np.abs(finite).max() <= 448 * 2.0 ** (x - 127))
        scaled = np.where(np.isfinite(row), finite / 2.0 ** (x - 127), np.nan)
        codes = torch.from_numpy(np.nan_to_num(scaled)).to(torch.float8_e4m3fn)
        signed = np.where(np.signbit(row), 0xFF, 0x7F)
        bits = np.where(np.isfinite(row), codes.view(torch.uint8).numpy(), signed)
        zero = np.where(np.signbit(row) & (bits == 0), 0x80, bits)
        encoded.append([x, *zero.tolist()])
    return np.array(encoded, np.uint8)


@pytest.mark.parametrize(
    "largest", [0, 1, 0x3F80, 0x43DF, 0x43E0, 0x43E1, 0x43FF, 0x0680, 0x7F60, 0x7F61, 0x7F7F]
)
def test_every_bfloat16_is_rounded_to_the_nearest_code(largest: int) -> None:
    magnitude = BFLOAT16 & 0x7FFF
    row = BFLOAT16[(magnitude <= largest) | (magnitude >= 0x7F80)][None]
    with np.errstate(invalid="ignore"):
        assert np.array_equal(encode_rows(row), codes_of(widened(row)))


@given(
    st.lists(
        st.lists(st.floats(width=32), min_size=3, max_size=3),
        min_size=1,
        max_size=4,
    )
)
def test_float32_is_rounded_once(values: list[list[float]]) -> None:
    with np.errstate(invalid="ignore"):
        rows = np.array(values, np.float32)
        assert np.array_equal(encode_rows(rows), codes_of(rows))


def test_float16_is_rounded_as_the_same_float32() -> None:
    rows = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(-1, 8)
    wide = rows.astype(np.float32)
    assert np.array_equal(encode_rows(rows), encode_rows(wide))


def test_every_code_under_every_scale_is_a_bfloat16() -> None:
    stored = np.array([[x, *range(256)] for x in range(7, 247)], np.uint8)
    bits, values = np.empty((240, 256), np.uint16), np.empty((240, 256), np.float32)
    decode_rows(stored, bits)
    decode_rows(stored, values)
    assert np.array_equal(widened(bits).view(np.uint32), values.view(np.uint32))
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double().numpy()
    expected = codes * 2.0 ** (np.arange(7, 247)[:, None] - 127.0)
    assert np.array_equal(values.astype(np.float64), expected, equal_nan=True)
    assert np.array_equal(np.signbit(values), np.signbit(codes) | np.zeros((240, 1), bool))
    lines = re.search(r"```python\n(codes, x = .*?)```", SPEC, re.DOTALL)
    assert lines is not None
    scope: dict[str, Any] = {"np": np, "rows": stored}
    exec(lines[1], scope)
    number = np.isfinite(expected)
    assert np.array_equal(scope["values"][number], expected[number])


def test_rounding_again_changes_nothing() -> None:
    rows = np.random.default_rng(0).standard_normal((300, 576)).astype(np.float32) ** 5
    once, again, bits = np.empty_like(rows), np.empty_like(rows), np.empty(rows.shape, np.uint16)
    decode_rows(encode_rows(rows), once)
    decode_rows(encode_rows(once), again)
    assert np.array_equal(again, once)
    decode_rows(encode_rows(rows), bits)
    decode_rows(encode_rows(bits), again)
    assert np.array_equal(again, once)
    value, largest = np.abs(rows), np.abs(rows).max(axis=1, keepdims=True)
    most = np.where(value >= largest * 2.0**-13, value / 16, largest * 2.0**-17)
    assert (np.abs(once - rows) <= most).all()


def float8_array(rows: Rows) -> tuple[ArraySpec, ArrayLayout, EncodedArray]:
    """The rows of one site, encoded."""
    lpp = {"site": "block.1", "dtype": "float8_e4m3", "convention": "residual"}
    spec = make_spec(len(rows), rows.shape[1] + 1, "uint8", lpp=lpp)
    encoded = encode_array(spec, rows)
    return spec, parse_layout(encoded.metadata, spec, "here"), encoded


@pytest.mark.parametrize("shape", [(1, 1), (23, 7), (3 * 256 + 5, 4096)])
def test_arrays_are_those_of_zarr_python_and_are_read_in_parts(
    shape: tuple[int, int], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 0x7F80, shape, np.uint16)
    spec, layout, encoded = float8_array(rows)
    codes = encode_rows(rows)
    theirs = by_zarr(spec, codes, chunk=layout.chunk_rows, stored=layout.object_rows)
    assert joined(encoded) == theirs["c/0/0"]
    assert parse_layout(theirs["zarr.json"], spec, "here") == layout
    stored = Stored(rows, layout, {"c/0/0": joined(encoded)}, encoded.chunks)
    for dtype, numpy in (("stored", np.uint16), ("float32", np.float32)):
        expected = np.empty(shape, numpy)
        decode_rows(codes, expected)
        for start, end in ((0, len(rows)), (len(rows) // 3, len(rows) // 3 + 1), (0, 0)):
            part = read(stored, start, end, dtype=dtype, pool=POOL)
            assert part.dtype == expected.dtype
            assert np.array_equal(part, expected[start:end])
    (tmp_path / "c/0").mkdir(parents=True)
    (tmp_path / "zarr.json").write_bytes(encoded.metadata)
    (tmp_path / "c/0/0").write_bytes(joined(encoded))
    for pipeline in ("zarr.core.codec_pipeline.BatchedCodecPipeline", "zarrs.ZarrsCodecPipeline"):
        with zarr.config.set({"codec_pipeline.path": pipeline}):
            array = zarr.open_array(LocalStore(tmp_path), mode="r")
            assert type(array._async_array.codec_pipeline).__name__ == pipeline.rpartition(".")[2]
            assert np.array_equal(rows_of(array), codes)


def test_a_scale_that_no_writer_gives_is_refused() -> None:
    spec, layout, _ = float8_array(np.zeros((4, 3), np.uint16))
    for x in (0, 6, 247, 255):
        codes = np.zeros((4, 4), np.uint8)
        codes[:, 0] = 7
        codes[2, 0] = x
        theirs = by_zarr(spec, codes, chunk=layout.chunk_rows, stored=layout.object_rows)
        source = BytesSource(theirs["c/0/0"])
        refused(
            "a scale that is not 7 to 246",
            lambda: read_rows(source, layout, 2, 3, where="s"),  # noqa: B023
        )


@pytest.mark.parametrize(
    "rows", [np.zeros((4, 3), np.uint8), np.zeros((4, 4), np.uint16), np.zeros((3, 3), np.float32)]
)
def test_rows_that_do_not_fit_are_refused(rows: Any) -> None:
    spec, *_ = float8_array(np.zeros((4, 3), np.uint16))
    with pytest.raises(ValueError, match="should be"):
        encode_array(spec, rows)
