"""The tables that a database holds, compared with those that this release declares."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from lpp.sql.database.files import profile_command
from lpp.sql.schema.columns import MORE_TYPES, Table
from lpp.sql.schema.tables import NUMBERS, TABLES
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.keys import DATABASE_KEY
from lpp.store.objects.place import Place

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Columns = list[tuple[str, str]]
"""Name and type of each column, in order."""


def declared_columns(table: Table) -> Columns:
    """The columns of `table` as `plain_tables` gives them."""
    return [(column.name, column.type) for column in table.columns]


def fits(table: Table, columns: Columns, *, whole: bool = False) -> bool:
    """Whether `columns` are those of `table`, in this or an earlier release, with optional further
    columns that the table allows. whole: in this release.
    """
    first, more = _split(table, columns)
    absent = () if whole else table.added
    expected = [c for c in declared_columns(table) if c[0] not in absent or c in first]
    names = {column.name for column in table.columns}
    allowed = bool(table.more) and all(n not in names and t in MORE_TYPES for n, t in more)
    return first == expected and (allowed or not more)


def further_columns(table: Table, columns: Columns) -> Columns:
    """The `columns` that `table` does not declare, though they fit it."""
    return _split(table, columns)[1]


def _split(table: Table, columns: Columns) -> tuple[Columns, Columns]:
    """Declared columns and further ones. The declared come first."""
    declared = declared_columns(table)
    count = next((i for i, c in enumerate(columns) if c not in declared), len(columns))
    return columns[:count], columns[count:]


def plain_tables(connection: "DuckDBPyConnection", database: str) -> dict[str, Columns]:
    """Base tables of an attached database.

    The type of a column with a computed value, or a computed default, is given as `computed`, so
    the table fits no declaration.
    """
    tables: dict[str, Columns] = {}
    for table, column, kind, computed in connection.execute(
        "SELECT table_name, column_name, data_type, column_default IS NOT NULL "
        "FROM duckdb_columns() SEMI JOIN duckdb_tables() "
        "USING (database_name, schema_name, table_name) "
        "WHERE database_name = ? AND schema_name = 'main' ORDER BY table_name, column_index",
        [database],
    ).fetchall():
        tables.setdefault(table, []).append((column, "computed" if computed else kind))
    return tables


def other_objects(connection: "DuckDBPyConnection", database: str) -> list[str]:
    """Views of an attached database, and tables that no release declares, as descriptions."""
    rows = connection.execute(
        "SELECT 'view', schema_name, view_name FROM duckdb_views() "
        "WHERE database_name = $1 AND NOT internal UNION ALL "
        "SELECT 'table', schema_name, table_name FROM duckdb_tables() WHERE database_name = $1 "
        "ORDER BY ALL",
        [database],
    ).fetchall()
    return [
        f"{kind} {name}"
        for kind, schema, name in rows
        if schema != "main" or (name not in TABLES if kind == "table" else name != NUMBERS.name)
    ]


def refuse_outdated(root: Place, tables: Collection[str] = (), *, whole: bool = False) -> None:
    """Raise InputError(UNSUPPORTED_VERSION) if another release made one of `tables`, by default of
    all, in the database of the store at `root`, with the command that makes them again. whole: as
    of `outdated_tables`.
    """
    if outdated := [n for n in outdated_tables(root, whole=whole) if not tables or n in tables]:
        raise InputError(
            f"{root / DATABASE_KEY}: another release made its tables {', '.join(outdated)}. "
            f"Build them again: {profile_command(root)}",
            kind=ErrorKind.UNSUPPORTED_VERSION,
        )


def outdated_tables(root: Place, *, whole: bool = False) -> list[str]:
    """Declared tables that the database of the store at `root` lacks or has with other columns.
    Columns in `Table.added` may be missing, unless `whole`.

    Raises what `connect` does.
    """
    from lpp.sql.database.connect import DATABASE, reading

    with reading(root) as connection:
        existing = plain_tables(connection, DATABASE)
    return [
        name
        for name, table in TABLES.items()
        if not fits(table, existing.get(name, []), whole=whole)
    ]
