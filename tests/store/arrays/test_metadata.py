"""Metadata of an array: what is taken, what is refused."""

import json
from typing import Any

import pytest
import zarr
from stored_arrays import make_spec, refused
from zarr.storage import MemoryStore

from lpp.store.arrays.metadata import (
    group_document,
    metadata_bytes,
    metadata_document,
    parse_layout,
)


def test_the_metadata_of_a_group_is_that_of_zarr_python() -> None:
    objects: dict[str, Any] = {}
    zarr.create_group(MemoryStore(objects), zarr_format=3)
    theirs = bytes(objects["zarr.json"].as_array_like())
    assert json.loads(metadata_bytes(group_document())) == json.loads(theirs)


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
    (f"{SHARDING}/chunk_shape", [5, 4], "an object of 12 rows, should be 15"),
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
