"""Local text as a corpus: `.jsonl`, `.parquet`, `.arrow`, `.csv`, `.txt`, or a folder of them.

    .jsonl     one JSON object a line; the text is its field `text`, or --text-field
    .parquet   the text is the column `text`, or --text-field
    .arrow     the same, in an Arrow IPC file or stream
    .csv       the same; the first line has the names, and every value is text (RFC 4180)
    .txt       one passage per paragraph; blank lines separate paragraphs
    folder     every such file below it except hidden ones, ordered by relative path; of a data set
               that Hugging Face's `save_to_disk` wrote, the files that its state.json lists

Where the field holds lists, a row is a conversation or token ids (`lpp.capture.corpus.rows`).

Files are read as streams: memory is bounded by the longest passage. Text is UTF-8, with or without
byte order mark; lines end with LF or CRLF. A row whose text is null, blank or not UTF-8 is set
aside but counted, so that `source_row` locates the other rows. Any other text is used unchanged.

For each kind of file, a reader yields rows as (place, text, fields). place: names the row in
messages, such as "a.jsonl, line 3". text: the value of its field, as `rows` takes it. fields: the
requested ones. A malformed file raises InputError with the place.
"""

import codecs
import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeAlias

import xxhash

from lpp.capture.corpus.fields import Fields
from lpp.capture.corpus.passages import Corpus, Passage, Refused, Streamed
from lpp.capture.corpus.rows import (
    Unreadable,
    Value,
    as_list,
    default_field,
    encodable,
    is_list_of_rows,
    passage_of,
)
from lpp.store.errors import ErrorKind, InputError
from lpp.store.objects.place import check_regular

_HASH_BLOCK: Final = 1 << 20


CorpusRow: TypeAlias = tuple[str, Value, Mapping[str, object]]

MAX_PASSAGE_BYTES: Final = 16 << 20
"""A longer line or paragraph is taken for a mistake in the file; this also bounds memory."""

_BATCH_ROWS: Final = 256
"""Rows of a Parquet batch: at a few kilobytes each, about a megabyte."""

_TABLES: Final = {".parquet": "Parquet", ".arrow": "Arrow"}

_ARROW_FILE: Final = b"ARROW1"
"""What an Arrow IPC file begins with, and a stream does not."""


def open_files(
    path: Path,
    *,
    text_field: str | None = None,
    fields: Sequence[str] = (),
    token_fields: Sequence[str] = (),
) -> Corpus:
    """The corpus of an existing file or folder. Every byte is read once, for the fingerprint.

    text_field: the field or column of the text, the messages or the token ids; by default the first
    of `rows.DEFAULT_FIELDS` that the first row has. fields: those to keep with the prompts.
    token_fields: those with a value for each token. Raises InputError if there is no file of a
    known kind, or it is empty or unreadable.
    """
    files = _find_files(path)
    for file in files:
        check_regular(file)
    names = [path.name] if path.is_file() else [f.relative_to(path).as_posix() for f in files]
    without_fields = all(file.suffix.lower() == ".txt" for file in files)
    options = {"--text-field": [text_field], "--fields": fields, "--token-fields": token_fields}
    for option, name in ((option, next(iter(names), None)) for option, names in options.items()):
        if name is not None and without_fields:
            raise InputError(
                f"{path}: text files have no fields to choose {name!r} from. "
                f"Leave {option} out, or give .jsonl, .parquet or .csv files."
            )
    if not any(file.stat().st_size for file in files):
        raise InputError(f"{path}: empty. Give a file with text.")
    field, refused = text_field or default_field(_first_names(files)), Refused()
    more = Fields(fields, text=field, per_token=token_fields)
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
            passage = passage_of(row, as_list(field, text, place), fields, place, refused)
            if passage is not None:
                yield passage
            row += 1


def _first_names(files: Sequence[Path]) -> list[str]:
    """Names of the fields of the first row that has any; empty where a file does not say."""
    for file in files:
        if (kind := file.suffix.lower()) == ".jsonl":
            for _, line in _lines(file):
                try:
                    record = json.loads(line) if isinstance(line, str) and line.strip() else {}
                except (ValueError, RecursionError):
                    return []  # reading it will say so
                if record:
                    return list(record) if isinstance(record, dict) else []
        elif kind in _TABLES:
            with ExitStack() as stack:
                return list(_table(file, stack)[0].names)
    return []


