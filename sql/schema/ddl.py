"""SQL text made from the declarations in `lpp.sql.schema`, and safe quoting."""

from collections.abc import Iterator

from lpp.sql.schema.columns import Table


def identifier(name: str) -> str:
    """`name` quoted as an SQL identifier.

    >>> identifier('a"b')
    '"a""b"'
    """
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` quoted as an SQL string, for statements that take no parameters.

    >>> literal("it's")
    "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"


def create_table(table: Table) -> Iterator[str]:
    """Statements that make an empty `table` with its key and comments.

    No foreign keys: DuckDB would keep one more index per referencing table and refuse to
    delete or replace a run by hand, for a reference that one builder writes in one go.
    """
    columns = [f"{identifier(column.name)} {column.type}" for column in table.columns]
    key = ", ".join(identifier(name) for name in table.key)
    yield f"CREATE TABLE {identifier(table.name)} ({', '.join(columns)}, PRIMARY KEY ({key}))"
    yield f"COMMENT ON TABLE {identifier(table.name)} IS {literal(table.meaning)}"
    yield from _column_comments(table, identifier(table.name))


def add_column(table: Table, name: str, kind: str) -> Iterator[str]:
    """Statements that add one of the further columns that `table` may have."""
    target = identifier(table.name)
    yield f"ALTER TABLE {target} ADD COLUMN {identifier(name)} {kind}"
    yield f"COMMENT ON COLUMN {target}.{identifier(name)} IS {literal(table.more)}"


def comment_view(table: Table, where: str = "temp.main.") -> Iterator[str]:
    """Comments for a view, temporary by default, that `table` declares."""
    target = f"{where}{identifier(table.name)}"
    yield f"COMMENT ON VIEW {target} IS {literal(table.meaning)}"
    yield from _column_comments(table, target)


def _column_comments(table: Table, where: str) -> Iterator[str]:
    for column in table.columns:
        target = f"{where}.{identifier(column.name)}"
        yield f"COMMENT ON COLUMN {target} IS {literal(column.comment)}"


def unread_view(table: Table, reason: str) -> str:
    """A temporary view with `table`'s columns that fails with `reason` when a row is asked for."""
    columns = ", ".join(f"NULL::{c.type} AS {identifier(c.name)}" for c in table.columns)
    return (
        f"CREATE TEMP VIEW {identifier(table.name)} AS "
        f"SELECT {columns} WHERE error({literal(reason)})::BOOLEAN"
    )
