"""Local text as a corpus: `.jsonl`, `.parquet`, `.csv`, `.txt`, or a folder of them.

    .jsonl     one JSON object a line; the text is its field `text`, or --text-field
    .parquet   the text is the column `text`, or --text-field
    .csv       the same; the first line has the names, and every value is text (RFC 4180)
    .txt       one passage per paragraph; blank lines separate paragraphs
    folder     every such file below it except hidden ones, ordered by relative path

Files are read as streams: memory is bounded by the longest passage. Text is UTF-8, with or without
byte order mark; lines end with LF or CRLF. A row whose text is null, blank or not UTF-8 is set
aside but counted, so that `source_row` locates the other rows. Any other text is used unchanged.

For each kind of file, a reader yields rows as (place, text, fields). place: names the row in
messages, such as "a.jsonl, line 3". text: None for a row without text, `Unreadable` if it is no
valid text. fields: the requested ones. A malformed file raises InputError with the place.
"""

import codecs
import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeAlias

import xxhash

from lpp.capture.corpus.fields import Fields
from lpp.capture.corpus.passages import Corpus, Passage, Refused, Streamed
from lpp.store.errors import ErrorKind, InputError
from lpp.store.objects.place import check_regular

DEFAULT_FIELD: Final = "text"

_HASH_BLOCK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row whose text is invalid."""

    reason: str
    """`not_utf8`, or `no_text` for half a surrogate pair."""
    detail: str


Text: TypeAlias = str | Unreadable | None
CorpusRow: TypeAlias = tuple[str, Text, Mapping[str, object]]

MAX_PASSAGE_BYTES: Final = 16 << 20
"""A longer line or paragraph is taken for a mistake in the file; this also bounds memory."""

_BATCH_ROWS: Final = 256
"""Rows of a Parquet batch: at a few kilobytes each, about a megabyte."""


def open_files(path: Path, *, text_field: str | None = None, fields: Sequence[str] = ()) -> Corpus:
    """The corpus of an existing file or folder. Every byte is read once, for the fingerprint.

    text_field: the field or column of the text; `text` by default. fields: those to keep with the
    prompts. Raises InputError if there is no file of a known kind, or it is empty or unreadable.
    """
    files = _find_files(path)
    for file in files:
        check_regular(file)
    names = [path.name] if path.is_file() else [f.relative_to(path).as_posix() for f in files]
    without_fields = all(file.suffix.lower() == ".txt" for file in files)
    for option, name in (("--text-field", text_field), ("--fields", next(iter(fields), None))):
        if name is not None and without_fields:
            raise InputError(
                f"{path}: text files have no fields to choose {name!r} from. "
                f"Leave {option} out, or give .jsonl, .parquet or .csv files.",
                kind=ErrorKind.INVALID_VALUE,
            )
    if not any(file.stat().st_size for file in files):
        raise InputError(f"{path}: empty. Give a file with text.", kind=ErrorKind.INVALID_VALUE)
    field, refused = text_field or DEFAULT_FIELD, Refused()
    more = Fields(fields, text=field)
    return Corpus(
        name=path.resolve().name,
        revision=None,
        fingerprint=_fingerprint(files, names),
        rule="paragraphs" if without_fields else f"field {field}",
        files=tuple(names),
        passages=Streamed(lambda: _passages(files, field, more, refused)),
        refused=refused,
        fields=more,
    )


def _passages(files: list[Path], field: str, more: Fields, refused: Refused) -> Iterator[Passage]:
    row = 0
    for file in files:
        for place, text, fields in _READERS[file.suffix.lower()](file, field, more):
            if isinstance(text, Unreadable):
                refused.add(row, text.reason, text.detail)
            elif text and not text.isspace():
                yield Passage(row, text, fields, place)
            else:
                refused.add(row, "empty", place)
            row += 1


def _find_files(path: Path) -> list[Path]:
    if not path.is_dir():
        if path.suffix.lower() not in _READERS:
            raise InputError(
                f"{path}: not one of the kinds of text read here: {_FORMATS}. "
                'Turn it into lines of {"text": "..."} and name it .jsonl.',
                kind=ErrorKind.INVALID_VALUE,
            )
        return [path]
    files = [
        Path(folder, name)
        for folder, folders, names in _walk(path)
        for name in names
        if Path(name).suffix.lower() in _READERS and not name.startswith(".")
    ]
    if not files:
        raise InputError(
            f"{path}: no {_FORMATS} files in this folder or below it. "
            "Give the folder that holds the texts.",
            kind=ErrorKind.NOT_FOUND,
        )
    return sorted(files, key=lambda file: file.relative_to(path).as_posix())


def _walk(path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk` without hidden folders. Does not follow links to folders, so it terminates."""
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield folder, folders, names