def _find_files(path: Path) -> list[Path]:
    if path.is_dir() and (saved := _saved_files(path)):
        return saved
    if not path.is_dir():
        if path.suffix.lower() not in _READERS:
            raise InputError(
                f"{path}: not one of the kinds of text read here: {_FORMATS}. "
                'Turn it into lines of {"text": "..."} and name it .jsonl.'
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


def _saved_files(folder: Path) -> list[Path]:
    """The files of a data set of `save_to_disk` in order; empty for another folder.

    Such a folder may also hold what the library cached there.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(state.parent.name for state in folder.glob("*/state.json"))
        raise InputError(
            f"{folder}: a data set in splits: {', '.join(splits)}. Name one of their folders: "
            f"--corpus {folder / (splits or ['train'])[0]}"
        )
    check_regular(folder / "state.json")
    try:
        state = json.loads((folder / "state.json").read_text("utf-8"))
        return [folder / Path(entry["filename"]).name for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


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
                f"{file}: cannot be read ({error.strerror}). Check its permissions: ls -l {file}"
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
            raise InputError(
                f"{place}: not JSON ({error}). "
                'Each line should be one object, such as {"text": "..."}.'
            ) from None
        yield place, _value_of(record, field, place), more.of(record)


def _value_of(record: Any, field: str, place: str) -> Value:
    if not isinstance(record, dict):
        raise InputError(
            f"{place}: {_json_type(record)} instead of an object. "
            'Each line should be one object, such as {"text": "..."}.'
        )
    if field not in record:
        raise _no_field(place, field, list(record))
    value = record[field]
    if value is None or isinstance(value, str) or is_list_of_rows(value):
        return value  # type: ignore[no-any-return]
    raise InputError(
        f"{place}: field {field!r} holds {_json_type(value)} instead of a string, messages or "
        "token ids. Choose another field with --text-field, or correct the line."
    )


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
                    raise InputError(
                        f"{place}: {len(values)} columns, where the first line has {len(names)}. "
                        "Put quotation marks around texts that hold commas."
                    )
                record = dict(zip(names, values, strict=True))
                text = encodable(record[field], place)
                if isinstance(text, Unreadable):
                    text = Unreadable("not_utf8", f"{place}: not UTF-8")
                yield place, text, {name: record[name] for name in wanted}
        except csv.Error as error:
            raise InputError(
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
            raise InputError(  # the whole file has another encoding
                f"{what}. Convert it, for example: iconv -f UTF-16 -t UTF-8 {path}"
            ) from None
        return Unreadable("not_utf8", what)


def table_rows(path: Path, field: str, more: Fields) -> Iterator[CorpusRow]:
    """One row per row of the table: the value in column `field`. Reads small batches."""
    with ExitStack() as stack:
        schema, batches = _table(path, stack)
        _check_column(path, schema, field)
        names = _columns(path, schema.names, more)
        row = count()
        for batch in batches([field, *names]):
            values = [_values(batch.column(name)) for name in (field, *names)]
            for text, *others in zip(*values, strict=True):
                place = f"{path}, row {next(row)}"
                fields = dict(zip(names, others, strict=True))
                if isinstance(text, bytes):
                    yield place, Unreadable("not_utf8", f"{place}: not UTF-8"), fields
                else:
                    yield place, text, fields


def _table(path: Path, stack: ExitStack) -> tuple[Any, Callable[[list[str]], Iterator[Any]]]:
    """(schema, function from names of columns to small batches) of a Parquet or Arrow file.

    stack: closes the file, and makes an InputError of Arrow's errors.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    stack.enter_context(_readable(path))
    if path.suffix.lower() == ".parquet":
        file = stack.enter_context(pq.ParquetFile(path))
        return file.schema_arrow, lambda names: file.iter_batches(_BATCH_ROWS, columns=names)
    source = stack.enter_context(pa.memory_map(str(path)))
    is_file = source.read(len(_ARROW_FILE)) == _ARROW_FILE
    source.seek(0)
    reader = stack.enter_context((pa.ipc.open_file if is_file else pa.ipc.open_stream)(source))
    whole = (
        (reader.get_batch(index) for index in range(reader.num_record_batches))
        if is_file
        else iter(reader)
    )
    return reader.schema, lambda names: (
        batch.select(names).slice(start, _BATCH_ROWS)
        for batch in whole
        for start in range(0, batch.num_rows, _BATCH_ROWS)
    )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """InputError for a table that Arrow cannot read."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        kind = _TABLES[path.suffix.lower()]
        see = f"duckdb -c \"SELECT * FROM '{path}' LIMIT 3\""
        helps = f", or see what it holds: {see}" if kind == "Parquet" else "."
        raise InputError(
            f"{path}: not a readable {kind} file ({error}). Write it again{helps}",
            kind=ErrorKind.CORRUPT,
        ) from None


def _columns(path: Path, there: list[str], more: Fields) -> list[str]:
    """The columns `to_read` that a file has."""
    more.note(there)
    if twice := [name for name in more.requested if there.count(name) > 1]:
        raise InputError(
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
    objects = _is_list(column.type) and pa.types.is_nested(column.type.value_type)
    return [_without_nulls(value) for value in values] if objects else values


def _without_nulls(value: Any) -> Any:
    """Objects in a list without fields that are null: a table gives every object each field that
    any has.
    """
    if isinstance(value, list):
        return [_without_nulls(entry) for entry in value]
    if isinstance(value, dict):
        return {name: _without_nulls(entry) for name, entry in value.items() if entry is not None}
    return value


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


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
    if not _is_text(value) and not _is_list(kind):
        raise InputError(
            f"{path}: column {field!r} holds {kind} instead of strings. Choose a column of text "
            f"with --text-field; there are: {', '.join(schema.names)}."
        )


def _no_field(place: str, field: str, names: list[str]) -> InputError:
    fields = ", ".join(repr(name) for name in names) or "none"
    return InputError(
        f"{place}: no field {field!r}; its fields: {fields}. Name one with --text-field."
    )


def _too_long(place: str, unit: str, advice: str) -> InputError:
    return InputError(f"{place}: a {unit} of more than {MAX_PASSAGE_BYTES >> 20} MiB. {advice}")


_READERS: Final[dict[str, Callable[[Path, str, Fields], Iterator[CorpusRow]]]] = {
    ".jsonl": jsonl_rows,
    ".parquet": table_rows,
    ".arrow": table_rows,
    ".csv": csv_rows,
    ".txt": txt_rows,
}
_FORMATS: Final = ", ".join(_READERS)
