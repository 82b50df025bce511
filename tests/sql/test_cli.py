"""`lpp-sql` as a user meets it: formats, refusals, messages, start-up."""

import csv
import datetime
import decimal
import io
import json
import math
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sql_output import ok, refused
from written_run import write_run

from lpp.sql import build
from lpp.store.process.signals import EXIT_USER_ERROR

Run = Callable[..., subprocess.CompletedProcess[bytes]]
Rows = Callable[[str, int], list[dict[str, Any]]]
FOUR = "SELECT * FROM profiles ORDER BY run"
KINDS = """
SELECT 1 AS whole, 0.1::FLOAT AS single, 'nan'::DOUBLE AS missing, '-inf'::DOUBLE AS low,
  1.25 AS fixed, true AS yes, NULL AS nothing, '' AS blank, 'a,"b"' || chr(10) || 'é' AS text,
  TIMESTAMP '2026-05-01 10:20:30.5' AS moment, DATE '2026-05-02' AS day, TIME '10:00' AS clock,
  ['x', NULL, 'y,z'] AS names, {'n': [1.5::DOUBLE, 'inf'::DOUBLE]} AS nested,
  '\\x01\\xFF'::BLOB AS raw,
  '{"a": [1, null]}'::JSON AS document, 170141183460469231731687303715884105727::HUGEINT AS huge
"""


# Formats


def test_table(store: Path, lpp_sql: Run) -> None:
    text = ok(lpp_sql(store, "SELECT run, site, context FROM profiles ORDER BY run"))
    assert re.search(r"│ run-2 +│ site-2 +│ +2002 │", text)
    assert max(map(len, text.splitlines())) <= 80


def test_a_table_too_wide_has_a_column_per_line(store: Path, lpp_sql: Run, rows: Rows) -> None:
    text = ok(lpp_sql(store, FOUR))
    assert max(map(len, text.splitlines())) <= 80
    assert text.splitlines()[-1] == "(3 rows)"
    for number, row in enumerate(rows("profiles", 3), start=1):
        block = text.split(f"── row {number} ")[1]
        for name, value in row.items():
            shown = json.dumps(value) if isinstance(value, list) else str(value)
            assert re.search(rf"^{name} +{re.escape(shown)}$", block, re.MULTILINE)


def test_csv_of_every_kind(store: Path, lpp_sql: Run) -> None:
    text = ok(lpp_sql(store, KINDS, "--format", "csv"))
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert row == {
        "whole": "1",
        "single": repr(float(pl.Series([0.1], dtype=pl.Float32)[0])),
        "missing": "nan",
        "low": "-inf",
        "fixed": "1.25",
        "yes": "true",
        "nothing": "",
        "blank": "",
        "text": 'a,"b"\né',
        "moment": "2026-05-01 10:20:30.500000",
        "day": "2026-05-02",
        "clock": "10:00:00",
        "names": '["x", null, "y,z"]',
        "nested": '{"n": [1.5, null]}',
        "raw": "01ff",
        "document": '{"a": [1, null]}',
        "huge": "170141183460469231731687303715884105727",
    }
    assert ',,"",' in text  # NULL and the empty text differ


def test_json_of_every_kind(store: Path, lpp_sql: Run) -> None:
    (row,) = json.loads(ok(lpp_sql(store, KINDS, "--format", "json")))
    assert row == {
        "whole": 1,
        "single": float(pl.Series([0.1], dtype=pl.Float32)[0]),
        "missing": None,
        "low": None,
        "fixed": 1.25,
        "yes": True,
        "nothing": None,
        "blank": "",
        "text": 'a,"b"\né',
        "moment": "2026-05-01T10:20:30.500000",
        "day": "2026-05-02",
        "clock": "10:00:00",
        "names": ["x", None, "y,z"],
        "nested": {"n": [1.5, None]},
        "raw": "01ff",
        "document": {"a": [1, None]},
        "huge": 170141183460469231731687303715884105727,
    }


