"""Equal tables are equal bytes: nothing that lies under a null or beyond an array is stored."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_capture import make_capture
from stored import stored_objects

from lpp.store.format.tables import encode_table, table_of

ROWS = 70_000  # two record batches

KINDS = ("float64", "float32", "int64", "int32", "uint8", "timestamp[us]")


def of_kind(kind: str, mask: np.ndarray, under: int) -> pa.Array:
    """An array of `kind` that is null where `mask` is, over bytes `under` there."""
    dtype = np.dtype("M8[us]" if kind == "timestamp[us]" else kind)
    values = np.full(mask.size * dtype.itemsize, under, np.uint8).view(dtype)
    values[~mask] = np.arange((~mask).sum()) % 100
    return pa.array(values, mask=mask)


def every_kind(under: int) -> pa.Table:
    """A table with nulls in every column, over bytes `under`."""
    mask = np.random.default_rng(0).random(ROWS) < 0.5
    columns = {kind: of_kind(kind, mask, under) for kind in KINDS}
    validity = columns["uint8"].buffers()[0]
    floats, nulls = columns["float64"], pa.array(mask)
    ends = pa.py_buffer(np.arange(ROWS + 1, dtype=np.int32))
    # under a null, a string has a byte and a bool its bit
    columns["string"] = pa.StringArray.from_buffers(
        ROWS, ends, pa.py_buffer(np.where(mask, under % 128, 65).astype(np.uint8)), validity
    )
    bits = np.packbits(np.where(mask, under % 2, 1).astype(bool), bitorder="little")
    columns["bool"] = pa.Array.from_buffers(pa.bool_(), ROWS, [validity, pa.py_buffer(bits)])
    columns["list"] = pa.ListArray.from_arrays(pa.array(np.arange(ROWS + 1)).cast("int32"), floats)
    columns["null lists"] = pa.LargeListArray.from_arrays(np.arange(ROWS + 1), floats, mask=nulls)
    columns["struct"] = pa.StructArray.from_arrays(
        [floats, columns["string"]], ["a", "b"], mask=nulls
    )
    return pa.table(columns)


@pytest.mark.parametrize("compression", ["zstd", None])
def test_what_lies_under_a_null_is_not_stored(compression: str | None) -> None:
    one, other = every_kind(0xAA), every_kind(0x55)
    assert one.equals(other)
    encoded = encode_table(one, compression)
    assert encoded == encode_table(other, compression)
    # a slice, and other chunks, hold the same rows
    around = pa.concat_tables([other.slice(0, 3), other, other.slice(9)])
    assert encode_table(around.slice(3, ROWS).combine_chunks(), compression) == encoded
    assert table_of(pa.py_buffer(encoded), one.schema, rows=None, extra=None).equals(one)
    if compression is None:
        assert b"\xaa" * 8 not in encoded


def test_a_shard_does_not_depend_on_what_lies_under_its_nulls(tmp_path: Path) -> None:
    stored = []
    for under in (0xAA, 0x55):
        made = make_capture((5, 7, 3, 6), (0, 2, 4))
        for name in ("next_logprob", "next_rank"):
            column = made.tokens[name]
            mask = column.is_null().to_numpy()
            values = np.full(4 * len(mask), under, np.uint8).view(column.type.to_pandas_dtype())
            values[~mask] = column.drop_null().to_numpy()
            at = made.tokens.schema.get_field_index(name)
            masked = made.tokens.set_column(
                at, made.tokens.schema.field(at), pa.array(values, mask=mask)
            )
            made = replace(made, tokens=masked)
        stored.append(stored_objects(made.write(tmp_path / str(under)).path))
    assert stored[0] == stored[1]
