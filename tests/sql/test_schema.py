"""The declarations, and what is made from them."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from lpp.sql import TABLES, TOKEN_STATS, arrow_schema, connect
from lpp.sql.schema import EVERY, Table
from lpp.sql.schema.results import RESULTS_FILE, read_results, results_json
from lpp.store.format.tables import TOKENS_SCHEMA


@pytest.mark.parametrize("table", EVERY, ids=lambda t: t.name)
def test_declarations_are_sound(table: Table) -> None:
    names = [column.name for column in table.columns]
    assert len(set(names)) == len(names)
    assert set(table.key) <= set(names)
    assert table.meaning
    assert "STORE" in table.filled_by
    for column in table.columns:
        assert column.meaning
        assert column.name == column.name.lower()


def test_token_stats_are_the_run_and_the_columns_of_the_store() -> None:
    declared = arrow_schema(TOKEN_STATS)
    assert declared.field("run").type == pa.string()
    assert [(f.name, f.type) for f in declared.remove(0)] == [
        *((f.name, f.type) for f in TOKENS_SCHEMA),
        ("written", pa.bool_()),  # from the prompts
        ("loss_mask", pa.bool_()),
    ]


def test_every_quantity_has_a_unit() -> None:
    floats = [c for t in EVERY for c in t.columns if c.type in {"DOUBLE", "FLOAT"}]
    assert [c.name for c in floats if not c.unit] == ["coefficient", "ci_low", "ci_high"]


def test_database_has_the_declared_columns_keys_and_comments(store: Path) -> None:
    with connect(store) as connection:
        for table in TABLES.values():
            columns = connection.execute(
                "SELECT column_name, data_type, comment FROM duckdb_columns() "
                "WHERE table_name = ? AND database_name = 'lpp' ORDER BY column_index",
                [table.name],
            ).fetchall()
            assert columns == [(c.name, c.type, c.comment) for c in table.columns]
            ((comment,),) = connection.execute(
                "SELECT comment FROM duckdb_tables() WHERE table_name = ?", [table.name]
            ).fetchall()
            assert comment == table.meaning
            ((key,),) = connection.execute(
                "SELECT constraint_column_names FROM duckdb_constraints() "
                "WHERE table_name = ? AND constraint_type = 'PRIMARY KEY'",
                [table.name],
            ).fetchall()
            assert tuple(key) == table.key


def test_token_stats_has_comments(store: Path) -> None:
    with connect(store) as connection:
        found = connection.execute(
            "SELECT column_name, comment FROM duckdb_columns() "
            "WHERE table_name = 'token_stats' ORDER BY column_index"
        ).fetchall()
        view = connection.execute(
            "SELECT comment FROM duckdb_views() WHERE view_name = 'token_stats'"
        ).fetchall()
    assert found == [(c.name, c.comment) for c in TOKEN_STATS.columns]
    assert view == [(TOKEN_STATS.meaning,)]


def test_the_file_of_results_is_what_analyze_declares() -> None:
    from lpp.analyze.declared import RESULTS  # not at the top: this package does not need it

    assert results_json(RESULTS) == RESULTS_FILE.read_text("utf-8"), "make tables"
    assert read_results() == RESULTS


def test_arrow_schema_is_what_duckdb_makes_of_the_table(store: Path) -> None:
    with duckdb.connect(str(store / "profiles.duckdb"), read_only=True) as connection:
        for name in TABLES:
            given = connection.sql(f'FROM "{name}"').to_arrow_table().schema
            declared = arrow_schema(name)
            assert given.names == declared.names
            for field in declared:
                assert given.field(field.name).type in (field.type, pa.json_(pa.string()))
