"""Statements that `lpp-sql` refuses before it runs any.

`lpp.sql.confinement.connection_lock` confines DuckDB itself. The filter gives each forbidden access
a message of its own, and closes two gaps of the lock: a detached database no longer protects its
file, and DuckDB 1 lets COPY overwrite even an attached one.
"""

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from lpp.store.errors import ErrorKind, InputError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, Statement

# fmt: off
_TABLES: Final = frozenset({
    "ALTER", "ANALYZE", "CALL", "COPY_DATABASE", "CREATE", "CREATE_FUNC", "DELETE", "DROP",
    "EXECUTE", "INSERT", "MERGE_INTO", "PRAGMA", "RELATION", "SELECT", "SET", "TRANSACTION",
    "UPDATE", "VACUUM", "VARIABLE_SET",
})
"""Types of statements that stay inside the databases; types of later DuckDB releases may not."""

_QUERIES: Final = frozenset({
    "(", "DESCRIBE", "FROM", "PIVOT", "PIVOT_WIDER", "SELECT", "SUMMARIZE", "UNPIVOT", "WITH",
})
"""First words of a SELECT."""
# fmt: on

_FILES: Final = frozenset({"ATTACH", "COPY", "DETACH", "EXPORT"})
_UNKNOWN: Final = "statement"
_WORD: Final = re.compile(r"\w+|.|\Z", re.DOTALL)

NO_FILES: Final = (
    "SQL may not open files here. Add --allow-files to let it; for the result alone, "
    "name a file with --output."
)
NO_EXTENSIONS: Final = (
    "No flag lets SQL load extensions or use the network. DuckDB's own shell does both: "
    "lpp-sql STORE --shell --allow-files"
)


def refuse(
    connection: "DuckDBPyConnection", statements: Iterable["Statement"], *, files: bool
) -> None:
    """Raise InputError(NOT_ALLOWED) for the first of `statements` that leaves the databases.

    files: whether --allow-files was given.
    """
    allowed = _TABLES | _FILES if files else _TABLES
    for statement in statements:
        for name in _types(connection, statement):
            if name not in allowed:
                what = "INSTALL or LOAD" if name == "LOAD" else name
                why = NO_FILES if name in _FILES else NO_EXTENSIONS
                raise InputError(f"{what} refused. {why}", kind=ErrorKind.NOT_ALLOWED)


def _types(connection: "DuckDBPyConnection", statement: "Statement") -> Iterator[str]:
    """The type of `statement`, or of the statement inside it, as in EXPLAIN."""
    try:
        name = statement.type.name
    except ValueError:  # DuckDB 2 on a type that its Python package does not know
        name = _UNKNOWN
    if name not in ("EXPLAIN", "PREPARE", "MULTI"):
        yield name
        return
    words, texts = _inside(_plain(statement.query))
    inner = [nested for text in texts for nested in _parsed(connection, text)]
    for nested in inner:
        yield from _types(connection, nested)
    if not inner:
        # MULTI is a statement with a PIVOT, which DuckDB 2 splits later: COPY (PIVOT ...) TO, too.
        first = words[0] if words else _UNKNOWN
        yield "SELECT" if name == "MULTI" and first in _QUERIES else first


def _plain(text: str) -> str:
    """`text` as ASCII of the same length: DuckDB counts in bytes, but not those of some spaces."""
    return "".join(sign if sign.isascii() else " " if sign.isspace() else "x" for sign in text)


def _inside(text: str) -> tuple[list[str], list[str]]:
    """The words of `text`, and candidates for the statement inside its EXPLAIN or PREPARE.

    Words are keywords in capitals, and signs; a quoted name or a string equals no keyword.
    """
    import duckdb

    places = [start for start, kind in duckdb.tokenize(text) if "comment" not in str(kind)]
    words = [_word(text, start) for start in places]
    starts: list[int] = []
    if words[:1] == ["EXPLAIN"]:  # ANALYZE is a statement, too
        starts = [1, 2] if words[1:2] == ["ANALYZE"] else [1]
    elif words[:1] == ["PREPARE"] and "AS" in words[2:]:
        starts = [words.index("AS", 2) + 1]
    # Brackets hold options, or a SELECT.
    starts += [_after_brackets(words, start) for start in starts]
    return words, [text[places[start] :] for start in starts if start < len(words)]


def _word(text: str, start: int) -> str:
    match = _WORD.match(text, start)
    return match[0].upper() if match else ""


def _after_brackets(words: list[str], start: int) -> int:
    """Index of the word after the brackets that open at `start`; the end where none do."""
    depth = 0
    for index in range(start, len(words)):
        depth += (words[index] == "(") - (words[index] == ")")
        if not depth:
            return index + 1 if words[start] == "(" else len(words)
    return len(words)


def _parsed(connection: "DuckDBPyConnection", text: str) -> list["Statement"]:
    import duckdb

    try:
        return connection.extract_statements(text)
    except (duckdb.ParserException, duckdb.NotImplementedException):
        return []