def _fingerprint(files: list[Path], names: list[str]) -> str:
    """xxh3_128 over name, size and content of every file, in order."""
    digest = xxhash.xxh3_128()
    for file, name in zip(files, names, strict=True):
        raw = name.encode("utf-8", "surrogateescape")
        digest.update(len(raw).to_bytes(8, "little") + raw)
        try:
            with file.open("rb") as stream:
                digest.update(os.fstat(stream.fileno()).st_size.to_bytes(8, "little"))
                while block := stream.read(_HASH_BLOCK):
                    digest.update(block)
        except OSError as error:
            raise InputError(
                f"{file}: cannot be read ({error.strerror}). Check its permissions: ls -l {file}",
                kind=ErrorKind.INVALID_VALUE,
            ) from None
    return digest.hexdigest()


def jsonl_rows(path: Path, field: str, more: Fields) -> Iterator[CorpusRow]:
    """One row per line: the string under `field` of its JSON object."""
    for place, line in _lines(path):
        if isinstance(line, Unreadable) or not line.strip():
            yield place, line if isinstance(line, Unreadable) else None, {}
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _invalid(
                f"{place}: not JSON ({error}). "
                'Each line should be one object, such as {"text": "..."}.'
            ) from None
        yield place, _text_of(record, field, place), more.of(record)


def _text_of(record: Any, field: str, place: str) -> Text:
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
    return None if text is None else encodable(text, place)


def encodable(text: str, place: str) -> str | Unreadable:
    r"""`text` if UTF-8 can encode it; JSON's `\ud800` alone is a string that it cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        where = f"half a surrogate pair at character {error.start}"
        return Unreadable("no_text", f"{place}: {where}")
    return text


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a string"}
    return names.get(type(value), "a list" if isinstance(value, list) else "an object")


def csv_rows(path: Path, field: str, more: Fields) -> Iterator[CorpusRow]:
    """One row per record after the first, which has the names: the text in column `field`."""
    csv.field_size_limit(max(csv.field_size_limit(), MAX_PASSAGE_BYTES))
    # bytes that are not UTF-8 become surrogates, which UTF-8 cannot encode
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        records = csv.reader(stream, strict=True)
        try:
            names = next(records, [])
            if names.count(field) != 1:
                raise _no_field(str(path), field, names)
            wanted = _columns(path, names, more)
            start = records.line_num + 1
            for values in records:
                place, start = f"{path}, line {start}", records.line_num + 1
                if not values:  # a blank line
                    yield place, None, {}
                    continue
                if len(values) != len(names):
                    raise _invalid(
                        f"{place}: {len(values)} columns, where the first line has {len(names)}. "
                        "Put quotation marks around texts that hold commas."
                    )
                record = dict(zip(names, values, strict=True))
                text = encodable(record[field], place)
                if isinstance(text, Unreadable):
                    text = Unreadable("not_utf8", f"{place}: not UTF-8")
                yield place, text, {name: record[name] for name in wanted}
        except csv.Error as error:
            raise _invalid(
                f"{path}, line {records.line_num}: not CSV ({error}). Put quotation marks around "
                "texts that hold commas, line ends or quotation marks, and double the latter."
            ) from None


def txt_rows(path: Path, field: str, more: Fields) -> Iterator[CorpusRow]:
    """One row per paragraph: lines up to a blank one, joined by LF; without fields."""
    del field, more
    lines: list[str | Unreadable] = []
    size, start = 0, path.name
    for place, line in _lines(path):
        if isinstance(line, Unreadable) or line.strip():
            start = start if lines else place
            lines.append(line)
            size += len(line) if isinstance(line, str) else 0
            if size > MAX_PASSAGE_BYTES:
                raise _too_long(start, "paragraph", "Part paragraphs by blank lines.")
        elif lines:
            yield start, _paragraph(lines), {}
            lines, size = [], 0
    if lines:
        yield start, _paragraph(lines), {}


def _paragraph(lines: list[str | Unreadable]) -> str | Unreadable:
    """The lines joined, or the first one that is invalid."""
    bad = [line for line in lines if isinstance(line, Unreadable)]
    return bad[0] if bad else "\n".join(line for line in lines if isinstance(line, str))


def _lines(path: Path) -> Iterator[tuple[str, str | Unreadable]]:
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


def _decode(raw: bytes, path: Path, number: int, offset: int) -> str | Unreadable:
    mark = len(codecs.BOM_UTF8) if number == 1 and raw.startswith(codecs.BOM_UTF8) else 0
    try:
        return raw[mark:].decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        at = mark + error.start
        what = f"{path}: not UTF-8: byte 0x{raw[at]:02x} at offset {offset + at}, line {number}"
        if offset == 0 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise _invalid(  # the whole file has another encoding
                f"{what}. Convert it, for example: iconv -f UTF-16 -t UTF-8 {path}"
            ) from None
        return Unreadable("not_utf8", what)


def parquet_rows(path: Path, field: str, more: Fields) -> Iterator[CorpusRow]:
    """One row per row of the table: the string in column `field`. Reads small batches."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check_column(path, file.schema_arrow, field)
            names = _columns(path, file.schema_arrow.names, more)
            row = count()
            for batch in file.iter_batches(_BATCH_ROWS, columns=[field, *names]):
                values = [_values(batch.column(name)) for name in names]
                for text, *others in zip(_strings(batch.column(field)), *values, strict=True):
                    place = f"{path}, row {next(row)}"
                    fields = dict(zip(names, others, strict=True))
                    if isinstance(text, bytes):
                        yield place, Unreadable("not_utf8", f"{place}: not UTF-8"), fields
                    else:
                        yield place, text, fields
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: not a readable Parquet file ({error}). Write it again, or see what it "
            f"holds: duckdb -c \"SELECT * FROM '{path}' LIMIT 3\"",
            kind=ErrorKind.CORRUPT,
        ) from None


