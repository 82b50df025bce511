"""The view `numbers`: every number of the tables of results in long form, a row for each.

It is generated from the declarations and kept in the database. The tables stay wide, and the saved
queries read them: planning a query of the view alone takes DuckDB 20 ms.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from lpp.sql.schema.columns import ERRORS, Column, Table, number_columns
from lpp.sql.schema.ddl import comment_view, literal

_UNIT: Final = "of the number"
_VALUES: Final = (
    Column("number", "VARCHAR", "name of the number"),
    Column("unit", "VARCHAR", "unit of the number"),
    Column("value", "DOUBLE", "value; null: not computed, or not defined", _UNIT),
    *number_columns("value", "", _UNIT, ERRORS, prefix="")[1:],
    Column("flags", "VARCHAR[]", "why a number of that row may mislead"),
)


def numbers_table(tables: Iterable[Table]) -> Table:
    """The declaration of the view over `tables`; its key columns are those that any of them has."""
    keys: dict[str, Column] = {}
    for column in (column for table in tables if table.numbers for column in _key(table)):
        keys.setdefault(column.name, column)
    return Table(
        "numbers",
        "every number of the tables of results, in long form",
        "lpp-analyze profile STORE",
        ("table_name", *keys, "number"),
        (
            Column("table_name", "VARCHAR", "the table that has the number in a column"),
            *keys.values(),
            *_VALUES,
        ),
    )


def create_numbers(view: Table, tables: Iterable[Table]) -> Iterator[str]:
    """Statements that make `view`, of `numbers_table`, and its comments."""
    selects = "\nUNION ALL BY NAME\n".join(
        f"SELECT {', '.join(f'{sql} AS {name}' for name, sql in columns.items())} FROM {table.name}"
        for table in tables
        for columns in _columns(table)
    )
    columns = ", ".join(column.name for column in view.columns)
    yield f"CREATE VIEW {view.name} AS SELECT {columns} FROM (\n{selects}\n)"
    yield from comment_view(view, where="")


def _columns(table: Table) -> Iterator[dict[str, str]]:
    """SQL of the columns of each number of `table`, by name."""
    declared = {column.name: column for column in table.columns}
    row = {column.name: column.name for column in _key(table)}
    row |= {name: name for name in ("flags",) if name in declared}
    for value, parts in table.numbers.items():
        names = {"number": literal(value), "unit": literal(declared[value].unit)}
        names |= {"number" if part == "name" else part: name for part, name in parts.items()}
        yield {"table_name": literal(table.name), **row, **names}


def _key(table: Table) -> list[Column]:
    """The key of `table`, without the name of a number."""
    return [column for column in table.columns if column.name in table.key and column.part is None]
