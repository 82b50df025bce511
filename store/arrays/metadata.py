"""The `zarr.json` of an array, as written and as accepted: SPEC.md section 5.

The metadata (https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html) must agree exactly
with plan and record, and use one of a few codecs. A general Zarr reader would use any codec that a
package on the machine registers, create arrays of any shape and type, and return the fill value for
missing chunks. So this package parses the metadata itself, and uses no other reader.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from lpp.store.arrays.blosc import BLOCK_BYTES
from lpp.store.arrays.layout import PACKINGS, ArrayLayout, ArraySpec, Packing, written_layout
from lpp.store.arrays.planes import ZSTD_VERSION
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.commit_record import ObjectRecord
from lpp.store.format.documents import load_json
from lpp.store.format.keys import ADVICE

METADATA_KEY: Final = "zarr.json"
"""Metadata of a group or an array."""

MAX_METADATA_BYTES: Final = 1 << 20
"""Most bytes of a site's `zarr.json`; a writer's take 1,400."""

MAX_CHUNK_BYTES: Final = 1 << 30
"""Most bytes of an unpacked chunk, or of one row if that is larger. A writer's chunks take 1
MiB."""

_BFLOAT16_FILL: Final = re.compile("NaN|Infinity|-Infinity|0x[0-9a-fA-F]{4}")
"""Fill values of a bfloat16 array other than numbers, by the registered data type:
https://github.com/zarr-developers/zarr-extensions/tree/main/data-types/bfloat16"""


_KNOWN: Final = (
    "shape",
    "data_type",
    "chunk_grid",
    "chunk_key_encoding",
    "fill_value",
    "codecs",
    "attributes",
    "zarr_format",
    "node_type",
    "storage_transformers",
    "dimension_names",
)

_BLOSC_NUMBERS: Final = {"typesize": 255, "clevel": 9, "blocksize": MAX_CHUNK_BYTES}
_BLOSC_WORDS: Final = {
    "cname": ("zstd", "lz4", "lz4hc", "blosclz", "zlib", "snappy"),
    "shuffle": ("shuffle", "noshuffle", "bitshuffle"),
}


class MisfitError(ValueError):
    """The array does not fit its plan and record. The reader adds the place."""


def metadata_document(spec: ArraySpec, packing: Packing = PACKINGS[0]) -> dict[str, Any]:
    """The metadata of an array as a writer writes it."""
    layout = written_layout(spec, packing)
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    blosc = {
        "typesize": spec.item_bytes,
        "cname": "zstd",
        "clevel": 1,
        "shuffle": "shuffle",
        "blocksize": BLOCK_BYTES,
    }
    packed = {"packing": {"planes": f"zstd {ZSTD_VERSION}"}} if layout.by_planes else {}
    sharding = {
        "chunk_shape": [layout.chunk_rows, spec.width],
        "codecs": [little, {"name": "blosc", "configuration": blosc}],
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "shape": [spec.rows, spec.width],
        "data_type": spec.data_type,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [layout.object_rows, spec.width]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0 if spec.dtype.kind in "iu" else 0.0,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {"lpp": dict(spec.lpp)} | packed,
        "zarr_format": 3,
        "node_type": "array",
        "dimension_names": list(spec.dimension_names),
        "storage_transformers": [],
    }


def packing_of(spec: ArraySpec, metadata: ObjectRecord | None) -> Packing:
    """How the array of `spec` was packed: by the size and checksum of its `zarr.json`, so that the
    document itself may be damaged. As this release packs, where no release with the zstd of this
    machine wrote that document.
    """
    for packing in PACKINGS:
        if metadata == ObjectRecord.of([metadata_bytes(metadata_document(spec, packing))]):
            return packing
    return PACKINGS[0]


def group_document() -> dict[str, Any]:
    """The metadata that makes a directory of arrays a Zarr group, at `METADATA_KEY`."""
    return {"attributes": {}, "zarr_format": 3, "node_type": "group"}