def _columns(path: Path, there: list[str], more: Fields) -> list[str]:
    """The columns `to_read` that a file has."""
    more.note(there)
    if twice := [name for name in more.requested if there.count(name) > 1]:
        raise _invalid(
            f"{path}: column {twice[0]!r} is there {there.count(twice[0])} times. Write "
            "the file with distinct names, or leave it out of --fields."
        )
    return [name for name in more.to_read if there.count(name) == 1]


def _values(column: Any) -> list[Any]:
    """Values of a column of any type. Times become text, with every digit that Arrow has."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.string())
    elif pa.types.is_floating(column.type):
        column = column.cast(pa.float64())
    elif _is_text(column.type):
        return _strings(column)
    values: list[Any] = column.to_pylist()
    return values


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _strings(column: Any) -> list[str | bytes | None]:
    """Values of a column of strings; bytes for those that are not UTF-8."""
    import pyarrow as pa

    try:
        values: list[str | bytes | None] = column.to_pylist()
        return values
    except UnicodeDecodeError:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        return [_string(value) for value in column.cast(pa.large_binary()).to_pylist()]


def _string(value: bytes | None) -> str | bytes | None:
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _check_column(path: Path, schema: Any, field: str) -> None:
    import pyarrow as pa

    if schema.names.count(field) != 1:
        raise _no_field(str(path), field, schema.names)
    kind = schema.field(field).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not _is_text(value):
        raise _invalid(
            f"{path}: column {field!r} holds {kind} instead of strings. Choose a column of text "
            f"with --text-field; there are: {', '.join(schema.names)}."
        )


def _no_field(place: str, field: str, names: list[str]) -> InputError:
    fields = ", ".join(repr(name) for name in names) or "none"
    return _invalid(
        f"{place}: no field {field!r}; its fields: {fields}. Name one with --text-field."
    )


def _too_long(place: str, unit: str, advice: str) -> InputError:
    return _invalid(f"{place}: a {unit} of more than {MAX_PASSAGE_BYTES >> 20} MiB. {advice}")


def _invalid(message: str) -> InputError:
    return InputError(message, kind=ErrorKind.INVALID_VALUE)


_READERS: Final[dict[str, Callable[[Path, str, Fields], Iterator[CorpusRow]]]] = {
    ".jsonl": jsonl_rows,
    ".parquet": parquet_rows,
    ".csv": csv_rows,
    ".txt": txt_rows,
}
_FORMATS: Final = ", ".join(_READERS)
