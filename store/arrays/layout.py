"""What a site's Zarr array says that it holds, checked before Zarr opens it: SPEC.md section 5.

Zarr would look up any codec that some package of the machine registers, make arrays of any shape
and dtype, give its fill value for chunks that are not there, and unpack what each chunk declares.
So the metadata must say exactly what the record and the plan say, with codecs of a short list,
and each chunk must lie in its object and declare the size that it should have. Costs a read of 16
bytes for each chunk of about 2 MiB.
"""

import errno
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.documents import load_json
from lpp.store.format.plan import SiteSpec, StoredDtype
from lpp.store.objects.paths import ADVICE, plain_file, read_bounded
from lpp.store.objects.place import Place

NUMPY_DTYPE: Final[Mapping[StoredDtype, str]] = {
    "bfloat16": "uint16",
    "float16": "float16",
    "float32": "float32",
}
"""The array type that carries each stored dtype."""

Group: TypeAlias = Path | Mapping[str, memoryview]
"""A `hidden.zarr` or `moments.zarr`: the directory, or a site's objects in memory, by key."""

ITEM_BYTES: Final[Mapping[StoredDtype, int]] = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Bytes of a value."""

METADATA_KEY: Final = "zarr.json"
"""Metadata of a group or an array."""

MAX_METADATA_BYTES: Final = 1 << 20
"""Of a site's `zarr.json`; ours take 1,400."""

MAX_CHUNK_BYTES: Final = 1 << 30
"""Of a chunk unpacked, or one row where that takes more. Ours take 2 MiB."""

_HEADER: Final = struct.Struct("<4B3I")
"""Of a Blosc chunk: version, version of the codec, flags, typesize; nbytes, blocksize, cbytes."""

_ABSENT: Final = (1 << 64) - 1


