"""A database that a stranger made: nothing in it reaches outside, and little of it is kept."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pytest
from s3_server import S3
from written_run import write_run

from lpp.sql import TABLES, arrow_schema, build, connect
from lpp.sql.schema import EVERY
from lpp.sql.schema.ddl import create_table
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.objects.place import place

Run = Callable[..., subprocess.CompletedProcess[bytes]]
SECRET = "the-secret-of-another-file"
CKA = ", ".join(
    f"'{'[]' if c.type.endswith('[]') else 0}'::{c.type} AS {c.name}"
    for c in TABLES["cka"].columns[1:]
)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the user, outside the store."""
    path = tmp_path / "secret.txt"
    path.write_text(SECRET)
    return path


@pytest.fixture
def stranger(store: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to the store's database that nothing confines."""
    with duckdb.connect(str(store / "profiles.duckdb")) as connection:
        yield connection


def text_of(root: Path) -> str:
    """Every value and every definition in the database of a store."""
    with duckdb.connect() as connection:
        connection.execute(
            f"ATTACH '{str(root / 'profiles.duckdb').replace(chr(39), 2 * chr(39))}' AS d; USE d"
        )
        tables = connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
        found = [connection.execute(f"FROM {name}").fetchall() for (name,) in tables]
        return repr([found, connection.execute("FROM duckdb_views()").fetchall()])


def reading(secret: Path) -> str:
    """A view with the columns of `cka` that reads the file."""
    return f"CREATE OR REPLACE VIEW cka AS SELECT content AS run, {CKA} FROM read_text('{secret}')"


@pytest.mark.slow
def test_the_attack_end_to_end(
    tmp_path: Path, secret: Path, run_command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    root = tmp_path / "store"
    write_run(root)
    profile = ("lpp-analyze", "profile", root, "--errors", "none", "--sites", "final")
    assert run_command(*profile).returncode == 0
    with duckdb.connect(str(root / "profiles.duckdb")) as connection:
        connection.execute(f"DROP TABLE cka; {reading(secret)}")
    done = run_command(*profile)
    assert done.returncode == 0
    assert SECRET not in text_of(root)
    lines = [line for line in done.stderr.splitlines() if "not kept" in line]
    assert len(lines) == 1
    assert "view cka" in lines[0]
    assert str(root / "profiles.duckdb") in lines[0]
    done = run_command("lpp-sql", root, "SELECT run FROM cka", "--format", "csv")
    assert (done.returncode, done.stdout) == (0, "run\n")


def test_the_attack_in_a_bucket(
    s3: S3,
    store: Path,
    secret: Path,
    stranger: duckdb.DuckDBPyConnection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stranger.execute(f"DROP TABLE cka; {reading(secret)}")
    stranger.close()
    root = place(s3.url)
    for name in ("lpp.json", "profiles.duckdb"):
        s3.put(f"some/store/{name}", (store / name).read_bytes())
    build(root, {"runs": arrow_schema("runs").empty_table()}, keep=TABLES)
    (store / "profiles.duckdb").write_bytes(s3.objects()["some/store/profiles.duckdb"])
    assert SECRET not in text_of(store)
    (message,) = caplog.messages
    assert message.startswith(f"{s3.url}/profiles.duckdb: ")
    assert message.endswith(": view cka.")
    with connect(root, token_stats=False) as connection:
        assert connection.execute("SELECT count(*) FROM spectra").fetchall() == [(3,)]


@pytest.mark.parametrize("options", [{}, {"write": True}])
def test_a_view_of_a_strangers_opens_no_file(
    store: Path,
    secret: Path,
    stranger: duckdb.DuckDBPyConnection,
    options: dict[str, bool],
    lpp_sql: Run,
) -> None:
    stranger.execute(f"DROP TABLE cka; {reading(secret)}; CREATE MACRO m() AS TABLE FROM cka")
    stranger.close()
    with connect(store, token_stats=False, **options) as connection:
        for query in ("FROM cka", "FROM m()", "CREATE TEMP TABLE t AS FROM cka"):
            with pytest.raises(duckdb.PermissionException):
                connection.execute(query)
        assert connection.execute("SELECT count(*) FROM runs").fetchall() == [(3,)]
    done = lpp_sql(store, "FROM cka", *(f"--{name}" for name in options))
    assert done.returncode == 2
    assert SECRET.encode() not in done.stdout + done.stderr


LEFT = {
    'view "a\' \\x1b[31mv"': 'CREATE VIEW "a\' \x1b[31mv" AS SELECT 1',
    "table mine": "CREATE TABLE mine AS SELECT 1 AS x",
    "table runs2": "CREATE SCHEMA other; CREATE TABLE other.runs2 AS FROM runs",
    "table entropy (other columns)": "ALTER TABLE entropy DROP COLUMN short_prompts",
    "table spectra (other columns)": "ALTER TABLE spectra ALTER depth TYPE DOUBLE",
    "table hourglass (other columns)": "ALTER TABLE hourglass RENAME score TO points",
}


@pytest.mark.slow
@pytest.mark.parametrize("words", LEFT)
def test_what_is_left_behind_is_said(
    store: Path, stranger: duckdb.DuckDBPyConnection, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    stranger.execute(LEFT[words])
    stranger.close()
    build(store, {}, keep=TABLES)
    (message,) = caplog.messages
    if words.startswith("view"):
        assert "x1b[31mv" in message
        assert "\x1b" not in message
    else:
        assert message.endswith(f": {words}.")
    name = words.split()[1]
    with connect(store, token_stats=False) as connection:
        listed = [row[0] for row in connection.execute("SHOW TABLES").fetchall()]
        counts = {
            t: connection.execute(f"SELECT count(*) FROM {t}").fetchall()[0][0] for t in TABLES
        }
    assert set(listed) == {table.name for table in EVERY}
    assert counts == {t: 0 if t == name else 3 for t in TABLES}


def test_a_table_that_computes_its_columns_is_left_behind(
    store: Path, stranger: duckdb.DuckDBPyConnection, caplog: pytest.LogCaptureFixture
) -> None:
    (make, *_) = create_table(TABLES["published"])
    generated = make.replace('"citation" VARCHAR', '"citation" VARCHAR AS (upper(model))')
    stranger.execute(
        f"DROP TABLE published; {generated}; INSERT INTO published (model) VALUES ('m')"
    )
    stranger.close()
    build(store, {}, keep=TABLES)
    assert "table published (other columns)" in caplog.text
    with connect(store, token_stats=False) as connection:
        assert connection.execute("FROM published").fetchall() == []


def test_rows_that_break_the_key_are_left_behind(
    store: Path, stranger: duckdb.DuckDBPyConnection, caplog: pytest.LogCaptureFixture
) -> None:
    stranger.execute(
        "CREATE TABLE twice AS FROM cka UNION ALL FROM cka; DROP TABLE cka; "
        "ALTER TABLE twice RENAME TO cka"
    )
    stranger.close()
    build(store, {}, keep=TABLES)
    assert "table cka (Constraint Error: " in caplog.text
    with connect(store, token_stats=False) as connection:
        assert connection.execute("FROM cka").fetchall() == []
        assert connection.execute("SELECT count(*) FROM layers").fetchall() == [(3,)]


@pytest.mark.parametrize("name", ["profiles.duckdb", "profiles.duckdb.wal"])
def test_a_link_leads_nowhere(store: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(store / "profiles.duckdb", tmp_path / "outside")
    (store / name).unlink(missing_ok=True)
    (store / name).symlink_to(tmp_path / "outside")
    before = (tmp_path / "outside").read_bytes()
    for work in (lambda: connect(store), lambda: build(store, {}, keep=TABLES)):
        with pytest.raises(FormatError, match="symbolic link") as caught:
            work()
        assert caught.value.kind is ErrorKind.CORRUPT
    assert (tmp_path / "outside").read_bytes() == before
