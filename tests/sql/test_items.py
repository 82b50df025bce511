"""The view `items`: empty where nothing was evaluated, typed as declared, readable on demand."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from lpp.sql import TABLES, arrow_schema, build, connect
from lpp.sql.schema.benchmarks import ITEMS
from lpp.store import add_scores, create_store
from lpp.store.format.tables import ITEMS_SCHEMA, SCORES_SCHEMA
from lpp.store.items import items_file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with empty tables."""
    create_store(tmp_path / "store")
    build(tmp_path / "store", {name: arrow_schema(name).empty_table() for name in TABLES})
    return tmp_path / "store"


def add_items(root: Path) -> None:
    score = {"model": "m", "benchmark": "t", "metric": "acc", "value": 0.5, "source": "s"}
    table = pa.Table.from_pylist([{**score, "kind": "lm-eval"}], schema=SCORES_SCHEMA)
    rows = [
        {
            **{"source": "s", "model": "m", "run": None, "task": "t", "item": item},
            **{"filter": "none", "item_group": None, "prompt_ids": [2 * item, None]},
            **{"log_likelihoods": [-1.0, float("-inf")], "greedy": [False, True]},
            **{"gold": 0, "chosen": item, "correct": item == 0, "metrics": '{"acc": 0.25}'},
            "doc_sha256": "",
        }
        for item in range(2)
    ]
    items = items_file(pa.Table.from_pylist(rows, schema=ITEMS_SCHEMA))
    add_scores(root, "s", table, {"m/items.arrow": items})


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
