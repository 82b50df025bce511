"""Building the database: whole, replaced in one step, refused when the tables do not fit."""

import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from lpp.sql import TABLES, arrow_schema, build, connect
from lpp.store.errors import ConflictError, ErrorKind, InputError
from lpp.store.objects.place import Place, place

Tables = dict[str, pa.Table]
Rows = Callable[[str, int], list[dict[str, Any]]]
SLOW = pytest.mark.slow
DATABASE = "profiles.duckdb"


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def runs_table(*ids: str) -> pa.Table:
    rows = [{"run": run, "plan": "{}"} for run in ids]
    return pa.Table.from_pylist(rows, schema=arrow_schema("runs"))


@pytest.mark.slow
def test_every_value_comes_back(empty_store: Path, tables: Tables) -> None:
    assert build(empty_store, tables) == empty_store / DATABASE
    assert names(empty_store) == ["lpp.json", DATABASE]
    with connect(empty_store) as connection:
        for name, table in tables.items():
            result = connection.execute(f"FROM {name}")
            found = [dict(zip(table.column_names, row, strict=True)) for row in result.fetchall()]
            assert found == table.to_pylist()


def test_file_is_of_the_storage_version_that_duckdb_1_reads(store: Path) -> None:
    # Bytes 12 to 19 of the header: 64 is the format of DuckDB 0.10 to 1.1; 2.0 writes 69.
    assert int.from_bytes((store / DATABASE).read_bytes()[12:20], "little") == 64


def test_wider_and_narrower_arrow_types_are_taken(empty_store: Path, tables: Tables) -> None:
    given = tables["profiles"]
    wide = {
        "run": given["run"].cast(pa.large_string()),
        "model": given["model"].cast(pa.string_view()),
        "corpus": given["corpus"].dictionary_encode(),
        "context": given["context"].cast(pa.int64()),
        "prefixes": given["prefixes"].cast(pa.large_list(pa.int64())),
        "flags": given["flags"].cast(pa.large_list(pa.large_string())),
        "entropy_floor": given["entropy_floor"].cast(pa.float32()),
        "effective_rank_prefix": pa.nulls(len(given)),
    }
    shuffled = pa.table(
        {name: wide.get(name, given[name]) for name in reversed(given.column_names)}
    )
    build(empty_store, {"profiles": shuffled})
    with connect(empty_store) as connection:
        back = connection.execute(
            "SELECT run, model, corpus, context, prefixes, flags, effective_rank_prefix "
            "FROM profiles"
        ).fetchall()
    expected = [
        (*(row[c] for c in ("run", "model", "corpus", "context", "prefixes", "flags")), None)
        for row in given.to_pylist()
    ]
    assert back == expected


def test_all_misfits_are_told_together(empty_store: Path, tables: Tables) -> None:
    bad = {
        "profils": tables["profiles"],
        "runs": tables["runs"].drop_columns(["model"]).append_column("modell", [["a", "b", "c"]]),
        "entropy": tables["entropy"].set_column(0, "run", [[1, 2, 3]]),
        "prompts": tables["prompts"].set_column(3, "n_tokens", [[1, 2, 2**40]]),
        "spectra": tables["spectra"].set_column(6, "depth", [[0.0, 1.0, 2.0]]),
    }
    with pytest.raises(InputError) as caught:
        build(empty_store, bad)
    assert caught.value.kind is ErrorKind.INVALID_VALUE
    message = str(caught.value)
    for part in (
        "profils: no such table",
        "runs.model: column missing",
        "runs.modell: unknown column",
        "entropy.run: int64, should be string",
        "prompts.n_tokens: ",
        "spectra.depth: double, should be int32",
        "lpp-sql --schema",
    ):
        assert part in message
    assert names(empty_store) == ["lpp.json"]


def test_a_column_given_twice_is_refused(empty_store: Path, tables: Tables) -> None:
    runs = tables["runs"].append_column("run", tables["runs"]["run"])
    with pytest.raises(InputError, match=r"runs\.run: given 2 times"):
        build(empty_store, {"runs": runs})


