"""A database of another release is told by its columns."""

import re
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from click.testing import CliRunner

from lpp.sql import TABLES, build, connect
from lpp.sql.cli import main
from lpp.sql.database.catalogue import outdated_tables, refuse_outdated
from lpp.sql.database.files import ASIDE, profile_command
from lpp.store.errors import InputError


def test_what_was_just_built_is_current(store: Path) -> None:
    assert outdated_tables(store) == []


@pytest.mark.parametrize(
    ("change", "table"),
    [
        ("ALTER TABLE lpp.entropy DROP COLUMN short_prompts", "entropy"),
        ("ALTER TABLE lpp.spectra ADD COLUMN more DOUBLE", "spectra"),
        ("DROP TABLE lpp.published", "published"),
    ],
)
def test_any_other_column_or_table_is_not(store: Path, change: str, table: str) -> None:
    with connect(store, write=True) as connection:
        connection.execute(change)
    assert outdated_tables(store) == [table]


def test_a_query_of_what_it_lacks_names_the_command(store: Path) -> None:
    with connect(store, write=True) as connection:
        connection.execute("ALTER TABLE lpp.entropy DROP COLUMN short_prompts")
    for sql in ("SELECT short_prompts FROM entropy", "SELECT nonesuch FROM entropy"):
        done = CliRunner().invoke(main, [str(store), sql])
        assert done.exit_code == 2, done.output
        assert profile_command(store) in done.stderr
    with pytest.raises(InputError, match=f"entropy.*{re.escape(profile_command(store))}"):
        refuse_outdated(store)
    refuse_outdated(store, ["runs", "profiles"])


def test_tables_of_ones_own_do_not_matter(store: Path) -> None:
    with connect(store, write=True) as connection:
        connection.execute("CREATE TABLE lpp.mine AS SELECT 1 AS x")
    assert outdated_tables(store) == []


def test_columns_that_came_later_may_be_missing(store: Path) -> None:
    with connect(store, write=True) as connection:
        connection.execute("ALTER TABLE lpp.runs DROP COLUMN step")
    assert outdated_tables(store) == []
    with connect(store, write=True) as connection:
        connection.execute("ALTER TABLE lpp.runs ADD COLUMN step VARCHAR")
    assert outdated_tables(store) == ["runs"]


NAME = "profiles.duckdb"


def aside(store: Path) -> list[Path]:
    return sorted(path for path in store.iterdir() if path.name.startswith(ASIDE))


def rows(store: Path) -> dict[str, int]:
    with connect(store, token_stats=False) as connection:
        return {
            name: connection.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0]
            for name in TABLES
        }


@pytest.mark.slow
def test_a_flipped_bit_loses_no_number(
    store: Path, tables: dict[str, pa.Table], caplog: pytest.LogCaptureFixture
) -> None:
    """In several parts of the file; unused bytes may be flipped without consequence."""
    whole, before = (store / NAME).read_bytes(), rows(store)
    set_aside = 0
    for at in range(4_096 + 100, len(whole), len(whole) // 6):  # behind the headers
        damaged = bytearray(whole)
        damaged[at] ^= 16
        (store / NAME).write_bytes(damaged)
        build(store, {"entropy": tables["entropy"]}, keep=TABLES.keys() - {"entropy"})
        if files := aside(store):
            set_aside += 1
            assert [path.read_bytes() for path in files] == [damaged]
            caplog.clear()
            connect(store, token_stats=False).close()
            assert files[0].name in caplog.text
            files[0].unlink()
            caplog.clear()
            connect(store, token_stats=False).close()
            assert caplog.text == ""
        else:
            assert rows(store) == before
    assert set_aside > 0


def test_two_damaged_databases_are_both_there(store: Path) -> None:
    for k in (1, 2):
        (store / NAME).write_bytes(b"garbage" * 999 * k)
        build(store, {}, keep=TABLES)
    assert [path.stat().st_size for path in aside(store)] == [6_993, 13_986]


def test_the_log_of_a_damaged_database_goes_with_it(store: Path) -> None:
    (store / NAME).write_bytes(b"garbage" * 999)
    (store / f"{NAME}.wal").write_bytes(b"log")
    build(store, {}, keep=TABLES)
    assert [path.name for path in aside(store)] == [f"{ASIDE}-1.duckdb", f"{ASIDE}-1.duckdb.wal"]
    assert not (store / f"{NAME}.wal").exists()
    with duckdb.connect(str(store / NAME), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM profiles").fetchall() == [(0,)]


def test_a_whole_database_is_not_set_aside(store: Path, tables: dict[str, pa.Table]) -> None:
    build(store, {"entropy": tables["entropy"]}, keep=TABLES.keys() - {"entropy"})
    assert aside(store) == []