def test_json_refuses_two_columns_of_one_name(store: Path, lpp_sql: Run) -> None:
    text = refused(lpp_sql(store, "SELECT 1 AS a, 2 AS a", "--format", "json"))
    assert "two columns named a" in text


def test_parquet_keeps_types(store: Path, lpp_sql: Run, tmp_path: Path) -> None:
    target = tmp_path / "kinds.parquet"
    ok(lpp_sql(store, KINDS, "-o", target))
    (row,) = pq.read_table(target).to_pylist()
    assert row["moment"] == datetime.datetime(2026, 5, 1, 10, 20, 30, 500_000)
    assert row["fixed"] == decimal.Decimal("1.25")
    assert math.isnan(row["missing"])
    assert row["nested"] == {"n": [1.5, math.inf]}


def test_parquet_through_a_pipe(store: Path, lpp_sql: Run, rows: Rows) -> None:
    done = lpp_sql(store, FOUR, "--format", "parquet")
    assert done.returncode == 0
    assert pl.read_parquet(done.stdout).to_dicts() == rows("profiles", 3)


@pytest.mark.parametrize("format_", ["csv", "json", "parquet"])
def test_more_rows_than_a_batch(store: Path, lpp_sql: Run, tmp_path: Path, format_: str) -> None:
    target = tmp_path / f"many.{format_}"
    ok(lpp_sql(store, "SELECT range AS n, range / 2 AS half FROM range(10_000)", "-o", target))
    read: Any = {"csv": pl.read_csv, "json": pl.read_json, "parquet": pl.read_parquet}[format_]
    frame = read(target)
    assert frame["n"].to_list() == list(range(10_000))
    assert frame["half"].to_list() == [n / 2 for n in range(10_000)]


@pytest.mark.parametrize("format_", ["table", "csv", "json", "parquet"])
def test_hostile_names_in_every_format(
    empty_store: Path,
    tables: dict[str, pa.Table],
    hostile: tuple[str, ...],
    lpp_sql: Run,
    format_: str,
) -> None:
    profiles = tables["profiles"]
    place = profiles.column_names.index("model")
    build(empty_store, {"profiles": profiles.set_column(place, "model", [list(hostile)])})
    done = lpp_sql(empty_store, "SELECT model FROM profiles ORDER BY run", "--format", format_)
    assert done.returncode == 0
    if format_ == "table":
        text = done.stdout.decode()
        assert hostile[0] in text
        assert hostile[1] in text
        assert "\x1b" not in text
        wide = lpp_sql(empty_store, FOUR)
        assert b"\x1b" not in wide.stdout
        assert b'a "b", c\\x0ad\\x1b[31m' in wide.stdout
        return
    readers: dict[str, Callable[[bytes], list[dict[str, Any]]]] = {
        "csv": lambda data: list(csv.DictReader(io.StringIO(data.decode(), newline=""))),
        "json": json.loads,
        "parquet": lambda data: pl.read_parquet(data).to_dicts(),
    }
    back = [row["model"] for row in readers[format_](done.stdout)]
    assert back == list(hostile)


# Output files


