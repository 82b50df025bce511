"""A database of another release is told by its columns."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from lpp.sql import connect
from lpp.sql.cli import main
from lpp.sql.database.catalogue import outdated_tables, refuse_outdated
from lpp.sql.database.files import profile_command
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
