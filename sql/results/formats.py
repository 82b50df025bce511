"""Write a query's result as CSV, JSON or Parquet: exact values, for programs.

CSV and JSON are written in batches of rows as DuckDB makes them, and Parquet by DuckDB itself, so
memory stays flat however many rows there are. Nothing is escaped here: `lpp.sql.output` escapes
what goes to a terminal.
"""

import datetime
import decimal
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, Final

from lpp.store.errors import ErrorKind, InputError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, Statement

ResultRow = tuple[Any, ...]

BATCH_ROWS: Final = 2048
"""Rows in Python's hands at a time: one of DuckDB's own vectors."""


def write_csv(connection: "DuckDBPyConnection", statement: "Statement", out: IO[str]) -> None:
    """RFC 4180 with a header and plain newlines. NULL is nothing, an empty text is `""`.

    Numbers are written so that they read back exactly; NaN and infinities as `nan`, `inf`,
    `-inf`; lists and structs as JSON. A text that begins with `=`, `+`, `-` or `@` stays as it is,
    though a spreadsheet runs it as a formula: import the file with every column as text.
    """
    names, _, batches = _run(connection, statement)
    out.write(_csv_line(names))
    for batch in batches:
        out.writelines(_csv_line([csv_text(value) for value in row]) for row in batch)


def _csv_line(texts: Sequence[str | None]) -> str:
    return ",".join(_csv_field(text) for text in texts) + "\n"


def _csv_field(text: str | None) -> str:
    if text is None:
        return ""
    if text == "" or any(sign in text for sign in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def csv_text(value: object) -> str | None:
    """One value as text; None for NULL.

    >>> csv_text(True), csv_text([1, None]), csv_text(0.5), csv_text(None)
    ('true', '[1, null]', '0.5', None)
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(json_value(value), ensure_ascii=False)
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


def write_json(connection: "DuckDBPyConnection", statement: "Statement", out: IO[str]) -> None:
    """An array of objects, one per line. NaN and infinities are null: JSON cannot express them.

    Raises InputError when two columns have the same name, since an object keeps one of them.
    """
    names, types, batches = _run(connection, statement)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"JSON objects cannot hold two columns named {', '.join(twice)}. "
            "Name them apart in the SQL: SELECT a.x AS x, b.x AS x2 ...",
            kind=ErrorKind.BAD_SQL,
        )
    readers = [_from_json if kind == "JSON" else json_value for kind in types]
    start = "["
    for batch in batches:
        for row in batch:
            out.write(f"{start}\n{_json_object(names, readers, row)}")
            start = ","
    out.write("[]\n" if start == "[" else "\n]\n")


def _json_object(
    names: Sequence[str], readers: Sequence[Callable[[Any], Any]], row: ResultRow
) -> str:
    document = {n: read(value) for n, read, value in zip(names, readers, row, strict=True)}
    return json.dumps(document, ensure_ascii=False, allow_nan=False)


def _from_json(text: str | None) -> Any:
    """A value of DuckDB's JSON type, which arrives as text, as the document it is."""
    return None if text is None else json_value(json.loads(text))


def json_value(value: Any) -> Any:
    """`value` as JSON can express it: dates in ISO 8601, decimals as numbers, bytes in hex.

    >>> json_value([float("nan"), datetime.date(2026, 5, 1), b"\\xff"])
    [None, '2026-05-01', 'ff']
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, decimal.Decimal):
        value = float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    if isinstance(value, dict):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, (datetime.date, datetime.time)):  # a datetime is a date
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else str(value)


def write_parquet(connection: "DuckDBPyConnection", statement: "Statement", path: str) -> None:
    """Write a Parquet file at `path` with DuckDB's own writer; types are kept.

    DuckDB's temporary file is off: the connection may write `path` and nothing else.
    """
    connection.sql(statement).write_parquet(path, use_tmp_file=False)


def discard(connection: "DuckDBPyConnection", statement: "Statement") -> None:
    """Run `statement` to its end and write nothing: DuckDB computes rows as they are fetched."""
    result = connection.execute(statement)
    while result.description and result.fetchmany(BATCH_ROWS):
        pass


def _run(
    connection: "DuckDBPyConnection", statement: "Statement"
) -> tuple[list[str], list[str], Iterator[list[ResultRow]]]:
    """Names and DuckDB types of the columns, and the rows in batches as they are made."""
    result = connection.execute(statement)
    description = result.description or []
    batches = iter(lambda: result.fetchmany(BATCH_ROWS), [])
    return (
        [column[0] for column in description],
        [str(column[1]) for column in description],
        batches,
    )
