"""JSON documents of a store: canonical bytes, and parsing that reports every problem at once.

The canonical form is RFC 8785 (JSON Canonicalization Scheme), on disk and for hashes.

A document is declared as a frozen dataclass. Reading checks each field against its annotation
(SPEC.md section 3): `str`, `int`, `bool`, `Literal`, unions with `None`, `tuple[X, ...]`,
`Mapping[str, X]` and nested dataclasses. Fields a release does not know are ignored; a field
that has a default may be absent.
"""

import dataclasses
import functools
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar

from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.keys import MAX_DOCUMENT_BYTES

Record = TypeVar("Record")

MAX_DEPTH: Final = 32
"""Lists and objects inside each other. Ours reach 4."""

MAX_INTEGER: Final = (1 << 53) - 1
"""Largest magnitude of an integer: a double, JavaScript's number, holds it exactly."""

OMITTED: Final = {"omitted": True}
"""Metadata of a field that is omitted at its default, so that hashes of older documents stay
valid."""

BESIDE: Final = {"beside": True}
"""Metadata of a field that is no part of the document."""


_BY_CODE_POINT: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
)


def canonical_json(document: object) -> bytes:
    """The document as RFC 8785 writes it: equal documents have equal bytes.

    Documents of a store hold no fractions, so the RFC's rules for floating point do not apply.
    ValueError for values that are not JSON.

    >>> canonical_json({"b": [1, None], "a": "\\u20ac\\n"}).decode()
    '{"a":"\u20ac\\\\n","b":[1,null]}'
    """
    if _has_plain_keys(document):
        return _canonical(document)
    return _json(_sorted(document), separators=(",", ":"))


def is_canonical(document: object, data: bytes) -> bool:
    """Whether `data`, from which `load_json` read `document`, is its canonical form."""
    return _canonical(document) == data


def _canonical(document: object) -> bytes:
    """`canonical_json` of a document whose objects are dicts with keys of text."""
    # sorted by code point in C: a tenth of the time
    data = _BY_CODE_POINT.encode(document).encode()
    if data.isascii():  # then both orders are one
        return data
    return _json(_sorted(document), separators=(",", ":"))


def wide_integers(document: object, place: str = "") -> list[str]:
    """Where `document` has integers beyond `MAX_INTEGER`, which the format does not allow."""
    if isinstance(document, Mapping):
        items = [(f"{place}.{key}".lstrip("."), value) for key, value in document.items()]
    elif isinstance(document, (list, tuple)):
        items = [(f"{place}[{index}]", value) for index, value in enumerate(document)]
    else:
        wide = isinstance(document, int) and abs(document) > MAX_INTEGER
        return [f"{place} is {document}"] if wide else []
    return [problem for inner, value in items for problem in wide_integers(value, inner)]


def _json(document: object, **options: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, allow_nan=False, **options).encode()


_LEAVES: Final = frozenset((str, int, bool, type(None)))
"""Types of most values, which hold no others."""


