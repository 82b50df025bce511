"""Connections: which store, which file, which mode, and `token_stats`."""

import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from lpp.sql import connect
from lpp.sql.database.faults import opening_fault
from lpp.store.errors import ConflictError, ErrorKind, FormatError, InputError


@pytest.mark.parametrize("form", ["path", "text", "url", "relative"])
def test_forms_of_a_store(store: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store.parent)
    urls: dict[str, Path | str] = {
        "path": store,
        "text": str(store),
        "url": f"file://{store}",
        "relative": store.name,
    }
    with connect(urls[form]) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (3,)


def test_a_store_named_like_a_duckdb_prefix(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.move(store, tmp_path / "md:x")
    monkeypatch.chdir(tmp_path)
    with connect("md:x") as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (3,)


def test_unread_token_stats_import_no_heavy_library(store: Path) -> None:
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


def test_read_only_is_the_default(store: Path) -> None:
    with connect(store) as connection:
        for statement in (
            "INSERT INTO runs (run) VALUES ('x')",
            "DELETE FROM runs",
            "DROP TABLE runs",
            "CREATE TABLE mine (a INTEGER)",
        ):
            with pytest.raises(duckdb.Error, match="read-only"):
                connection.execute(statement)


def test_write_lasts(store: Path) -> None:
    with connect(store, write=True) as connection:
        connection.execute("INSERT INTO runs (run) VALUES ('by hand')")
    assert sorted(p.name for p in store.iterdir()) == ["lpp.json", "profiles.duckdb"]
    with connect(store) as connection:
        assert ("by hand",) in connection.execute("SELECT run FROM runs").fetchall()


def test_readers_share_and_a_writer_does_not(store: Path) -> None:
    with connect(store) as one, connect(store) as two:
        assert one.execute("FROM runs").fetchall() == two.execute("FROM runs").fetchall()
    if int(duckdb.__version__.split(".")[0]) < 2:
        pytest.skip("before DuckDB 2 only another process is kept out, see test_build")
    with connect(store, write=True), pytest.raises(ConflictError) as caught:
        connect(store)
    assert caught.value.kind is ErrorKind.IN_USE


def test_no_profiles_yet_names_the_command(empty_store: Path) -> None:
    with pytest.raises(InputError, match=r"lpp-analyze profile .*store") as caught:
        connect(empty_store, token_stats=False)
    assert caught.value.kind is ErrorKind.NOT_FOUND
    with connect(empty_store) as connection:  # what was captured needs none
        assert connection.sql("SELECT run FROM runs").fetchall() == []
        with pytest.raises(duckdb.Error, match=r"lpp-analyze profile .*store"):
            connection.sql("SELECT entropy_floor FROM profiles").fetchall()


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        (None, ErrorKind.NOT_A_STORE),
        ("{", ErrorKind.CORRUPT),
        ("[]", ErrorKind.CORRUPT),
        ('{"format": "lpp-store"}', ErrorKind.CORRUPT),
        ('{"format": "other", "version": 1}', ErrorKind.NOT_A_STORE),
        ('{"format": "lpp-store", "version": 2}', ErrorKind.UNSUPPORTED_VERSION),
        ('{"format": "lpp-store", "version": "1"}', ErrorKind.CORRUPT),
    ],
)
def test_not_a_store(store: Path, document: str | None, kind: ErrorKind) -> None:
    (store / "lpp.json").unlink()
    if document is not None:
        (store / "lpp.json").write_text(document)
    with pytest.raises(FormatError) as caught:
        connect(store)
    assert caught.value.kind is kind
    assert str(store) in str(caught.value)


def test_no_such_directory_and_no_such_scheme(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such directory"):
        connect(tmp_path / "nothing")
    with pytest.raises(InputError, match="hdfs://"):
        connect("hdfs://lab/lpp")


@pytest.mark.parametrize("damage", ["garbage", "empty", "cut"])
def test_a_damaged_database_names_the_command(store: Path, damage: str) -> None:
    database = store / "profiles.duckdb"
    whole = database.read_bytes()
    database.write_bytes({"garbage": b"garbage" * 9999, "empty": b"", "cut": whole[:9000]}[damage])
    with pytest.raises(FormatError, match="lpp-analyze profile") as caught:
        connect(store)
    assert caught.value.kind is ErrorKind.CORRUPT


def test_a_newer_database_says_so() -> None:
    # The words of DuckDB 1.3 about a file of 2.0; a file from the future cannot be made here.
    words = duckdb.IOException(
        "IO Error: Trying to read a database file with version number 999, "
        "but we can only read versions between 64 and 66.\nThe database file was created with ..."
    )
    fault = opening_fault(words, Path("lpp/profiles.duckdb"), Path("lpp"))
    assert isinstance(fault, FormatError)
    assert fault.kind is ErrorKind.UNSUPPORTED_VERSION
    assert "pip install --upgrade duckdb" in str(fault)