@pytest.mark.parametrize("name", TABLES)
def test_a_duplicate_key_names_table_and_key(empty_store: Path, tables: Tables, name: str) -> None:
    twice = pa.concat_tables([tables[name], tables[name].slice(1, 1)])
    with pytest.raises(InputError, match=rf"table {name}, key .*[Dd]uplicate key") as caught:
        build(empty_store, {**tables, name: twice})
    assert caught.value.kind is ErrorKind.INVALID_VALUE
    assert names(empty_store) == ["lpp.json"]


def test_a_null_key_and_malformed_json_are_refused(empty_store: Path) -> None:
    with pytest.raises(InputError, match="table runs"):
        build(empty_store, {"runs": runs_table("one").set_column(0, "run", pa.nulls(1, "string"))})
    broken = runs_table("one")
    place = broken.column_names.index("plan")
    with pytest.raises(InputError, match="table runs"):
        build(empty_store, {"runs": broken.set_column(place, "plan", [["{not json"]])})
    assert names(empty_store) == ["lpp.json"]


def test_a_failed_build_leaves_the_old_database(store: Path, tables: Tables) -> None:
    before = (store / DATABASE).read_bytes()
    with pytest.raises(InputError):
        build(store, {"runs": pa.concat_tables([tables["runs"]] * 2)})
    assert (store / DATABASE).read_bytes() == before
    assert names(store) == ["lpp.json", DATABASE]


def test_a_reader_keeps_the_old_file_and_the_next_sees_the_new(store: Path) -> None:
    with connect(store) as old:
        build(store, {"runs": runs_table("new")})
        assert old.execute("SELECT run FROM runs ORDER BY 1").fetchall() == [
            ("run-1",), ("run-2",), ("run-3",),
        ]  # fmt: skip
        with connect(store) as new:
            assert new.execute("SELECT run FROM runs").fetchall() == [("new",)]


@pytest.mark.slow
def test_a_reader_in_another_process_survives_the_replacement(store: Path) -> None:
    code = textwrap.dedent("""
        import sys
        from lpp.sql import connect
        connection = connect(sys.argv[1], token_stats=False)
        print("open", flush=True)
        sys.stdin.readline()
        print(connection.execute("SELECT count(*), min(run) FROM runs").fetchall())
    """)
    command = [sys.executable, "-c", code, str(store)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as reader:
        assert reader.stdout
        assert reader.stdout.readline() == "open\n"
        build(store, {"runs": runs_table("a-new-one")})
        out, _ = reader.communicate("\n", timeout=60)
    assert out == "[(3, 'run-1')]\n"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["disk", "misread", pytest.param("bucket", marks=SLOW)])
def test_builders_at_once_keep_each_others_rows(
    where: str, request: pytest.FixtureRequest, empty_store: Path, rows: Rows
) -> None:
    root: Place = empty_store
    if where == "misread":
        root = empty_store.rename(empty_store.with_name("what?"))
    if where == "bucket":
        s3 = request.getfixturevalue("s3")
        s3.put("some/store/lpp.json", (empty_store / "lpp.json").read_bytes())
        root = place(s3.url)
    runs, spectra = (
        pa.Table.from_pylist(rows(name, 4), schema=arrow_schema(name))
        for name in ("runs", "spectra")
    )
    build(root, {"runs": runs})

    def work(number: int) -> None:
        build(root, {"runs": runs, "spectra": spectra.slice(number, 1)}, merge=True)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    with connect(root, token_stats=False) as connection:
        found = connection.execute("SELECT run FROM spectra ORDER BY run").fetchall()
    assert found == [(run,) for run in sorted(spectra["run"].to_pylist())]


@pytest.mark.slow
def test_tables_are_made_while_no_other_builder_works(empty_store: Path) -> None:
    made: list[str] = []

    def work(run: str) -> None:
        def tables() -> Tables:
            held = [*made, run]
            time.sleep(0.02)
            made[:] = held  # two at once would lose a run
            return {"runs": runs_table(*made)}

        build(empty_store, tables)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, "abcd"))
    with connect(empty_store) as connection:
        found = connection.execute("SELECT run FROM runs ORDER BY run").fetchall()
    assert found == [("a",), ("b",), ("c",), ("d",)]


