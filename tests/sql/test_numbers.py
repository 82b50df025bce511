"""The view `numbers`: each number of each table, with its own error, interval, prefix and unit."""

from pathlib import Path

import duckdb
import pytest
from duckdb import DuckDBPyConnection
from two_items import add_items

from lpp.sql import TABLES, arrow_schema, build, connect
from lpp.sql.schema import NUMBERS, Table
from lpp.sql.schema.benchmarks import ITEMS
from lpp.store import create_store
from lpp.store.format.tables import ITEMS_SCHEMA

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


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with empty tables."""
    create_store(tmp_path / "store")
    build(tmp_path / "store", {name: arrow_schema(name).empty_table() for name in TABLES})
    return tmp_path / "store"


def test_columns_are_those_that_are_declared_and_stored(root: Path) -> None:
    assert [column.name for column in ITEMS.columns] == ITEMS_SCHEMA.names
    with connect(root) as connection:
        found = connection.sql("DESCRIBE items").fetchall()
        assert [(row[0], row[1]) for row in found] == [(c.name, c.type) for c in ITEMS.columns]
        assert connection.sql("SELECT count(*) FROM items").fetchall() == [(0,)]


def test_items_are_read(root: Path) -> None:
    add_items(root)
    query = (
        "SELECT item, correct, prompt_ids, log_likelihoods[gold + 1], (metrics->>'acc')::DOUBLE "
        "FROM items ORDER BY item"
    )
    with connect(root) as connection:
        assert connection.sql(query).fetchall() == [
            (0, True, [0, None], -1.0, 0.25),
            (1, False, [2, None], -1.0, 0.25),
        ]


def test_a_connection_that_reads_no_store_says_so(root: Path) -> None:
    with (
        connect(root, token_stats=False) as connection,
        pytest.raises(duckdb.Error, match="items is read from the store only"),
    ):
        connection.sql("SELECT item FROM items").fetchall()
