"""Names and values that steer: shown on a terminal, exact in files and pipes."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from terminal import HOSTILE, on_terminal, steering

Run = Callable[..., subprocess.CompletedProcess[bytes]]
PROGRAM = Path(sys.executable).with_name("lpp-sql")
CHARACTERS = " || ".join(f"chr({ord(character)})" for character in HOSTILE)
QUERY = f'SELECT {CHARACTERS} AS value, 1 AS "{HOSTILE}"'
WIDE = f"{QUERY}, " + ", ".join(f"repeat('x', 30) AS c{n}" for n in range(9))


@pytest.mark.parametrize("query", [QUERY, WIDE])
@pytest.mark.parametrize("format_", ["table", "csv", "json"])
def test_a_terminal_is_shown_what_would_steer_it(store: Path, query: str, format_: str) -> None:
    code, received = on_terminal([PROGRAM, store, query, "--format", format_], {"COLUMNS": "200"})
    text = received.decode()
    assert code == 0
    assert steering(text) == set()
    assert r"\u202etxt.exe\u2066" in text


@pytest.mark.slow
@pytest.mark.parametrize("target", ["pipe", "file"])
def test_csv_and_json_are_exact_elsewhere(
    store: Path, lpp_sql: Run, tmp_path: Path, target: str
) -> None:
    for format_ in ("csv", "json"):
        file = tmp_path / f"out.{format_}"
        where = ["--format", format_] if target == "pipe" else ["-o", file]
        for locale in ({}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
            done = lpp_sql(store, f"SELECT {CHARACTERS} AS value", *where, env=os.environ | locale)
            assert (done.returncode, done.stderr) == (0, b"")
            text = (done.stdout if target == "pipe" else file.read_bytes()).decode()
            rows = csv.DictReader(io.StringIO(text)) if format_ == "csv" else json.loads(text)
            assert [row["value"] for row in rows] == [HOSTILE]


def test_csv_keeps_what_a_spreadsheet_would_run(store: Path, lpp_sql: Run) -> None:
    values = ["=1+1", "+1", "-1", "@x"]
    rows = ", ".join(f"('{value}')" for value in values)
    done = lpp_sql(store, f"FROM (VALUES {rows}) t(value)", "--format", "csv")
    assert done.stdout.decode().splitlines() == ["value", *values]
