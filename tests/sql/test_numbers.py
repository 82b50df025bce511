"""The view `numbers`: each number of each table, with its own error, interval, prefix and unit."""

from pathlib import Path

import pytest
from duckdb import DuckDBPyConnection

from lpp.sql import TABLES, connect
from lpp.sql.schema import NUMBERS, Table

WITH_NUMBERS = [table for table in TABLES.values() if table.numbers]


def rows_of(connection: DuckDBPyConnection, what: str) -> list[dict[str, object]]:
    found = connection.execute(f"FROM {what}")
    names = [column[0] for column in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


@pytest.mark.parametrize("table", WITH_NUMBERS, ids=lambda table: table.name)
def test_every_number_of_a_table_has_its_rows(store: Path, table: Table) -> None:
    units = {column.name: column.unit for column in table.columns}
    with connect(store) as connection:
        wide = rows_of(connection, table.name)
        long = rows_of(connection, f"numbers WHERE table_name = '{table.name}'")
    key = [c.name for c in table.columns if c.name in table.key and c.part != "name"]
    expected = [
        {name: row[name] for name in key}
        | {"table_name": table.name, "number": value, "unit": units[value]}
        | {"number" if part == "name" else part: row[name] for part, name in parts.items()}
        | {"flags": row.get("flags")}
        for row in wide
        for value, parts in table.numbers.items()
    ]
    names = [column.name for column in NUMBERS.columns]

    def told(rows: list[dict[str, object]]) -> list[list[object]]:
        return sorted(([row.get(name) for name in names] for row in rows), key=str)

    assert told(long) == told(expected)


def test_a_number_stands_with_its_error_and_the_prefix_that_it_came_from(store: Path) -> None:
    with connect(store) as connection:
        found = connection.execute(
            "SELECT value, stderr, ci_low, ci_high, prefix, unit FROM numbers "
            "WHERE table_name = 'profiles' AND number = 'effective_rank' ORDER BY run"
        ).fetchall()
        names = [
            f"effective_rank{end}" for end in ("", "_stderr", "_ci_low", "_ci_high", "_prefix")
        ]
        wide = connection.execute(
            f"SELECT {', '.join(names)} FROM profiles ORDER BY run"
        ).fetchall()
    assert found == [(*row, "dimensions") for row in wide]