@pytest.mark.slow
def test_a_writer_is_in_the_way_and_named(store: Path) -> None:
    code = textwrap.dedent("""
        import sys
        from lpp.sql import connect
        connection = connect(sys.argv[1], write=True, token_stats=False)
        print("open", flush=True)
        sys.stdin.readline()
    """)
    command = [sys.executable, "-c", code, str(store)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == "open\n"
        with pytest.raises(ConflictError, match=str(writer.pid)) as caught:
            build(store, {})
        assert caught.value.kind is ErrorKind.IN_USE
        with pytest.raises(ConflictError, match=str(writer.pid)):
            connect(store)
        writer.communicate("\n", timeout=60)
    assert names(store) == ["lpp.json", DATABASE]
    build(store, {})


def test_the_log_of_a_killed_writer_is_not_replayed_into_the_new_file(store: Path) -> None:
    code = textwrap.dedent("""
        import os, sys
        from lpp.sql import connect
        connection = connect(sys.argv[1], write=True, token_stats=False)
        connection.execute("INSERT INTO runs (run) VALUES ('from the log')")
        os._exit(9)
    """)
    subprocess.run([sys.executable, "-c", code, str(store)], check=False)
    assert (store / f"{DATABASE}.wal").exists()
    build(store, {"runs": runs_table("new")})
    assert names(store) == ["lpp.json", DATABASE]
    with connect(store) as connection:
        assert connection.execute("SELECT run FROM runs").fetchall() == [("new",)]


def test_a_damaged_database_is_replaced(store: Path) -> None:
    (store / DATABASE).write_bytes(b"garbage" * 999)
    build(store, {"runs": runs_table("new")})
    with connect(store) as connection:
        assert connection.execute("SELECT run FROM runs").fetchall() == [("new",)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no file-size limits")
def test_no_room_is_one_message_and_leaves_the_old_database(store: Path) -> None:
    before = (store / DATABASE).read_bytes()
    code = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        from lpp.sql import build
        from lpp.store.errors import ErrorKind, MachineError
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            build(Path(sys.argv[1]), {})
        except MachineError as error:
            print(error.kind, str(error))
    """)
    done = subprocess.run(
        [sys.executable, "-c", code, str(store)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("no_space "), done.stderr
    assert re.search(r"profiles\.duckdb: no room to write .*df -h", done.stdout)
    assert names(store) == ["lpp.json", DATABASE]
    assert (store / DATABASE).read_bytes() == before


def test_permissions_follow_the_umask(store: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert (store / DATABASE).stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.slow
def test_tables_to_keep_come_along_from_the_old_file(store: Path, tables: Tables) -> None:
    kept = [name for name in TABLES if name != "runs"]
    build(store, {"runs": runs_table("new")}, keep=kept)
    with connect(store) as connection:
        for name in kept:
            rows = connection.execute(f"FROM {name}").fetchall()
            assert [dict(zip(tables[name].column_names, row, strict=True)) for row in rows] == (
                tables[name].to_pylist()
            )
        assert connection.execute("SELECT run FROM runs").fetchall() == [("new",)]
    build(store, {}, keep=["runs"])
    with connect(store) as connection:
        assert connection.execute("SELECT run FROM runs").fetchall() == [("new",)]
        assert connection.execute("SELECT count(*) FROM spectra").fetchall() == [(0,)]


@pytest.mark.slow
def test_what_an_old_file_lacks_or_has_in_another_form_is_empty(store: Path) -> None:
    with duckdb.connect(str(store / DATABASE)) as connection:
        connection.execute("ALTER TABLE entropy DROP COLUMN short_prompts; DROP TABLE spectra")
    build(store, {}, keep=TABLES)
    with connect(store) as connection:
        counts = {
            name: connection.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0]
            for name in TABLES
        }
    assert counts == {name: 0 if name in ("entropy", "spectra") else 3 for name in TABLES}


def test_nothing_is_kept_of_a_damaged_file_or_of_none(store: Path) -> None:
    (store / DATABASE).write_bytes(b"garbage" * 999)
    build(store, {"runs": runs_table("new")}, keep=TABLES)
    with connect(store) as connection:
        assert connection.execute("SELECT run FROM runs").fetchall() == [("new",)]
        assert connection.execute("SELECT count(*) FROM spectra").fetchall() == [(0,)]
    (aside,) = store.glob("*set-aside*")
    assert aside.read_bytes() == b"garbage" * 999
    aside.unlink()
    (store / DATABASE).unlink()
    build(store, {}, keep=TABLES)
    assert names(store) == ["lpp.json", DATABASE]