def _has_plain_keys(value: Any) -> bool:
    """Whether every object in `value` is a dict whose keys are strings."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if not all(type(key) is str for key in value):
                return False
            waiting += [item for item in value.values() if type(item) not in _LEAVES]
        elif isinstance(value, (list, tuple)):
            waiting += [item for item in value if type(item) not in _LEAVES]
        elif isinstance(value, Mapping):
            return False
    return True


def _sorted(value: Any) -> Any:
    """`value` with the keys of every object by their UTF-16 code units, as the RFC sorts them."""
    if isinstance(value, Mapping):
        keys = sorted(value, key=lambda key: str(key).encode("utf-16-be", "surrogatepass"))
        return {key: _sorted(value[key]) for key in keys}
    if isinstance(value, (list, tuple)):
        return [_sorted(item) for item in value]
    return value


def document_hash(document: object) -> str:
    """SHA-256 of the canonical bytes, in hex."""
    return hashlib.sha256(canonical_json(document)).hexdigest()


def to_document(record: Any) -> dict[str, Any]:
    """The JSON document of a dataclass; tuples become lists, mappings become plain dicts."""
    inside = [f for f in dataclasses.fields(record) if not f.metadata.get("beside")]
    values = {field: getattr(record, field.name) for field in inside}
    return {
        field.name: _plain(value)
        for field, value in values.items()
        if not field.metadata.get("omitted") or (value and value != field.default)
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_document(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def load_json(data: bytes, where: str, *, fractions: bool = False) -> object:
    """Decode one document; FormatError(CORRUPT) names `where` it lies.

    fractions: whether numbers other than integers may occur, as in documents of other formats.
    """
    try:
        if len(data) > MAX_DOCUMENT_BYTES:
            raise ValueError(f"more than {MAX_DOCUMENT_BYTES} bytes")
        document = (_FRACTIONS if fractions else _INTEGERS).decode(data.decode())
        if data.count(b"{") + data.count(b"[") > MAX_DEPTH:  # of most documents: no
            _check_depth(document)
        if fractions or b"\\u" in data:
            # json takes 1e999 and half surrogates: values that could not be hashed later
            _json(document)
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{where}: not a JSON document ({error}).", kind=ErrorKind.CORRUPT
        ) from None
    return document


def _bounded_int(text: str) -> int:
    value = int(text)  # more than some thousand digits are a ValueError
    if abs(value) > MAX_INTEGER:
        raise ValueError(f"an integer beyond 2^53: {text[:24]}")
    return value


def _no_fraction(text: str) -> float:
    raise ValueError(f"a number that is no integer: {text[:24]}")


def _no_constant(text: str) -> float:
    raise ValueError(f"a number that is not JSON compliant: {text}")


_INTEGERS: Final = json.JSONDecoder(
    parse_int=_bounded_int, parse_float=_no_fraction, parse_constant=_no_constant
)
_FRACTIONS: Final = json.JSONDecoder(parse_int=_bounded_int, parse_constant=_no_constant)


def _check_depth(document: object) -> None:
    level = [document]
    for _ in range(MAX_DEPTH):
        containers = [part for part in level if isinstance(part, (dict, list))]
        if not containers:
            return
        level = [p for c in containers for p in (c.values() if isinstance(c, dict) else c)]
    raise ValueError(f"nested more than {MAX_DEPTH} deep")


def validate_document(record_type: type, document: object) -> list[str]:
    """Every reason `document` is not a `record_type`, with its place; empty when it is one."""
    problems: list[str] = []
    _read(record_type, document, "", problems)
    return problems


def parse_document(record_type: type[Record], document: object, where: str) -> Record:
    """Build a `record_type`, or raise FormatError(CORRUPT) with all problems together."""
    problems: list[str] = []
    record = _read(record_type, document, "", problems)
    if problems:
        raise FormatError(f"{where}: " + "; ".join(problems) + ".", kind=ErrorKind.CORRUPT)
    return typing.cast("Record", record)


def _read(kind: Any, value: Any, path: str, problems: list[str]) -> Any:
    """`value` as `kind`; what does not fit is appended to `problems` and read as None."""
    if type(value) is kind:  # str, int or bool: most values of a record, and a run has 20,000
        return value
    is_record, origin, arguments, _ = _form(kind)
    if is_record:
        return _read_record(typing.cast("type", kind), value, path, problems)
    if origin is Literal:
        fits = any(value == choice and type(value) is type(choice) for choice in arguments)
        return value if fits else _misfit(f"one of {list(arguments)}", value, path, problems)
    if origin in (types.UnionType, typing.Union):
        return _read_union(arguments, value, path, problems)
    if origin in (tuple, Mapping):
        return _read_many(origin, arguments, value, path, problems)
    # not by isinstance, which would accept True as an int
    return _misfit(f"{kind.__name__}", value, path, problems)


def _read_many(
    origin: Any, arguments: tuple[Any, ...], value: Any, path: str, problems: list[str]
) -> Any:
    if origin is tuple and isinstance(value, list):
        return tuple(_read(arguments[0], v, f"{path}[{i}]", problems) for i, v in enumerate(value))
    if origin is Mapping and isinstance(value, dict):
        return {k: _read(arguments[1], v, f"{path}.{k}", problems) for k, v in value.items()}
    return _misfit("a list" if origin is tuple else "an object", value, path, problems)


def _read_union(arguments: tuple[Any, ...], value: Any, path: str, problems: list[str]) -> Any:
    if type(value) in arguments:  # text, a number or None
        return value
    for kind in arguments:
        attempt: list[str] = []
        result = _read(kind, value, path, attempt)
        if kind is not type(None) and not attempt:
            return result
    names = " or ".join(getattr(kind, "__name__", str(kind)) for kind in arguments)
    return _misfit(names, value, path, problems)


def _read_record(kind: type, value: Any, path: str, problems: list[str]) -> Any:
    if not isinstance(value, dict):
        return _misfit("an object", value, path, problems)
    values: dict[str, Any] = {}
    before = len(problems)
    for name, hint, optional in _fields(kind):
        if name not in value:
            if not optional:
                problems.append(f"{path}.{name} is missing".lstrip("."))
            continue
        item = value[name]
        if type(item) is not hint:  # as most are: their place is not needed
            item = _read(hint, item, f"{path}.{name}".lstrip("."), problems)
        values[name] = item
    return kind(**values) if len(problems) == before else None


_forms: Final[dict[int, tuple[bool, Any, tuple[Any, ...], Any]]] = {}


def _form(kind: Any) -> tuple[bool, Any, tuple[Any, ...], Any]:
    """Whether an annotation is a dataclass, its origin, its arguments, and itself.

    Kept by identity: `int | str` equals `str | int`, and messages name types in the order declared.
    """
    form = _forms.get(id(kind))
    if form is None:
        is_record = dataclasses.is_dataclass(kind)
        form = is_record, typing.get_origin(kind), typing.get_args(kind), kind
        _forms[id(kind)] = form
    return form


@functools.cache
def _fields(kind: Any) -> tuple[tuple[str, Any, bool], ...]:
    """Fields of a dataclass that its constructor takes: name, type, and whether it may be
    absent. Looking them up takes longer than reading a record.
    """
    hints = typing.get_type_hints(kind)
    missing = dataclasses.MISSING
    return tuple(
        (f.name, hints[f.name], f.default is not missing or f.default_factory is not missing)
        for f in dataclasses.fields(kind)
        if f.init and not f.metadata.get("beside")
    )


def _misfit(expected: str, value: object, path: str, problems: list[str]) -> None:
    shown = repr(value)
    problems.append(f"{path or 'document'} should be {expected}, is {shown[:60]}")
