"""Tables whose long texts take several lines: nothing is cut, no line is too long."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from terminal import HOSTILE, on_terminal, steering

from lpp.sql.results.wrapped import ResultTexts, wrapped_table

HEADS = ("metric", "run", "context", "value", "ci_low", "ci_high", "flags")
NUMERIC = (False, False, True, True, True, True, False)
METRICS = ("effective_rank", "participation_ratio_norm")


def result(n_runs: int) -> ResultTexts:
    rows = [
        (
            metric,
            f"SmolLM2-{k}-Instruct Q4_1, seed {k}",
            "200",
            f"{j}{k}.12345",
            "1.5",
            "-2.5",
            "[]",
        )
        for j, metric in enumerate(METRICS)
        for k in range(n_runs)
    ]
    return ResultTexts(HEADS, rows, NUMERIC)


def lines(table: ResultTexts, width: int) -> list[str]:
    found = wrapped_table(table, width)
    assert found is not None
    return [*found]


@pytest.mark.parametrize("n_runs", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("width", [58, 80, 120])
def test_every_value_is_whole_and_no_line_too_long(n_runs: int, width: int) -> None:
    table = result(n_runs)
    text = lines(table, width)
    assert max(map(len, text)) <= width
    squeezed = re.sub(r"\s", "", "".join(text))
    for row in table.rows:
        assert row[3] in squeezed
    assert sum(line.count(".12345") for line in text) == len(table.rows)
    for word in ("effective_", "Instruct", "value", "low", "high"):
        assert word in squeezed


def test_what_fits_in_no_way_is_no_table() -> None:
    number = ("1" * 30,)
    assert wrapped_table(ResultTexts(("n",), [number], (True,)), 20) is None
    long = ("word " * 40,)
    assert wrapped_table(ResultTexts(("text",), [long], (False,)), 80) is None


Run = Callable[..., subprocess.CompletedProcess[bytes]]
PROGRAM = Path(sys.executable).with_name("lpp-sql")
CHARACTERS = " || ".join(f"chr({ord(character)})" for character in HOSTILE)
QUERY = f'SELECT {CHARACTERS} AS value, 1 AS "{HOSTILE}"'
WIDE = f"{QUERY}, " + ", ".join(f"repeat('x', 30) AS c{n}" for n in range(9))


@pytest.mark.slow
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
