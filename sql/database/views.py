"""The views of a connection that read the store itself: tokens, their texts, items."""

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Final

from lpp.sql.database.files import no_profiles
from lpp.sql.database.token_stats import register_token_stats
from lpp.sql.database.vocabulary import register_vocabulary
from lpp.sql.schema.benchmarks import ITEMS
from lpp.sql.schema.captured import PROMPTS, RUNS, TOKEN_STATS, VOCABULARY
from lpp.sql.schema.ddl import comment_view, unread_view
from lpp.sql.schema.tables import NUMBERS, TABLES, VIEWS
from lpp.store.objects.place import Place

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_ITEMS_TABLE: Final = "memory.evaluated.items"
"""Table for the rows in the database in memory, which SHOW TABLES does not list."""


def register_items(connection: "DuckDBPyConnection", root: Place) -> None:
    """Add the view; it is empty if nothing was evaluated.

    Raises FormatError for altered bytes, because items are numbers.
    """
    from lpp.store.scores.items import read_items

    columns = ", ".join(f'"{c.name}"::{c.type} AS "{c.name}"' for c in ITEMS.columns)
    connection.execute(f"CREATE SCHEMA {_ITEMS_TABLE.rpartition('.')[0]}")
    connection.register("incoming", read_items(root))
    connection.execute(f"CREATE TABLE {_ITEMS_TABLE} AS SELECT {columns} FROM incoming")
    connection.unregister("incoming")
    connection.execute(f"CREATE TEMP VIEW {ITEMS.name} AS FROM {_ITEMS_TABLE}")


_REGISTER: Final[Mapping[str, Callable[["DuckDBPyConnection", Place], None]]] = {
    TOKEN_STATS.name: register_token_stats,
    VOCABULARY.name: register_vocabulary,
    ITEMS.name: register_items,
}

STORED: Final = (*(view.name for view in VIEWS), RUNS.name, PROMPTS.name)
"""What a store answers without profiles: the views, and the tables of what was captured."""


def add_views(connection: "DuckDBPyConnection", root: Place, read: Collection[str]) -> None:
    """Add every view to `connection`: those in `read` over the store at `root`, the others as views
    that fail when they are used.
    """
    for view in VIEWS:
        if view.name in read:
            _REGISTER[view.name](connection, root)
        else:
            connection.execute(unread_view(view, _unread(view.name)))
        for statement in comment_view(view):
            connection.execute(statement)


def add_store_tables(connection: "DuckDBPyConnection", root: Place, read: Collection[str]) -> None:
    """Add the declared tables to the `connection` of a store without profiles: `runs` and `prompts`
    if they are in `read`, the others as views that fail when they are used.
    """
    captured = [name for name in (RUNS.name, PROMPTS.name) if name in read]
    if captured:
        from lpp.sql.database.captured import register_captured

        register_captured(connection, root, captured)
    for table in (*TABLES.values(), NUMBERS):
        if table.name not in captured:
            connection.execute(unread_view(table, str(no_profiles(root))))


def _unread(name: str) -> str:
    return (
        f"{name} is read from the store only when the SQL names it. "
        f"Add a comment to the SQL that does: /* {name} */"
    )