@pytest.mark.slow
def test_a_failing_query_leaves_the_old_file_and_nothing_else(
    store: Path, lpp_sql: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for format_ in ("table", "csv", "json", "parquet"):
        target = folder / f"old.{format_}"
        target.write_text("before")
        query = "SELECT CAST(run AS INTEGER) FROM runs"
        refused(lpp_sql(store, query, "--format", format_, "-o", target))
        assert target.read_text() == "before"
    assert len(list(folder.iterdir())) == 4


@pytest.mark.slow
def test_a_device_is_not_replaced_by_a_file(store: Path, lpp_sql: Run, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=-1) as reader:
        ok(lpp_sql(store, "SELECT 7 AS n", "--format", "csv", "-o", pipe))
        out, _ = reader.communicate(timeout=60)
    assert out == b"n\n7\n"
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    words = ["SELECT 7 AS n", "--format", "csv", "-o", "/dev/stdout"]
    assert ok(lpp_sql(store, *words, own_process=True)) == "n\n7\n"


def test_output_to_a_directory_or_nowhere(store: Path, lpp_sql: Run, tmp_path: Path) -> None:
    assert "is a directory" in refused(lpp_sql(store, FOUR, "-o", tmp_path))
    assert "no such directory" in refused(lpp_sql(store, FOUR, "-o", tmp_path / "no" / "x.csv"))


def test_output_that_ends_in_no_format_is_refused_and_a_dash_is_standard_output(
    store: Path, lpp_sql: Run, tmp_path: Path
) -> None:
    assert ".parquet" in refused(lpp_sql(store, FOUR, "-o", tmp_path / "x.xlsx"))
    assert not (tmp_path / "x.xlsx").exists()
    assert ok(lpp_sql(store, "SELECT 7 AS n", "--format", "csv", "-o", "-")) == "n\n7\n"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_one_message(store: Path, lpp_sql: Run) -> None:
    for format_ in ("table", "csv", "json", "parquet"):
        text = refused(lpp_sql(store, FOUR, "--format", format_, "-o", "/dev/full"))
        assert "df -h" in text


def test_a_reader_that_goes_away(store: Path) -> None:
    program = Path(sys.executable).with_name("lpp-sql")
    query = "SELECT range, repeat('x', 100) FROM range(1_000_000)"
    command = [str(program), str(store), query, "--format", "csv"]
    with subprocess.Popen(command, stdout=-1, stderr=-1) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline().startswith(b"range,")
        process.stdout.close()
        error = process.stderr.read()
        assert process.wait(timeout=60) == 1
    assert error == b""


# Statements


@pytest.mark.parametrize("format_", ["table", "csv"])
def test_the_line_of_an_error_is_that_of_the_sql(store: Path, lpp_sql: Run, format_: str) -> None:
    for sql, line in (("SELECT cast('x' AS int)", 1), ("SELECT 1,\n  cast('x' AS int)\n", 2)):
        text = refused(lpp_sql(store, sql, "--format", format_))
        assert f"LINE {line}: {sql.splitlines()[line - 1]}\n" in text
        (marks,) = [line for line in text.splitlines() if "^" in line]
        (shown,) = [line for line in text.splitlines() if line.startswith("LINE")]
        assert marks.index("^") == shown.index("cast")


def test_an_empty_table_names_the_command_that_fills_it(empty_store: Path, lpp_sql: Run) -> None:
    build(empty_store, {})
    done = lpp_sql(empty_store, "FROM Hourglass")
    assert (done.returncode, b"0 rows" in done.stdout) == (0, True)
    assert f"lpp-analyze layers {shlex.quote(str(empty_store))}" in done.stderr.decode()
    assert ok(lpp_sql(empty_store, "FROM hourglass", "--format", "csv")).startswith("run,")
    unread = lpp_sql(empty_store, "SELECT 1 AS hourglass, 'probes' AS b -- layers")
    assert (unread.returncode, unread.stderr) == (0, b"")


def test_sql_from_standard_input_last_result_is_written(store: Path, lpp_sql: Run) -> None:
    script = b"SELECT 1 AS one; -- c\nCREATE TEMP TABLE t AS SELECT 2 AS two;\nFROM t -- no end"
    assert ok(lpp_sql(store, "-", "--format", "csv", input=script)) == "two\n2\n"


@pytest.mark.slow
def test_write(store: Path, lpp_sql: Run) -> None:
    statement = "INSERT INTO runs (run) VALUES ('by hand')"
    text = refused(lpp_sql(store, statement))
    assert "--write" in text
    assert "read-only" in text
    ok(lpp_sql(store, statement, "--write"))
    assert ok(lpp_sql(store, "CREATE VIEW mine AS SELECT 5 AS five", "--write")) == ""
    both = "SELECT count(*) AS n, (SELECT five FROM mine) AS f FROM runs"
    assert ok(lpp_sql(store, both, "--format", "csv")) == "n,f\n4,5\n"


def test_a_writing_statement_runs_once(store: Path, lpp_sql: Run) -> None:
    ok(lpp_sql(store, "CREATE TABLE log (n INTEGER, wide VARCHAR)", "--write"))
    insert = "INSERT INTO log VALUES (1, repeat('x', 300)) RETURNING *, wide AS a, wide AS b"
    ok(lpp_sql(store, insert, "--write"))
    assert ok(lpp_sql(store, "SELECT count(*) AS n FROM log", "--format", "csv")) == "n\n1\n"


def test_a_statement_without_rows_takes_no_output_file(
    store: Path, lpp_sql: Run, tmp_path: Path
) -> None:
    target = tmp_path / "x.csv"
    text = refused(lpp_sql(store, "CREATE VIEW v AS SELECT 1", "--write", "-o", target))
    assert "no rows to write" in text
    assert not target.exists()
    refused(lpp_sql(store, "FROM v"))


@pytest.mark.slow
def test_token_stats(store: Path, lpp_sql: Run) -> None:
    run = write_run(store)
    expected = f"n,t\n{len(run.rows)},{run.rows[-1]['token_id']}\n"
    query = "SELECT count(*) AS n, max(token_id) AS t FROM Token_Stats"
    assert ok(lpp_sql(store, query, "--format", "csv")) == expected
    ok(lpp_sql(store, "CREATE VIEW v AS SELECT token_id FROM token_stats", "--write"))
    text = refused(lpp_sql(store, "SELECT count(*) FROM v"))
    assert "/* token_stats */" in text
    query = "SELECT count(*) AS n, max(token_id) AS t FROM v /* token_stats */"
    assert ok(lpp_sql(store, query, "--format", "csv")) == expected


@pytest.mark.slow
def test_ctrl_c_stops_a_query_at_once(store: Path, tmp_path: Path) -> None:
    # A shell's background job ignores Ctrl-C, and so would its children: listen to it again.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from lpp.sql.cli import main; main()"
    )
    started = tmp_path / "started.csv"
    query = (
        f"COPY (SELECT 1) TO '{started}'; "
        "SELECT sum(a.range * b.range) AS s FROM range(1_000_000) a, range(1_000_000) b"
    )
    for options in ([], ["--format", "csv"], ["-o", str(tmp_path / "x.parquet")]):
        command = [sys.executable, "-c", code, str(store), query, "--allow-files", *options]
        with subprocess.Popen(command, stdout=-1, stderr=-1) as process:
            while not started.exists():
                assert process.poll() is None, process.communicate()
                time.sleep(0.05)
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            out, error = process.communicate(timeout=30)
        assert process.returncode == EXIT_USER_ERROR, error
        assert out == b""
        assert error.strip().startswith(b"Interrupted.")
        started.unlink()
    assert [p.name for p in tmp_path.iterdir()] == [store.name]


# Refusals


@pytest.mark.parametrize(
    ("sql", "part"),
    [
        ("SELEC 1", 'syntax error at or near "SELEC"'),
        ("SELECT nope FROM profiles", '"nope" not found'),
        ("SELECT * FROM profilez", "profilez does not exist"),
        ("SELECT CAST(run AS INTEGER) FROM runs", "Could not convert string"),
        ("SELECT * FROM connection", "connection does not exist"),
    ],
)
def test_bad_sql_is_duckdbs_own_words_and_the_way_to_the_schema(
    store: Path, lpp_sql: Run, sql: str, part: str
) -> None:
    for format_ in ("table", "csv"):
        text = refused(lpp_sql(store, sql, "--format", format_))
        assert part in text
        assert "lpp-sql --schema" in text


@pytest.mark.slow
def test_sql_that_is_not_utf8(store: Path, lpp_sql: Run) -> None:
    assert "not UTF-8" in refused(lpp_sql(store, "-", input=b"SELECT '\xff'"))
    program = str(Path(sys.executable).with_name("lpp-sql")).encode()
    done = subprocess.run(
        [program, bytes(store), b"SELECT '\xff'"], capture_output=True, check=False
    )
    assert "not UTF-8" in refused(done)