class _MisfitError(ValueError):
    """The array is not what its plan and record say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """What an array of a group must be, by plan and record."""

    name: str
    """Of a site."""
    rows: int
    width: int
    data_type: str
    """As Zarr and NumPy have it."""
    item_bytes: int
    told: Mapping[str, Any]
    """Its attribute `lpp`, said to strangers."""

    @property
    def row_bytes(self) -> int:
        """Of a row unpacked."""
        return self.width * self.item_bytes


def site_array(site: SiteSpec, dtype: StoredDtype, rows: int) -> ArraySpec:
    """The array of `site` in `hidden.zarr`, of a shard of so many rows."""
    return ArraySpec(
        name=site.name,
        rows=rows,
        width=site.width,
        data_type=NUMPY_DTYPE[dtype],
        item_bytes=ITEM_BYTES[dtype],
        told={"site": site.name, "dtype": dtype, "convention": site.convention},
    )


def check_site(
    group: Group, where: str, site: SiteSpec, dtype: StoredDtype, rows: int, *, chunks: bool = True
) -> None:
    """The same of `site` in a `hidden.zarr`, of a shard of so many rows."""
    check_array(group, where, site_array(site, dtype, rows), chunks=chunks)


def check_array(group: Group, where: str, spec: ArraySpec, *, chunks: bool = True) -> None:
    """FormatError(CORRUPT) unless the array of that name in `group` is as `spec` has it.

    where: of the group, for the message. chunks: whether to look at its chunks as well: each must
    be there, lie in its object, and declare the size that it should have.
    """
    try:
        data = _part(group, f"{spec.name}/{METADATA_KEY}")
        metadata = data.read(0, MAX_METADATA_BYTES + 1)
        if len(metadata) > MAX_METADATA_BYTES:
            raise _MisfitError(f"metadata of more than {MAX_METADATA_BYTES} bytes")
        document = load_json(metadata, f"{where}/{spec.name}/{METADATA_KEY}", fractions=True)
        stored, inner, codecs = _layout(document, spec)
        for index in range(-(-spec.rows // stored) if chunks else 0):
            part = _part(group, f"{spec.name}/c/{index}/0")
            _check_object(part, stored, inner, spec.row_bytes, codecs)
    except (_MisfitError, OSError, struct.error) as error:
        raise FormatError(
            f"{where}/{spec.name}: not the array that was committed ({error}). {ADVICE}",
            kind=ErrorKind.CORRUPT,
        ) from None


def site_metadata(group: Place, site: str) -> Group:
    """As much of `group` as `check_array` needs without chunks."""
    if isinstance(group, Path):
        return group
    key = f"{site}/{METADATA_KEY}"
    try:
        return {key: memoryview(read_bounded(group, key, MAX_METADATA_BYTES))}
    except FileNotFoundError:
        return {}


class _Part:
    """An object of the group: a file, read where it is looked at, or bytes in memory."""

    def __init__(self, content: Path | memoryview) -> None:
        self._content = content
        self.size = content.nbytes if isinstance(content, memoryview) else content.stat().st_size

    def read(self, start: int, length: int) -> bytes:
        if isinstance(self._content, memoryview):
            return bytes(self._content[start : start + length])
        with self._content.open("rb") as file:
            file.seek(start)
            return file.read(length)


def _part(group: Group, key: str) -> _Part:
    if isinstance(group, Path):
        return _Part(plain_file(group, key))
    if key not in group:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
    return _Part(group[key])


def _layout(document: object, spec: ArraySpec) -> tuple[int, int | None, list[Any]]:
    """Rows of an object, rows of a chunk inside it (None: it is one chunk), codecs of a chunk."""
    if not isinstance(document, dict):
        raise _MisfitError("its metadata is no object")
    shape = document.get("shape")
    if shape != [spec.rows, spec.width]:
        raise _MisfitError(f"shape {str(shape)[:60]}, should be {(spec.rows, spec.width)}")
    attributes = document.get("attributes")
    lpp = attributes.get("lpp") if isinstance(attributes, dict) else None
    expected: dict[str, object] = {
        "zarr_format": 3,
        "node_type": "array",
        "data_type": spec.data_type,
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    }
    found = {name: document.get(name) for name in expected}
    if lpp is not None:  # said to strangers; nothing of ours is read from it
        expected["attributes.lpp"], found["attributes.lpp"] = dict(spec.told), lpp
    for name, value in expected.items():
        if found[name] != value:
            raise _MisfitError(f"{name} is {str(found[name])[:60]}, should be {value}")
    _refuse_more(document, _KNOWN)
    if document.get("storage_transformers", []) != []:
        raise _MisfitError("it has storage transformers")
    fill = document.get("fill_value")
    if type(fill) not in (int, float) or fill != 0:
        raise _MisfitError(f"fill_value is {str(fill)[:40]}, should be 0")
    row_bytes = spec.row_bytes
    grid = _configuration(document.get("chunk_grid"), "regular", ("chunk_shape",))
    stored = _chunk_rows(grid["chunk_shape"], spec.width)
    codecs = _codecs(document.get("codecs"))
    if codecs[0].get("name") != "sharding_indexed":
        _bound(stored, row_bytes)
        return stored, None, _check_codecs(codecs, endian_only=False)
    if len(codecs) > 1:
        raise _MisfitError("codecs beside sharding_indexed")
    sharding = _configuration(
        codecs[0],
        "sharding_indexed",
        ("chunk_shape", "codecs", "index_codecs", "index_location"),
    )
    inner = _chunk_rows(sharding["chunk_shape"], spec.width)
    _bound(inner, row_bytes)
    if stored % inner:
        raise _MisfitError(f"chunks of {inner} rows in objects of {stored}")
    if sharding["index_location"] != "end":
        raise _MisfitError("the index of its chunks does not lie at the end")
    _check_codecs(_codecs(sharding["index_codecs"]), endian_only=True)
    return stored, inner, _check_codecs(_codecs(sharding["codecs"]), endian_only=False)


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
)

_BLOSC_NUMBERS: Final = {"typesize": 255, "clevel": 9, "blocksize": MAX_CHUNK_BYTES}
_BLOSC_WORDS: Final = {
    "cname": ("zstd", "lz4", "lz4hc", "blosclz", "zlib", "snappy"),
    "shuffle": ("shuffle", "noshuffle", "bitshuffle"),
}


def _check_codecs(codecs: list[Any], *, endian_only: bool) -> list[Any]:
    """`bytes`, then for an index `crc32c`, for a chunk nothing or `blosc`."""
    first = _configuration(codecs[0], "bytes", ("endian",))
    second = "crc32c" if endian_only else "blosc"
    rest = [codec.get("name") for codec in codecs[1:]]
    if first["endian"] != "little" or rest not in ([second], [] if not endian_only else [second]):
        names = [codec.get("name") for codec in codecs]
        raise _MisfitError(f"codecs {str(names)[:80]}, should be little bytes and {second}")
    if rest == ["blosc"]:
        _check_blosc(codecs[1])
    return codecs


def _check_blosc(codec: object) -> None:
    """The settings of a compressor, as Zarr and Blosc take them; only `typesize` unpacks."""
    told = _configuration(codec, "blosc", (*_BLOSC_NUMBERS, *_BLOSC_WORDS))
    for name, most in _BLOSC_NUMBERS.items():
        if type(told[name]) is not int or not 0 <= told[name] <= most:
            raise _MisfitError(f"blosc with {name} {str(told[name])[:40]}")
    for name, words in _BLOSC_WORDS.items():
        if told[name] not in words:
            raise _MisfitError(f"blosc with {name} {str(told[name])[:40]}")


def _codecs(value: object) -> list[Any]:
    if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
        raise _MisfitError("codecs that are no list of objects")
    return value


def _configuration(value: object, name: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """What a part of the metadata called `name` is set to: `keys`, all and no others."""
    if not isinstance(value, dict) or value.get("name") != name:
        raise _MisfitError(f"{str(value)[:60]}, should be {name}")
    configuration = value.get("configuration")
    if not isinstance(configuration, dict) or set(configuration) != set(keys):
        raise _MisfitError(f"{name} is not set to {', '.join(keys)}")
    return configuration


def _refuse_more(document: Mapping[str, object], known: tuple[str, ...]) -> None:
    if more := sorted(set(document) - set(known)):
        raise _MisfitError(f"metadata with {str(more)[:80]}")


def _chunk_rows(shape: object, width: int) -> int:
    if not isinstance(shape, list) or len(shape) != 2 or shape[1] != width:
        raise _MisfitError(f"chunks of {str(shape)[:60]} where a row has {width} columns")
    rows = shape[0]
    if type(rows) is not int or rows < 1:
        raise _MisfitError(f"chunks of {str(rows)[:60]} rows")
    return rows


def _bound(rows: int, row_bytes: int) -> None:
    if rows > 1 and rows * row_bytes > MAX_CHUNK_BYTES:
        raise _MisfitError(f"chunks of {rows * row_bytes} bytes, {MAX_CHUNK_BYTES} are the most")


def _check_object(
    part: _Part, stored: int, inner: int | None, row_bytes: int, codecs: list[Any]
) -> None:
    """Every chunk of one object: inside it, none over another, of the size it should have."""
    chunks = [(0, part.size)] if inner is None else list(_index(part, stored // inner))
    unpacked = (inner or stored) * row_bytes
    end = 0
    for offset, length in sorted(chunks):
        if offset < end:
            raise _MisfitError("two chunks at one place")
        end = offset + length
        if len(codecs) == 1:
            declared, packed = length, length
        else:
            *_, declared, block, packed = _HEADER.unpack(part.read(offset, _HEADER.size))
            if block > max(declared, 1):
                raise _MisfitError(f"a chunk in blocks of {block} bytes")
        if declared != unpacked or packed != length:
            raise _MisfitError(
                f"a chunk of {length} bytes that unpacks to {declared}, should be {unpacked}"
            )


def _index(part: _Part, count: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of each chunk, from the index at the end: 16 bytes each, then a CRC."""
    start = part.size - 16 * count - 4
    if start < 0:
        raise _MisfitError(f"{part.size} bytes, too few for {count} chunks")
    for offset, length in struct.iter_unpack("<QQ", part.read(start, 16 * count)):
        if offset == length == _ABSENT:
            raise _MisfitError("a chunk is missing")
        if offset + length > start:
            raise _MisfitError("a chunk outside the object")
        yield offset, length
