"""`items`: a view over the items of evaluations."""

from typing import TYPE_CHECKING, Final

from lpp.sql.schema.benchmarks import ITEMS
from lpp.store.objects.place import Place

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_TABLE: Final = "memory.evaluated.items"
"""Table for the rows in the database in memory, which SHOW TABLES does not list."""


def register_items(connection: "DuckDBPyConnection", root: Place) -> None:
    """Add the view; it is empty if nothing was evaluated.

    Raises FormatError for altered bytes, because items are numbers.
    """
    from lpp.store.scores.items import read_items

    columns = ", ".join(f'"{c.name}"::{c.type} AS "{c.name}"' for c in ITEMS.columns)
    connection.execute(f"CREATE SCHEMA {_TABLE.rpartition('.')[0]}")
    connection.register("incoming", read_items(root))
    connection.execute(f"CREATE TABLE {_TABLE} AS SELECT {columns} FROM incoming")
    connection.unregister("incoming")
    connection.execute(f"CREATE TEMP VIEW {ITEMS.name} AS FROM {_TABLE}")
