"""Whether a database has the tables that this release declares."""

from lpp.sql.schema import TABLES
from lpp.store.objects.place import Place


def outdated_tables(root: Place) -> list[str]:
    """Declared tables that the database of the store at `root` lacks or has with other columns.

    Raises what `connect` does.
    """
    from lpp.sql.connect import DATABASE, connect

    there: dict[str, list[tuple[str, str]]] = {}
    with connect(root, token_stats=False) as connection:
        for table, column, kind in connection.execute(
            "SELECT table_name, column_name, data_type FROM duckdb_columns() "
            "WHERE database_name = ? AND schema_name = 'main' ORDER BY table_name, column_index",
            [DATABASE],
        ).fetchall():
            there.setdefault(table, []).append((column, kind))
    return [
        name
        for name, table in TABLES.items()
        if there.get(name) != [(column.name, column.type) for column in table.columns]
    ]
