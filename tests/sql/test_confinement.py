"""Every way out of the database that DuckDB offers to SQL, tried for real."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from lpp.sql import arrow_schema, build, connect, saved_queries
from lpp.sql.cli import main
from lpp.sql.confinement.connection_lock import SETTABLE

FILES = "Add --allow-files"
OUTSIDE = "--shell --allow-files"
SETTING = "Settings are locked"
SQL = "lpp-sql --schema"  # DuckDB knows no such thing
SECRET = "the-secret-of-another-file"
NEW = int(duckdb.__version__.split(".")[0]) >= 2


@dataclass
class Place:
    """A store, a working directory with files of the user, and a server that notes requests."""

    root: Path
    work: Path
    port: int
    requests: list[str] = field(default_factory=list)

    def fill(self, sql: str) -> str:
        """`sql` with the paths and the address of this place."""
        url = f"http://127.0.0.1:{self.port}"
        return sql.format(db=self.database, file=self.work / "f.csv", new="new", url=url)

    @property
    def database(self) -> Path:
        return self.root / "profiles.duckdb"

    def state(self) -> dict[str, bytes]:
        """Every file below the store and the working directory, and every request."""
        files = [path for top in (self.root, self.work) for path in sorted(top.rglob("*"))]
        state = {str(path): path.read_bytes() for path in files if path.is_file()}
        return {
            **state,
            **{str(p): b"" for p in files if p.is_dir()},
            **dict.fromkeys(self.requests, b""),
        }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    top = tmp_path_factory.mktemp("lock")
    place = Place(top / "store", top / "work", 0)
    for folder in (place.root, place.work):
        folder.mkdir()
    (place.root / "lpp.json").write_text('{"format": "lpp-store", "version": 1}')
    (place.work / "f.csv").write_text(f"name\n{SECRET}\n")
    (place.work / "ex").mkdir()
    (place.work / "ex" / "schema.sql").write_text("CREATE TABLE taken AS SELECT 1;")
    build(place.root, {})
    with connect(place.root, write=True, token_stats=False) as connection:
        connection.execute("INSERT INTO runs (run) VALUES ('r')")

    class Noting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            place.requests.append(f"{self.command} {self.path}")
            self.send_error(404)

        do_HEAD = do_PUT = do_POST = do_GET  # noqa: N815 -- the names that http.server calls

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Noting) as server:
        place.port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield place
        server.shutdown()


@pytest.fixture(autouse=True)
def _unchanged(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that these tests do leaves a trace, on disk or on the network."""
    monkeypatch.chdir(place.work)
    before = place.state()
    yield
    assert place.state() == before


def ask(place: Place, sql: str, *options: str) -> Result:
    return CliRunner().invoke(main, [str(place.root), place.fill(sql), *options])


def run_all(connection: duckdb.DuckDBPyConnection, sql: str) -> list[object]:
    """The rows of each statement of `sql` up to the first that DuckDB refuses."""
    rows: list[object] = []
    with suppress(duckdb.Error, ValueError):  # ValueError: a type that its package cannot name
        for statement in connection.extract_statements(sql):
            rows += connection.execute(statement).fetchall()
    return rows


