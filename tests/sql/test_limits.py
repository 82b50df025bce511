"""Memory, disk and time that a query may take, and what a killed command leaves."""

import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from lpp.sql import connect
from lpp.sql.confinement.time_limit import run_limited

Run = Callable[..., subprocess.CompletedProcess[bytes]]
NEW = int(duckdb.__version__.split(".")[0]) >= 2
ENDLESS = "SELECT sum(a.range * b.range) AS s FROM range(1_000_000) a, range(1_000_000) b"
SMALL = "SET memory_limit = '60MB'; SET threads = 1; "
FILL = "CREATE TEMP TABLE t AS SELECT hash(range) AS a, repeat('x', 40) || range AS b "
SORT = (
    f"{FILL} FROM range(2_000_000); SELECT count(*) AS n FROM (FROM t ORDER BY a LIMIT 1_900_000)"
)


@pytest.mark.slow
def test_a_sort_larger_than_memory_spills_and_leaves_nothing(
    store: Path, tmp_path: Path, lpp_sql: Run
) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    spilled = "SELECT count(*) AS n, sum(size) > 0 AS spilled FROM t, duckdb_temporary_files()"
    sql = f"{SMALL if NEW else ''}{SORT}; {spilled}"
    done = lpp_sql(store, sql, "--format", "csv", env={"TMPDIR": str(folder)})
    assert done.returncode == 0, done.stderr
    if NEW:
        assert done.stdout.splitlines()[1].endswith(b"true")
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_spilled_rows_are_for_this_user_alone(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with connect(store, allow_files=True, token_stats=False):
        (folder,) = temporary.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
    connect(store, token_stats=False).close()
    connect(store, write=True, token_stats=False).close()
    gc.collect()
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("write", [False, True])
def test_a_connection_without_files_does_not_spill(store: Path, write: bool) -> None:
    with connect(store, write=write, token_stats=False) as connection:
        settings = dict(connection.execute("SELECT name, value FROM duckdb_settings()").fetchall())
    assert settings["temp_directory"] == ""


def limit_of(store: Path, lpp_sql: Run, *options: str) -> str:
    query = "SELECT value FROM duckdb_settings() WHERE name = 'max_temp_directory_size'"
    return lpp_sql(store, query, "--format", "csv", *options).stdout.decode().split("\n")[1]


@pytest.mark.slow
def test_the_disk_has_a_limit_that_can_be_raised(store: Path, lpp_sql: Run) -> None:
    number, unit = limit_of(store, lpp_sql).split()
    assert float(number) <= 10
    assert unit in ("MiB", "GiB")
    assert limit_of(store, lpp_sql, "--spill-limit", "64GiB") == "64.0 GiB"


@pytest.mark.slow
@pytest.mark.skipif(not NEW, reason="DuckDB 1 locks every setting, memory_limit too")
def test_a_query_that_spills_too_much(store: Path, lpp_sql: Run) -> None:
    done = lpp_sql(store, SMALL + SORT, "--spill-limit", "8MiB")
    assert done.returncode == 2
    assert b"--spill-limit" in done.stderr
    assert lpp_sql(store, SMALL + SORT, "--spill-limit", "2GiB").returncode == 0


@pytest.mark.parametrize("size", ["8", "90%", "lots", "-1GB", "8GB'; SELECT 1"])
def test_what_is_no_size(store: Path, lpp_sql: Run, size: str) -> None:
    done = lpp_sql(store, "SELECT 1", "--spill-limit", size)
    assert done.returncode == 2
    assert b"not a size such as 500MB or 50GiB" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--format", "csv"), ("-o", "x.parquet")])
def test_a_query_that_takes_too_long(
    store: Path, tmp_path: Path, lpp_sql: Run, options: tuple[str, ...]
) -> None:
    done = lpp_sql(store, ENDLESS, "--timeout", "0.5", *options, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"stopped after 0.5 seconds" in done.stderr
    assert b"--timeout SECONDS" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [store.name]


def test_the_time_limit_is_positive(store: Path, lpp_sql: Run) -> None:
    for seconds in ("0", "-1", "nan", "soon"):
        done = lpp_sql(store, "SELECT 1", "--timeout", seconds)
        assert (done.returncode, b"--timeout" in done.stderr) == (2, True)


@pytest.mark.slow
def test_the_next_command_sweeps_what_a_killed_one_left(
    store: Path, tmp_path: Path, lpp_sql: Run
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    command = [str(Path(sys.executable).with_name("lpp-sql")), str(store), ENDLESS]
    with subprocess.Popen(command, env=environment, stdout=-1, stderr=-1) as process:
        while not list(temporary.iterdir()):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        (folder,) = temporary.iterdir()
        assert lpp_sql(store, "SELECT 1", env=environment).returncode == 0
        assert list(temporary.iterdir()) == [folder]  # of a process that lives
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert list(temporary.iterdir()) == [folder]
    assert lpp_sql(store, "SELECT 1", env=environment).returncode == 0
    assert list(temporary.iterdir()) == []


def test_an_interrupt_while_the_query_begins_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    ended = threading.Event()

    def work() -> None:
        try:
            connection.execute(ENDLESS)
        finally:
            ended.set()

    with closing(duckdb.connect()) as connection:
        monkeypatch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_limited(connection, work, 60)
        assert ended.is_set()


def test_an_interrupt_before_the_query_begins_lets_none_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: list[threading.Thread] = []
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        held.append(thread)
        raise KeyboardInterrupt

    done: list[str] = []
    with closing(duckdb.connect()) as connection:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run_limited(connection, lambda: done.append("asked"), 60)
        (thread,) = held
        start(thread)
        thread.join(60)
    assert done == []
