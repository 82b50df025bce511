"""One reader per kind of text file: rows as (place, text), one at a time.

`place` names the row for a message ("a.jsonl, line 3"). A text of None is a row that has
none. What a reader cannot read raises InputError with that place.
"""

import codecs
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeAlias

from lpp.store.errors import ErrorKind, InputError

Row: TypeAlias = tuple[str, str | None]

MAX_PASSAGE_BYTES: Final = 16 << 20
"""A longer line or paragraph is a mistake in the file, and would not fit in bounded memory."""

_BATCH_ROWS: Final = 256
"""Rows of a Parquet batch: at a few kilobytes each, about a megabyte."""


def jsonl_rows(path: Path, field: str) -> Iterator[Row]:
    """One row per line: the string under `field` of its JSON object."""
    for place, line in _lines(path):
        if not line.strip():
            yield place, None
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _invalid(
                f"{place}: not JSON ({error}). "
                'Each line should be one object, such as {"text": "..."}.'
            ) from None
        yield place, _text_of(record, field, place)


def _text_of(record: Any, field: str, place: str) -> str | None:
    if not isinstance(record, dict):
        raise _invalid(
            f"{place}: {_json_type(record)} instead of an object. "
            'Each line should be one object, such as {"text": "..."}.'
        )
    if field not in record:
        raise _no_field(place, field, list(record))
    text = record[field]
    if text is not None and not isinstance(text, str):
        raise _invalid(
            f"{place}: field {field!r} holds {_json_type(text)} instead of a string. "
            "Choose a field of text with --text-field, or correct the line."
        )
    return text


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a string"}
    return names.get(type(value), "a list" if isinstance(value, list) else "an object")


def txt_rows(path: Path, field: str) -> Iterator[Row]:
    """One row per paragraph: lines up to a blank one, joined by LF. `field` has no meaning."""
    del field
    lines: list[str] = []
    size, start = 0, path.name
    for place, line in _lines(path):
        if line.strip():
            start = start if lines else place
            lines.append(line)
            size += len(line)
            if size > MAX_PASSAGE_BYTES:
                raise _too_long(start, "paragraph", "Part paragraphs by blank lines.")
        elif lines:
            yield start, "\n".join(lines)
            lines, size = [], 0
    if lines:
        yield start, "\n".join(lines)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """(place, line without its end), UTF-8, without a byte order mark."""
    offset = 0
    with path.open("rb") as stream:
        for number in count(1):
            raw = stream.readline(MAX_PASSAGE_BYTES + 1)
            if not raw:
                return
            place = f"{path}, line {number}"
            if len(raw) > MAX_PASSAGE_BYTES:
                raise _too_long(place, "line", "Write one passage per line.")
            yield place, _decode(raw, path, number, offset)
            offset += len(raw)


def _decode(raw: bytes, path: Path, number: int, offset: int) -> str:
    mark = len(codecs.BOM_UTF8) if number == 1 and raw.startswith(codecs.BOM_UTF8) else 0
    try:
        return raw[mark:].decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        at = mark + error.start
        utf16 = offset == 0 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        encoding = "UTF-16" if utf16 else "ISO-8859-1"
        raise _invalid(
            f"{path}: not UTF-8: byte 0x{raw[at]:02x} at offset {offset + at}, line {number}. "
            f"Convert it, for example: iconv -f {encoding} -t UTF-8 {path}"
        ) from None


def parquet_rows(path: Path, field: str) -> Iterator[Row]:
    """One row per row: the string in column `field`, read in small batches."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check_column(path, file.schema_arrow, field)
            row = count()
            for batch in file.iter_batches(_BATCH_ROWS, columns=[field]):
                for text in batch.column(0).to_pylist():
                    yield f"{path}, row {next(row)}", text
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: not a readable Parquet file ({error}). Write it again, or see what it "
            f"holds: duckdb -c \"SELECT * FROM '{path}' LIMIT 3\"",
            kind=ErrorKind.CORRUPT,
        ) from None


def _check_column(path: Path, schema: Any, field: str) -> None:
    import pyarrow as pa

    if schema.names.count(field) != 1:
        raise _no_field(str(path), field, schema.names)
    kind = schema.field(field).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if value not in (pa.string(), pa.large_string(), pa.string_view()):
        raise _invalid(
            f"{path}: column {field!r} holds {kind} instead of strings. Choose a column of text "
            f"with --text-field; there are: {', '.join(schema.names)}."
        )


def _no_field(place: str, field: str, found: list[str]) -> InputError:
    fields = ", ".join(repr(name) for name in found) or "none"
    return _invalid(
        f"{place}: no field {field!r}; its fields: {fields}. Name one with --text-field."
    )


def _too_long(place: str, unit: str, advice: str) -> InputError:
    return _invalid(f"{place}: a {unit} of more than {MAX_PASSAGE_BYTES >> 20} MiB. {advice}")


def _invalid(message: str) -> InputError:
    return InputError(message, kind=ErrorKind.INVALID_VALUE)