WAYS = [
    # COPY and databases as files
    ("COPY runs TO '{new}.csv'", FILES),
    ("COPY (SELECT 1) TO '{new}.parquet' (FORMAT parquet)", FILES),
    ("COPY runs FROM '{file}'", FILES),
    ("/* a */ COPY -- b\n runs TO '{new}.csv'", FILES),
    ("SELECT 1; SELECT 2; COPY runs TO '{new}.csv'; SELECT 3", FILES),
    ("COPY (SELECT 1) TO '{db}' (FORMAT csv, USE_TMP_FILE false)", FILES),
    ("EXPLAIN ANALYZE COPY (SELECT 1) TO '{db}' (FORMAT csv, USE_TMP_FILE false)", FILES),
    ("PREPARE p AS COPY (SELECT 1) TO '{db}' (USE_TMP_FILE false); EXECUTE p", FILES),
    ("COPY (PIVOT (FROM runs) ON run USING count(*)) TO '{new}.csv'", FILES),
    ("EXPLAIN ANALYZE COPY (PIVOT (FROM runs) ON run USING count(*)) TO '{new}.csv'", ""),
    ("USE memory; DETACH lpp; COPY (SELECT 1) TO '{db}' (USE_TMP_FILE false)", FILES),
    ("USE memory; DETACH lpp; ATTACH '{db}' AS q; CREATE TABLE q.evil (a INTEGER)", FILES),
    ("ATTACH OR REPLACE ':memory:' AS lpp", FILES),
    ("EXPORT DATABASE 'ex2'", FILES),
    ("IMPORT DATABASE 'ex'", FILES),
    ("PRAGMA import_database('ex')", FILES),
    ("ATTACH '{new}.duckdb' AS q", FILES),
    ("ATTACH '{new}.db' AS q (TYPE sqlite)", FILES),
    ("ATTACH '{url}/x.duckdb' AS q", FILES),
    ("ATTACH 's3://bucket/x' AS q", FILES),
    # extensions
    ("INSTALL httpfs", OUTSIDE),
    ("INSTALL httpfs FROM '{url}'", OUTSIDE),
    ("INSTALL '{url}/x.duckdb_extension'", OUTSIDE),
    ("FORCE INSTALL spatial FROM community", OUTSIDE),
    ("LOAD httpfs", OUTSIDE),
    ("LOAD '{new}.duckdb_extension'", OUTSIDE),
    ("UPDATE EXTENSIONS", OUTSIDE),
    ("EXPLAIN ANALYZE LOAD '{new}.duckdb_extension'", OUTSIDE),
    ("/* a */ EXPLAIN /* é */ (ANALYZE, FORMAT json) -- b\n LOAD httpfs", OUTSIDE),
    ("SELECT 'é'; EXPLAIN INSTALL httpfs; SELECT 3", OUTSIDE),
    (f"EXPLAIN ANALYZE {12 * chr(0xA0)}/*SELECT 1--*/LOAD '{{new}}'", OUTSIDE),
    (f"EXPLAIN ANALYZE {12 * chr(0x200B)}/*SELECT 1--*/LOAD '{{new}}'", ""),
    # functions that read files, under every disguise
    ("FROM read_text('{file}')", FILES),
    ("FROM read_blob('{file}')", FILES),
    ("FROM read_csv('{file}')", FILES),
    ("FROM read_parquet('{file}')", FILES),
    ("FROM read_json('{file}')", FILES),
    ("FROM sniff_csv('{file}')", FILES),
    ("FROM parquet_metadata('{file}')", FILES),
    ("FROM glob('*')", FILES),
    ("FROM 'f.csv'", FILES),
    ("FROM '{file}'", FILES),
    ("FROM query('FROM read_text(''{file}'')')", FILES),
    ("PREPARE p AS FROM read_text('{file}'); EXECUTE p", FILES),
    ("CREATE TEMP MACRO m() AS TABLE FROM read_text('{file}'); FROM m()", FILES),
    ("CREATE TEMP VIEW v AS FROM read_csv('{file}'); FROM v", FILES),
    ("SET VARIABLE f = '{file}'; FROM read_text(getvariable('f'))", FILES),
    ("FROM destroy_external_resource('read_text', '{file}')", ""),
    ("PRAGMA json_execute_serialized_sql(json_serialize_sql('FROM read_text(''{file}'')'))", FILES),
    # network
    ("FROM '{url}/x.parquet'", FILES),
    ("FROM read_csv('{url}/x.csv')", FILES),
    ("FROM 's3://bucket/x.parquet'", FILES),
    ("CREATE SECRET s (TYPE s3)", OUTSIDE),
    ("CREATE PERSISTENT SECRET s (TYPE http, BEARER_TOKEN 'x')", ""),
    # settings
    ("SET enable_external_access = true", SETTING),
    ("RESET enable_external_access", SETTING),
    ("SET lock_configuration = false", SETTING),
    ("RESET lock_configuration", SETTING),
    ("PRAGMA lock_configuration = false", SETTING),
    ("SET allowed_paths = ['/']", SETTING),
    ("SET allowed_directories = ['/']", SETTING),
    ("SET disabled_filesystems = ''", SETTING),
    ("SET temp_directory = 'spill'", SETTING),
    ("SET extension_directory = 'ext'", SETTING),
    ("SET custom_extension_repository = '{url}'", SETTING),
    ("SET autoinstall_known_extensions = true", SETTING),
    ("SET home_directory = '.'", SETTING),
    ("SET secret_directory = '.'", ""),
    ("SET file_search_path = '/etc'", SETTING),
    ("SET log_query_path = 'queries.log'", SETTING),
    ("SET python_enable_replacements = true", SETTING),
    ("PRAGMA enable_profiling = 'json'", SETTING),
    ("SET profiling_output = 'profile.json'", SETTING),
    ("PRAGMA profile_output = 'profile.json'", SETTING),
    # what this DuckDB has not, or not any more
    ("SELECT getenv('HOME')", SQL),
    ("SELECT * FROM SQL", SQL),  # a variable of this module
    ("FROM request", SQL),  # a variable of the command
    (".read f.csv", SQL),
    (".shell ls", SQL),
    ("FROM arrow_scan(1, 1, 1)", SQL),
    ("SELECT 1::POINTER", SQL),
    # read-only
    ("CREATE TABLE mine (a INTEGER)", "--write"),
    ("CREATE MACRO mine(a) AS a", "--write"),
    ("CREATE VIEW mine AS SELECT 1", "--write"),
    ("USE memory; INSERT INTO lpp.runs (run) VALUES ('x')", "--write"),
    ("DROP TABLE runs", "--write"),
    ("DELETE FROM runs", "--write"),
    ("COPY FROM DATABASE memory TO lpp", ""),
]


