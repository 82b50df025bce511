"""The objects of an array are those that zarr-python writes, and other readers read them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from stored_arrays import BITS, by_zarr, joined, make_rows, make_spec, same_bits
from zarr.storage import LocalStore
from zarr_arrays import array_in, dimension_names, rows_of

from lpp.store.arrays.chunk_index import index_bytes, parse_index
from lpp.store.arrays.encoder import Encoding, chunk_rows, encode_array, row_chunks
from lpp.store.arrays.layout import Packing
from lpp.store.arrays.metadata import group_document, metadata_bytes, parse_layout
from lpp.store.format.commit_record import ChunkRecord, checksum

SHAPES = [(1, 1), (1, 576), (23, 7), (23, 2048), (1024, 576), (1025, 576), (3 * 256 + 5, 2048)]


@pytest.mark.parametrize("data_type", BITS)
@pytest.mark.parametrize(("n", "width"), SHAPES)
def test_objects_are_those_that_zarr_python_writes(n: int, width: int, data_type: str) -> None:
    spec = make_spec(n, width, data_type)
    rows = make_rows(spec)
    encoded = encode_array(spec, rows, Packing(planes=False))
    layout = parse_layout(encoded.metadata, spec, "here")
    theirs = by_zarr(spec, rows, chunk=layout.chunk_rows, stored=layout.object_rows)
    assert json.loads(encoded.metadata) == json.loads(theirs["zarr.json"])
    assert joined(encoded) == theirs["c/0/0"]


@pytest.mark.parametrize("data_type", BITS)
def test_other_readers_read_what_is_written(tmp_path: Path, data_type: str) -> None:
    spec = make_spec(600, 2048, data_type, dimension_names=("token", "feature"))
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
    spec = make_spec(1500, 2048)
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
    spec = make_spec(1500, 2048)
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
    spec = make_spec(1500, 2048)
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
