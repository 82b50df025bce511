"""Connections: which store, which file, which mode, and `token_stats`."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from lpp.sql import TABLES, TOKEN_STATS, build, connect
from lpp.sql.faults import opening_fault
from lpp.store.errors import ConflictError, ErrorKind, FormatError, InputError

Rows = Callable[[str, int], list[dict[str, Any]]]
Shard = Callable[..., Path]
COLUMNS = [column.name for column in TOKEN_STATS.columns]


@pytest.fixture
def token_store(store: Path, rows: Rows, write_shard: Shard) -> tuple[Path, list[dict[str, Any]]]:
    """Two runs, three committed shards, and what must not count; with the rows that must."""
    made = rows("token_stats", 12)
    for number, row in enumerate(made):
        row["run"] = "a%20run" if number < 8 else "b"
    made[3]["next_logprob"] = made[3]["next_rank"] = None
    write_shard(store, "a%20run", 0, made[:4])
    write_shard(store, "a%20run", 1, made[4:8])
    write_shard(store, "b", 0, made[8:])
    write_shard(store, "b", 1, rows("token_stats", 2), committed=False)
    write_shard(store, "b", ".00002~host~1~ab", rows("token_stats", 2))
    write_shard(store, ".c~host~1~ab", 0, rows("token_stats", 2))
    (store / "runs" / "notes.txt").write_text("not a run")
    return store, made


def test_tables_need_no_qualification(store: Path):
    with connect(store) as connection:
        listed = [name for (name,) in connection.execute("SHOW TABLES").fetchall()]
        assert listed == sorted([*TABLES, "token_stats"])
        described = connection.execute("DESCRIBE profiles").fetchall()
        assert [row[0] for row in described] == [c.name for c in TABLES["profiles"].columns]
        assert connection.execute("SELECT count(*) FROM profiles").fetchone() == (3,)
        assert connection.execute("SELECT count(*) FROM lpp.main.profiles").fetchone() == (3,)


@pytest.mark.parametrize("form", ["path", "text", "url", "relative"])
def test_forms_of_a_store(store: Path, form: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(store.parent)
    url = {
        "path": store,
        "text": str(store),
        "url": f"file://{store}",
        "relative": store.name,
    }[form]
    with connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (3,)


def test_a_store_named_like_a_duckdb_prefix(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.move(store, tmp_path / "md:x")
    monkeypatch.chdir(tmp_path)
    with connect("md:x") as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (3,)


def test_token_stats_are_the_rows_of_committed_shards(token_store):
    store, made = token_store
    with connect(store) as connection:
        found = connection.execute("FROM token_stats ORDER BY run, prompt_id").fetchall()
        assert [dict(zip(COLUMNS, row, strict=True)) for row in found] == made
        counts = connection.execute(
            "SELECT run, count(*), count(next_rank) FROM token_stats GROUP BY run ORDER BY run"
        ).fetchall()
        assert counts == [("a%20run", 8, 7), ("b", 4, 4)]


def test_token_stats_may_be_read_twice_in_one_query(token_store):
    store, made = token_store
    with connect(store) as connection:
        joined = connection.execute(
            "SELECT count(*) FROM token_stats a JOIN token_stats b USING (run, prompt_id, position)"
        ).fetchone()
    assert joined == (len(made),)


def test_a_query_about_one_run_opens_no_file_of_another(token_store):
    store, _ = token_store
    (store / "runs" / "b" / "shards" / "00000" / "tokens.arrow").write_bytes(b"garbage")
    with connect(store) as connection:
        query = "SELECT count(*), sum(prompt_id) FROM token_stats WHERE run = 'a%20run'"
        assert connection.execute(query).fetchone() == (8, sum(1000 * k + 2 for k in range(1, 9)))
        with pytest.raises(duckdb.Error, match=r"tokens\.arrow"):
            connection.execute("SELECT sum(prompt_id) FROM token_stats").fetchall()


def test_token_stats_join_the_tables(token_store):
    store, _ = token_store
    with connect(store) as connection:
        found = connection.execute(
            "SELECT count(*) FROM token_stats t LEFT JOIN runs r USING (run) WHERE r.run IS NULL"
        ).fetchone()
    assert found == (12,)


def test_token_stats_of_a_store_without_runs_are_empty(store: Path):
    with connect(store) as connection:
        assert connection.execute("FROM token_stats").fetchall() == []
        described = connection.execute("DESCRIBE token_stats").fetchall()
    assert [row[:2] for row in described] == [(c.name, c.type) for c in TOKEN_STATS.columns]


def test_unread_token_stats_are_listed_and_never_silently_empty(token_store):
    store, _ = token_store
    with connect(store, token_stats=False) as connection:
        assert ("token_stats",) in connection.execute("SHOW TABLES").fetchall()
        described = connection.execute("DESCRIBE token_stats").fetchall()
        assert [row[:2] for row in described] == [(c.name, c.type) for c in TOKEN_STATS.columns]
        for query in (
            "SELECT count(*) FROM token_stats",
            "SELECT run FROM token_stats LIMIT 0 + 1",
        ):
            with pytest.raises(duckdb.Error, match="only when the SQL names it"):
                connection.execute(query).fetchall()


def test_unread_token_stats_import_no_heavy_library(store: Path):
    code = (
        "import sys; from lpp.sql import connect; c = connect(sys.argv[1], token_stats=False);"
        "print(c.execute('SELECT count(*) FROM profiles').fetchone());"
        "print([m for m in ('numpy', 'pandas', 'polars', 'pyarrow', 'torch', 'zarr')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(store)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "(3,)\n[]\n"


def test_a_committed_shard_without_its_file_is_corrupt(token_store):
    store, _ = token_store
    gone = store / "runs" / "b" / "shards" / "00000" / "tokens.arrow"
    gone.unlink()
    with pytest.raises(FormatError, match="lpp-analyze verify") as caught:
        connect(store)
    assert caught.value.kind is ErrorKind.CORRUPT
    assert str(gone) in str(caught.value)


def test_read_only_is_the_default(store: Path):
    with connect(store) as connection:
        for statement in (
            "INSERT INTO runs (run) VALUES ('x')",
            "DELETE FROM runs",
            "DROP TABLE runs",
            "CREATE TABLE mine (a INTEGER)",
        ):
            with pytest.raises(duckdb.Error, match="read-only"):
                connection.execute(statement)


def test_write_lasts(store: Path):
    with connect(store, write=True) as connection:
        connection.execute("INSERT INTO runs (run) VALUES ('by hand')")
    assert sorted(p.name for p in store.iterdir()) == ["lpp.json", "profiles.duckdb"]
    with connect(store) as connection:
        assert ("by hand",) in connection.execute("SELECT run FROM runs").fetchall()


def test_writing_keeps_the_storage_version(store: Path):
    with connect(store, write=True) as connection:
        connection.execute("CREATE TABLE mine AS SELECT range AS n FROM range(100_000)")
    header = (store / "profiles.duckdb").read_bytes()[12:20]
    assert int.from_bytes(header, "little") == 64


def test_readers_share_and_a_writer_does_not(store: Path):
    with connect(store) as one, connect(store) as two:
        assert one.execute("FROM runs").fetchall() == two.execute("FROM runs").fetchall()
    if duckdb.__version__ < "2":
        pytest.skip("before DuckDB 2 only another process is kept out, see test_build")
    with connect(store, write=True), pytest.raises(ConflictError) as caught:
        connect(store)
    assert caught.value.kind is ErrorKind.IN_USE


def test_no_profiles_yet_names_the_command(empty_store: Path):
    with pytest.raises(InputError, match=r"lpp-analyze profile .*store") as caught:
        connect(empty_store)
    assert caught.value.kind is ErrorKind.NOT_FOUND


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        (None, ErrorKind.NOT_A_STORE),
        ("{", ErrorKind.NOT_A_STORE),
        ("[]", ErrorKind.NOT_A_STORE),
        ('{"format": "lpp-store"}', ErrorKind.NOT_A_STORE),
        ('{"format": "other", "version": 1}', ErrorKind.NOT_A_STORE),
        ('{"format": "lpp-store", "version": 2}', ErrorKind.UNSUPPORTED_VERSION),
        ('{"format": "lpp-store", "version": "1"}', ErrorKind.UNSUPPORTED_VERSION),
    ],
)
def test_not_a_store(store: Path, document: str | None, kind: ErrorKind):
    (store / "lpp.json").unlink()
    if document is not None:
        (store / "lpp.json").write_text(document)
    with pytest.raises(FormatError) as caught:
        connect(store)
    assert caught.value.kind is kind
    assert str(store) in str(caught.value)


def test_no_such_directory_and_no_such_scheme(tmp_path: Path):
    with pytest.raises(FormatError, match="no such directory"):
        connect(tmp_path / "nothing")
    with pytest.raises(InputError, match="hdfs://"):
        connect("hdfs://lab/lpp")


@pytest.mark.parametrize("damage", ["garbage", "empty", "cut"])
def test_a_damaged_database_names_the_command(store: Path, damage: str):
    database = store / "profiles.duckdb"
    whole = database.read_bytes()
    database.write_bytes({"garbage": b"garbage" * 9999, "empty": b"", "cut": whole[:9000]}[damage])
    with pytest.raises(FormatError, match="lpp-analyze profile") as caught:
        connect(store)
    assert caught.value.kind is ErrorKind.CORRUPT


def test_a_newer_database_says_so():
    # The words of DuckDB 1.3 about a file of 2.0; a file from the future cannot be made here.
    words = duckdb.IOException(
        "IO Error: Trying to read a database file with version number 999, "
        "but we can only read versions between 64 and 66.\nThe database file was created with ..."
    )
    fault = opening_fault(words, Path("lpp/profiles.duckdb"), Path("lpp"))
    assert isinstance(fault, FormatError)
    assert fault.kind is ErrorKind.UNSUPPORTED_VERSION
    assert "pip install --upgrade duckdb" in str(fault)


def test_hostile_run_and_model_names(
    empty_store: Path, tables, hostile: tuple[str, ...], rows: Rows, write_shard: Shard
):
    profiles = tables["profiles"]
    place = profiles.column_names.index("model")
    build(empty_store, {"profiles": profiles.set_column(place, "model", [list(hostile)])})
    runs = [name.replace("/", "_").lstrip(".") for name in hostile]
    for run in runs:
        write_shard(empty_store, run, 0, rows("token_stats", 2))
    with connect(empty_store) as connection:
        models = connection.execute("SELECT model FROM profiles ORDER BY run").fetchall()
        assert [model for (model,) in models] == list(hostile)
        found = connection.execute("SELECT DISTINCT run FROM token_stats ORDER BY 1").fetchall()
        assert [run for (run,) in found] == sorted(runs)
        for run in runs:
            count = connection.execute(
                "SELECT count(*) FROM token_stats WHERE run = ?", [run]
            ).fetchone()
            assert count == (2,)


def test_token_files_without_the_later_column_read_as_null(
    store: Path, rows: Rows, write_shard: Shard
):
    made = rows("token_stats", 4)
    for row in made:
        row["run"] = "a"
    write_shard(store, "a", 0, made[:2], without=("varentropy",))
    write_shard(store, "a", 1, made[2:])
    with connect(store) as connection:
        found = connection.execute(
            "SELECT varentropy, top1_id FROM token_stats ORDER BY ALL"
        ).fetchall()
    expected = [(row["varentropy"], row["top1_id"]) for row in made[2:]]
    assert found == [*expected, *((None, row["top1_id"]) for row in made[:2])]