def metadata_bytes(document: Mapping[str, Any]) -> bytes:
    """Metadata of an array or a group as stored."""
    return json.dumps(document, indent=2).encode()


def parse_layout(data: bytes, spec: ArraySpec, where: str) -> ArrayLayout:
    """The layout that the `zarr.json` of an array describes.

    where: place of the array, for the message. Raises FormatError(CORRUPT) unless it is the array
    of `spec`, in a layout that section 5 allows.
    """
    try:
        if len(data) > MAX_METADATA_BYTES:
            raise MisfitError(f"metadata of more than {MAX_METADATA_BYTES} bytes")
        document = load_json(data, f"{where}/{METADATA_KEY}", fractions=True)
        return _chunk_layout(_check_document(document, spec), spec)
    except MisfitError as error:
        raise misfit(where, error) from None


def misfit(where: str, error: object) -> FormatError:
    """The error for an array at `where` that does not fit its plan and record."""
    return FormatError(
        f"{where}: not the array that was committed ({error}). {ADVICE}", kind=ErrorKind.CORRUPT
    )


def _check_document(document: object, spec: ArraySpec) -> Mapping[str, Any]:
    """Metadata that describes the array of `spec`. Raises MisfitError for the first difference."""
    if not isinstance(document, dict):
        raise MisfitError("its metadata is no object")
    shape = document.get("shape")
    if shape != [spec.rows, spec.width]:
        raise MisfitError(f"shape {str(shape)[:60]}, should be {(spec.rows, spec.width)}")
    attributes = document.get("attributes")
    lpp = attributes.get("lpp") if isinstance(attributes, dict) else None
    expected: dict[str, object] = {
        "zarr_format": 3,
        "node_type": "array",
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    }
    actual = {name: document.get(name) for name in expected}
    if lpp is not None:  # for other readers; this package reads nothing from it
        expected["attributes.lpp"], actual["attributes.lpp"] = dict(spec.lpp), lpp
    for name, value in expected.items():
        if actual[name] != value:
            raise MisfitError(f"{name} is {str(actual[name])[:60]}, should be {value}")
    _refuse_more(document, _KNOWN)
    if document.get("storage_transformers", []) != []:
        raise MisfitError("it has storage transformers")
    _check_type(document, spec)
    _check_dimension_names(document.get("dimension_names"))
    return document


def _chunk_layout(document: Mapping[str, Any], spec: ArraySpec) -> ArrayLayout:
    """Position and codec of chunks. Raises MisfitError for a layout that readers may not accept."""
    grid = _configuration(document.get("chunk_grid"), "regular", ("chunk_shape",))
    stored = _chunk_rows(grid["chunk_shape"], spec.width)
    codecs = _codecs(document.get("codecs"))
    if len(codecs) > 1:
        raise MisfitError("codecs beside sharding_indexed")
    sharding = _configuration(
        codecs[0],
        "sharding_indexed",
        ("chunk_shape", "codecs", "index_codecs", "index_location"),
    )
    inner = _chunk_rows(sharding["chunk_shape"], spec.width)
    _bound(inner, spec.row_bytes)
    layout = ArrayLayout(
        spec=spec, chunk_rows=inner, compressed=_compressed(_codecs(sharding["codecs"]), spec)
    )
    if stored != layout.object_rows:
        raise MisfitError(f"an object of {stored} rows, should be {layout.object_rows}")
    if sharding["index_location"] != "end":
        raise MisfitError("the index of its chunks does not lie at the end")
    if _names_after_bytes(_codecs(sharding["index_codecs"])) != ["crc32c"]:
        raise MisfitError("the codecs of its index are not little bytes and crc32c")
    return layout


