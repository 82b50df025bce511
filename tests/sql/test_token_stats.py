"""`token_stats` is made of files that were compared with their record, or not at all."""

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sealed import reseal
from written_run import write_run

from lpp.sql import TOKEN_STATS, build, connect
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.quarantine import QUARANTINE_SCHEMA

COLUMNS = [column.name for column in TOKEN_STATS.columns]
EVERY = "FROM token_stats ORDER BY run, prompt_id, position"
Run = Callable[..., subprocess.CompletedProcess[bytes]]


def rows_of(root: Path) -> list[dict[str, Any]]:
    with connect(root) as connection:
        found = connection.execute(EVERY).fetchall()
    return [dict(zip(COLUMNS, row, strict=True)) for row in found]


def refusal(root: Path) -> FormatError:
    """The error of a connection that would read a damaged file."""
    with pytest.raises(FormatError) as caught:
        connect(root)
    assert caught.value.kind is ErrorKind.CORRUPT
    return caught.value


@pytest.mark.slow
def test_the_rows_of_committed_shards(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, two = write_run(store), write_run(store, "Lab/b", ((1,), (2, 6)))
    (store / "runs" / "notes.txt").write_text("not a run")
    shutil.copytree(two.path, store / "runs" / ".c~host~1~ab")
    shutil.copytree(two.shard(0), two.shard(0).with_name(".00002~host~1~ab"))
    assert rows_of(store) == one.rows + two.rows
    assert caplog.messages == []


@pytest.mark.slow
def test_an_incomplete_run_is_said_to_be(
    store: Path, lpp_sql: Run, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run(store, shards=((1,), (2,), (3,)), missing=(1,))
    assert rows_of(store) == run.rows
    (message,) = caplog.messages
    assert f"1 of {run.id}" in message
    assert f"lpp-analyze verify {store}" in message
    words = ["SELECT count(*) AS n FROM token_stats", "--format", "csv"]
    done = lpp_sql(store, *words, own_process=True)
    assert (done.returncode, done.stdout) == (0, b"n\n4\n")
    assert done.stderr.decode() == message + "\n"


def test_quarantined_prompts_are_left_out(store: Path) -> None:
    one = write_run(store, quarantined=(1, 2))
    two = write_run(store, "Lab/b")
    assert {row["prompt_id"] for row in one.rows} == {0}
    assert rows_of(store) == one.rows + two.rows


def test_what_a_model_wrote_is_marked(store: Path) -> None:
    plain = write_run(store)
    wrote = write_run(store, "Lab/b", ((3, 2), (4,)), given=(1, 1, 1))
    bad = write_run(store, "Lab/c", ((3, 2), (4,)), given=(1, 1, 1), quarantined=(0,))
    assert rows_of(store) == plain.rows + wrote.rows + bad.rows
    with connect(store) as connection:
        found = connection.execute(
            "SELECT run, count(*) FROM token_stats WHERE written GROUP BY run ORDER BY run"
        ).fetchall()
    assert found == [(wrote.id, 6), (bad.id, 4)]


def test_the_view_may_be_used_twice_and_joined(store: Path) -> None:
    run = write_run(store)
    with connect(store) as connection:
        joined = connection.execute(
            "SELECT count(*) FROM token_stats a JOIN token_stats b USING (run, prompt_id, position)"
        ).fetchone()
        others = connection.execute(
            "SELECT count(*) FROM token_stats t LEFT JOIN runs r USING (run) WHERE r.run IS NULL"
        ).fetchone()
    assert joined == others == (len(run.rows),)


def test_a_query_about_one_run(store: Path) -> None:
    one, two = write_run(store), write_run(store, "Lab/b", ((5,),))
    with connect(store) as connection:
        query = "SELECT count(*), sum(token_id) FROM token_stats WHERE run = ?"
        for run in (one, two):
            expected = len(run.rows), sum(row["token_id"] for row in run.rows)
            assert connection.execute(query, [run.id]).fetchone() == expected


def test_a_store_without_runs(store: Path) -> None:
    with connect(store) as connection:
        assert connection.execute("FROM token_stats").fetchall() == []
        described = connection.execute("DESCRIBE token_stats").fetchall()
    assert [row[:2] for row in described] == [(c.name, c.type) for c in TOKEN_STATS.columns]


def test_unread_it_is_listed_and_never_silently_empty(store: Path) -> None:
    write_run(store)
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


def test_files_without_the_later_column_read_as_null(store: Path) -> None:
    run = write_run(store)
    path = run.file(0, "tokens.arrow")
    table = pa.ipc.open_file(path.read_bytes()).read_all().drop_columns(["varentropy"])
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)
    reseal(run.shard(0))
    for row in run.rows[:5]:
        row["varentropy"] = None
    assert rows_of(store) == run.rows


# What was altered


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tokens.arrow", "quarantine.arrow", "COMMIT.json"])
def test_a_flipped_bit_never_gives_a_wrong_answer(
    store: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run(store, quarantined=(1,))
    path = run.file(0, name)
    whole = path.read_bytes()
    rng = random.Random(7)
    for _ in range(60):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        caplog.clear()
        if name != "COMMIT.json":
            assert "lpp-analyze verify" in str(refusal(store))
            continue
        try:
            found = rows_of(store)
        except FormatError:
            continue
        if found != run.rows:  # the shard does not count, and a line says so
            assert found == [row for row in run.rows if row["prompt_id"] > 1]
            assert f"1 of {run.id}" in caplog.text
    path.write_bytes(whole)
    assert rows_of(store) == run.rows


@pytest.mark.slow
def test_a_flipped_bit_ends_the_command(store: Path, lpp_sql: Run) -> None:
    path = write_run(store).file(1, "tokens.arrow")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = lpp_sql(store, "SELECT avg(entropy) FROM token_stats")
    assert (done.returncode, done.stdout) == (2, b"")
    assert str(path) in done.stderr.decode()
    assert f"lpp-analyze verify {store}" in done.stderr.decode()
    assert lpp_sql(store, "SELECT count(*) FROM runs").returncode == 0


def test_a_shard_of_another_run_does_not_count(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = write_run(store), write_run(store, "Lab/b")
    hidden = one.shard(0).with_name("hidden")
    one.shard(0).rename(hidden)
    two.shard(0).rename(one.shard(0))
    hidden.rename(two.shard(0))
    found = rows_of(store)
    assert found == [row for row in one.rows + two.rows if row["prompt_id"] == 2]
    assert f"1 of {one.id}, 1 of {two.id}" in caplog.text


@pytest.mark.parametrize("name", ["tokens.arrow", "quarantine.arrow"])
@pytest.mark.parametrize("what", ["pipe", "link", "directory", "nothing"])
def test_no_plain_file(store: Path, tmp_path: Path, name: str, what: str) -> None:
    path = write_run(store, quarantined=(0,)).file(0, name)
    path.rename(tmp_path / "outside")
    if what == "pipe":
        os.mkfifo(path)
    elif what == "link":
        path.symlink_to(tmp_path / "outside")
    elif what == "directory":
        path.mkdir()
    assert str(path) in str(refusal(store))


@pytest.mark.slow
def test_a_quarantine_that_unpacks_to_too_much(store: Path) -> None:
    run = write_run(store, quarantined=(0,))
    path = run.file(0, "quarantine.arrow")
    count = 1 << 14
    columns = [np.arange(count, dtype=np.int32), [""] * count, [None] * count, [None] * count]
    table = pa.table([*columns, ["x" * 20_000] * count], schema=QUARANTINE_SCHEMA)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(str(path), table.schema, options=options) as file:
        file.write_table(table)
    assert table.nbytes > 300 << 20
    assert path.stat().st_size < 1 << 20
    reseal(run.shard(0), lambda record: record.update(quarantine=count))
    assert str(path) in str(refusal(store))


# Names


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a[b]c", "a*b", "a?b", "a\\b", "it's {a,b} 100%\n%20 é漢 \"#;"])
def test_a_store_may_lie_anywhere(
    tmp_path: Path, name: str, tables: dict[str, pa.Table], lpp_sql: Run
) -> None:
    root = tmp_path / name
    run = write_run(root)
    for other in ("abc", "aXb"):  # what a pattern would find
        write_run(tmp_path / other, "Lab/other")
        build(tmp_path / other, {})
    build(root, tables)
    build(root, {}, keep=["runs"])
    assert rows_of(root) == run.rows
    query = "SELECT (SELECT count(*) FROM runs) AS r, count(*) AS t FROM token_stats"
    done = lpp_sql(root, query, "-o", root / "out.parquet")
    assert (done.stderr, done.stdout) == (b"", b"")
    assert pq.read_table(root / "out.parquet").to_pylist() == [{"r": 3, "t": 9}]
    done = lpp_sql(root, "DELETE FROM runs", "--write")
    if {"?", "\\"} & set(name):  # which DuckDB would write elsewhere
        assert (done.returncode, b"Rename the directory" in done.stderr) == (2, True)
    else:
        assert (done.returncode, done.stderr) == (0, b"")
        done = lpp_sql(root, "SELECT count(*) AS n FROM runs", "--format", "csv", "--allow-files")
        assert done.stdout == b"n\n0\n"
    left = {"lpp.json", "profiles.duckdb", "runs", "out.parquet"}
    assert {path.name for path in root.iterdir()} == left