@pytest.mark.slow
@pytest.mark.parametrize(("sql", "advice"), WAYS)
def test_each_way_out_is_one_message(place: Place, sql: str, advice: str) -> None:
    result = ask(place, sql)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(("Error: ", "Usage: "))
    assert advice in result.stderr
    assert SECRET not in result.output
    assert "Traceback" not in result.output


COPIES_NOTHING = "COPY FROM DATABASE memory"
"""Writes no more than `--write` allows: the database in memory is empty."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "sql",
    [sql for sql, advice in WAYS if advice != "--write" and not sql.startswith(COPIES_NOTHING)],
)
def test_each_way_out_with_write(place: Place, sql: str, tmp_path: Path) -> None:
    copy = Place(tmp_path / "store", place.work, place.port, place.requests)
    shutil.copytree(place.root, copy.root)
    result = ask(copy, sql, "--write")
    assert result.exit_code == 2, result.output
    assert SECRET not in result.output
    with connect(copy.root, token_stats=False) as connection:
        assert connection.execute("SELECT run FROM runs").fetchall() == [("r",)]


@pytest.mark.parametrize("sql", [sql for sql, advice in WAYS if advice != SQL])
def test_each_way_out_of_a_connection(place: Place, sql: str) -> None:
    # Here the lock stands alone: no statement is looked at before it runs.
    with connect(place.root, token_stats=False) as connection:
        assert SECRET not in str(run_all(connection, place.fill(sql)))


HARMLESS = [
    "CREATE TEMP TABLE t AS FROM runs; SELECT run FROM t",
    "CREATE TABLE memory.main.t AS FROM runs; SELECT run FROM memory.main.t",
    "CREATE TEMP MACRO f(a) AS a; SELECT f(run) FROM runs",
    "USE memory; SELECT run FROM lpp.runs",
    "PREPARE p AS SELECT run FROM runs; EXECUTE p",
    "SET VARIABLE v = 'r'; SELECT getvariable('v')",
    "CHECKPOINT; VACUUM; ANALYZE; SELECT run FROM runs",
    "CALL pragma_version(); SELECT run FROM runs",
    "BEGIN; SELECT run FROM runs",
    "EXPLAIN SELECT 1; SELECT run FROM runs",
    "EXPLAIN SELECT 'copy me'; SELECT run FROM runs",
    "explain analyze SELECT 'é', 'LOAD'; SELECT run FROM runs",
    "EXPLAIN (FORMAT json) FROM runs; SELECT run FROM runs",
    "EXPLAIN /* a */ (SELECT 1) UNION (SELECT 2); SELECT run FROM runs",
    "EXPLAIN ANALYZE VACUUM; SELECT run FROM runs",
    "PREPARE copy AS SELECT run FROM runs WHERE run <> 'AS COPY'; EXECUTE copy",
    'PREPARE "AS" AS (SELECT run FROM runs); EXECUTE "AS"',
    "PIVOT (SELECT run, 1 AS one FROM runs) ON one USING first(run)",
    "WITH r AS (SELECT run, 1 AS one FROM runs) FROM (PIVOT r ON one USING first(run))",
]


@pytest.mark.parametrize("sql", HARMLESS)
def test_what_stays_inside_is_let_be(place: Place, sql: str) -> None:
    result = ask(place, sql, "--format", "csv")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == "r"


@pytest.mark.skipif(not NEW, reason="DuckDB 1 locks every setting")
@pytest.mark.parametrize("name", SETTABLE)
def test_settings_that_open_nothing_may_change(place: Place, name: str) -> None:
    value = f"SELECT value FROM duckdb_settings() WHERE name = '{name}'"
    before = json.loads(ask(place, value, "--format", "json").output)[0]["value"]
    assert ask(place, f"SET {name} = '{before}'; RESET {name}; {value}").exit_code == 0


# Python


def test_variables_and_frames(place: Place) -> None:
    mine = pa.table({"a": [1, 2]})
    with connect(place.root) as connection:
        with pytest.raises(duckdb.CatalogException):
            connection.sql("FROM mine").fetchall()
        connection.register("given", mine)
        assert connection.sql("FROM given").fetchall() == [(1,), (2,)]
        assert connection.sql("FROM given").to_arrow_table() == mine
    with connect(place.root, allow_files=True, token_stats=False) as connection:
        assert connection.sql("FROM mine").fetchall() == [(1,), (2,)]


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--write"], ["--allow-files"]])
def test_hostile_names(
    empty_store: Path,
    rows: Callable[..., list[dict[str, Any]]],
    hostile: tuple[str, ...],
    options: list[str],
) -> None:
    models = pa.Table.from_pylist(rows("profiles", len(hostile)), schema=arrow_schema("profiles"))
    place = models.column_names.index("model")
    build(empty_store, {"profiles": models.set_column(place, "model", [list(hostile)])})
    query = "SELECT model FROM profiles"
    out = CliRunner().invoke(main, [str(empty_store), query, "--format", "json", *options])
    assert out.exit_code == 0, out.output
    assert sorted(row["model"] for row in json.loads(out.output)) == sorted(hostile)
    for saved in saved_queries():
        out = CliRunner().invoke(main, [str(empty_store), "--run", saved, *options])
        assert out.exit_code == 0, out.output
        assert "\x1b" not in out.output
    assert sorted(path.name for path in empty_store.iterdir()) == ["lpp.json", "profiles.duckdb"]


# With the flag


def test_files_with_the_flag(place: Place, tmp_path: Path) -> None:
    target = tmp_path / "t.csv"
    copy = f"COPY (SELECT run FROM runs) TO '{target}'; FROM '{target}'"
    assert ask(place, copy, "--allow-files", "--format", "csv").output == "run\nr\n"
    other = f"ATTACH '{tmp_path}/o.duckdb' AS o; CREATE TABLE o.t AS FROM runs; DETACH o"
    assert ask(place, other, "--allow-files").exit_code == 0
    assert "--write" in ask(place, "DELETE FROM runs", "--allow-files").stderr
    with connect(place.root, allow_files=True, token_stats=False) as connection:
        assert connection.execute(f"SELECT run FROM '{target}'").fetchall() == [("r",)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "sql",
    [
        *(sql for sql, advice in WAYS if advice == OUTSIDE),
        "FROM '{url}/x.parquet'",
        "FROM read_csv('{url}/x.csv')",
        "FROM 's3://bucket/x.parquet'",
        "ATTACH '{url}/x.duckdb' AS q",
        "ATTACH '{new}.db' AS q (TYPE sqlite)",
    ],
)
def test_no_flag_opens_the_network(place: Place, sql: str) -> None:
    result = ask(place, sql, "--allow-files")
    assert result.exit_code == 2, result.output
    assert OUTSIDE in result.stderr
    with connect(place.root, allow_files=True, token_stats=False) as connection:
        run_all(connection, place.fill(sql))