def _check_type(document: Mapping[str, object], spec: ArraySpec) -> None:
    """Check the type of a value, and the fill value, which is never used: every chunk exists."""
    data_type, fill = document.get("data_type"), document.get("fill_value")
    number = type(fill) in (int, float)
    if data_type == "bfloat16" and spec.lpp.get("dtype") == "bfloat16":
        fits = number or (isinstance(fill, str) and _BFLOAT16_FILL.fullmatch(fill) is not None)
    elif data_type == spec.data_type:
        fits = number and fill == 0
    else:
        raise MisfitError(f"data_type is {str(data_type)[:60]}, should be {spec.data_type}")
    if not fits:
        raise MisfitError(f"fill_value is {str(fill)[:40]}, should be 0")


def _check_dimension_names(names: object) -> None:
    """Check the names for other readers; this package ignores them."""
    if names is None:
        return
    if (
        not isinstance(names, list)
        or len(names) != 2
        or not all(name is None or isinstance(name, str) for name in names)
    ):
        raise MisfitError(f"dimension_names are {str(names)[:60]}, should be two names")


def _compressed(codecs: list[Any], spec: ArraySpec) -> bool:
    """Whether the codecs of a chunk are `bytes` and `blosc`, or `bytes` alone."""
    if spec.item_bytes == 1 and codecs[0] == {"name": "bytes"}:  # as zarr-python writes it
        names = [codec.get("name") for codec in codecs[1:]]
    else:
        names = _names_after_bytes(codecs)
    if names == ["blosc"]:
        _check_blosc(codecs[1])
    elif names:
        raise MisfitError(f"codecs {str(names)[:80]} after bytes, should be blosc")
    return bool(names)


def _names_after_bytes(codecs: list[Any]) -> list[object]:
    """Names of the codecs that follow `bytes`, which must come first, in little-endian order."""
    if _configuration(codecs[0], "bytes", ("endian",))["endian"] != "little":
        raise MisfitError("codecs that are not little-endian")
    return [codec.get("name") for codec in codecs[1:]]


def _check_blosc(codec: object) -> None:
    """Check the settings of a compressor by Zarr's and Blosc's rules; only `typesize` is used."""
    settings = _configuration(codec, "blosc", (*_BLOSC_NUMBERS, *_BLOSC_WORDS))
    for name, most in _BLOSC_NUMBERS.items():
        if type(settings[name]) is not int or not 0 <= settings[name] <= most:
            raise MisfitError(f"blosc with {name} {str(settings[name])[:40]}")
    for name, words in _BLOSC_WORDS.items():
        if settings[name] not in words:
            raise MisfitError(f"blosc with {name} {str(settings[name])[:40]}")


def _codecs(value: object) -> list[Any]:
    if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
        raise MisfitError("codecs that are no list of objects")
    return value


def _configuration(value: object, name: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """The settings of the part of the metadata called `name`: exactly `keys`."""
    if not isinstance(value, dict) or value.get("name") != name:
        raise MisfitError(f"{str(value)[:60]}, should be {name}")
    configuration = value.get("configuration")
    if not isinstance(configuration, dict) or set(configuration) != set(keys):
        raise MisfitError(f"{name} is not set to {', '.join(keys)}")
    return configuration


def _refuse_more(document: Mapping[str, object], known: tuple[str, ...]) -> None:
    if more := sorted(set(document) - set(known)):
        raise MisfitError(f"metadata with {str(more)[:80]}")


def _chunk_rows(shape: object, width: int) -> int:
    if not isinstance(shape, list) or len(shape) != 2 or shape[1] != width:
        raise MisfitError(f"chunks of {str(shape)[:60]} where a row has {width} columns")
    rows = shape[0]
    if type(rows) is not int or rows < 1:
        raise MisfitError(f"chunks of {str(rows)[:60]} rows")
    return rows


def _bound(rows: int, row_bytes: int) -> None:
    if rows > 1 and rows * row_bytes > MAX_CHUNK_BYTES:
        raise MisfitError(f"chunks of {rows * row_bytes} bytes, {MAX_CHUNK_BYTES} are the most")
