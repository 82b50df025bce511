"""Statements that `lpp-sql` refuses before it runs any.

`lpp.sql.lock` confines DuckDB itself. What this adds is one message per way out, and the ways
that the lock leaves open: a database that is detached no longer protects its file, and DuckDB 1
lets COPY overwrite even an attached one.
"""

import re
from typing import TYPE_CHECKING, Final

from lpp.store.errors import ErrorKind, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from duckdb import Statement

# fmt: off
_TABLES: Final = frozenset({
    "ALTER", "ANALYZE", "CALL", "COPY_DATABASE", "CREATE", "CREATE_FUNC", "DELETE", "DROP",
    "EXECUTE", "EXPLAIN", "INSERT", "MERGE_INTO", "MULTI", "PRAGMA", "PREPARE", "RELATION",
    "SELECT", "SET", "TRANSACTION", "UPDATE", "VACUUM", "VARIABLE_SET",
})
# fmt: on
"""Types of statements that stay inside the databases; one that a later DuckDB adds may not."""

_FILES: Final = frozenset({"ATTACH", "COPY", "DETACH", "EXPORT"})
_WRAPPED: Final = {"EXPLAIN", "PREPARE"}
"""Statements that hold another, of which DuckDB names no type."""

_COPY: Final = re.compile(r"\bcopy\b", re.IGNORECASE)  # a keyword has no other spelling

NO_FILES: Final = (
    "SQL may not open files here. Add --allow-files to let it; for the result alone, "
    "name a file with --output."
)
NO_EXTENSIONS: Final = (
    "No flag lets SQL load extensions or use the network. DuckDB's own shell does both: "
    "lpp-sql STORE --shell --allow-files"
)


def refuse(statements: "Iterable[Statement]", *, files: bool) -> None:
    """Raise InputError(NOT_ALLOWED) for the first of `statements` that reaches outside.

    files: --allow-files was given.
    """
    for statement in statements:
        name = _type(statement)
        if files and (name in _FILES or name in _TABLES):
            continue
        if name in _WRAPPED and _COPY.search(statement.query):
            name = "COPY"
        if name not in _TABLES:
            what = name if name in _FILES else "INSTALL or LOAD" if name == "LOAD" else "statement"
            why = NO_FILES if name in _FILES else NO_EXTENSIONS
            raise InputError(f"{what} refused. {why}", kind=ErrorKind.NOT_ALLOWED)


def _type(statement: "Statement") -> str:
    try:
        return statement.type.name
    except ValueError:  # DuckDB 2 on a type that its Python package does not know
        return "???"
