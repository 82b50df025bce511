"""The view `items`: empty where nothing was evaluated, typed as declared, readable on demand."""

from pathlib import Path

import duckdb
import pytest
from two_items import add_items

from lpp.sql import TABLES, arrow_schema, build, connect
from lpp.sql.schema.benchmarks import ITEMS
from lpp.store import create_store
from lpp.store.format.tables import ITEMS_SCHEMA


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
