"""Saved queries: what holds of all of them, and the command that runs them."""

import itertools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from saved_answers import answer

from lpp.sql import build, saved_queries, saved_query
from lpp.store.errors import ErrorKind, InputError

NAMES = tuple(saved_queries())
Run = Callable[..., subprocess.CompletedProcess[bytes]]
NOT_IN_THE_DEMO = (
    *("confident_mistakes", "correlations", "drift", "drift_tokens"),
    *("flipped_items", "probes", "right_and_wrong", "training"),
)
"""What the demo has nothing for: no grid, scores, series, evaluation and comparison of two runs."""


# All of them


@pytest.mark.parametrize("name", NAMES)
def test_file_says_what_it_answers(name: str) -> None:
    query = saved_query(name)
    assert query.title.endswith("?")
    assert len(query.title) <= 80 - len("confident_mistakes  ")
    assert query.reading.endswith((".", "STORE"))
    assert "lpp-" in query.when_empty
    assert query.when_empty.endswith("STORE")
    assert max(map(len, query.text.splitlines())) <= 100
    (statement,) = duckdb.extract_statements(query.text)
    assert statement.type.name == "SELECT"


@pytest.mark.parametrize("name", NAMES)
def test_answers_on_the_demo(name: str, documented_store: Path, lpp_sql: Run) -> None:
    done = lpp_sql(documented_store, "--run", name, "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == answer(documented_store, name)
    if name in NOT_IN_THE_DEMO:
        assert found == []
        assert done.stderr.decode().startswith("No rows: ")
    else:
        assert found
        assert done.stderr == b""


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_the_store_says_what_to_do(name: str, empty_store: Path, lpp_sql: Run) -> None:
    build(empty_store, {})
    done = lpp_sql(empty_store, "--run", name, "--format", "csv")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    message = done.stderr.decode()
    assert message.startswith("No rows: ")
    assert "a; store'" in message  # the place, quoted for a shell
    assert "STORE" not in message


@pytest.mark.parametrize("name", NAMES)
def test_names_are_text(
    name: str, tables: dict[str, pa.Table], empty_store: Path, hostile: tuple[str, ...]
) -> None:
    for table, columns in tables.items():
        for run in {"run", "run_a", "run_b"}.intersection(columns.column_names):
            place = columns.column_names.index(run)
            names = pa.array(list(itertools.islice(itertools.cycle(hostile), len(columns))))
            tables[table] = tables[table].set_column(place, run, names)
    build(empty_store, tables)
    found = answer(empty_store, name)
    named = {value for row in found for key, value in row.items() if key.startswith("run")}
    assert named <= {*hostile, None}


# The command and the documentation


def test_list_fits_and_names_every_query(lpp_sql: Run) -> None:
    done = lpp_sql("--list")
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert [line.split()[0] for line in lines[:-2]] == list(NAMES)
    for line, query in zip(lines, saved_queries().values(), strict=False):
        assert line.endswith(query.title)
    assert max(map(len, lines)) <= 80


def test_a_file_gets_the_answer_alone(documented_store: Path, lpp_sql: Run, tmp_path: Path) -> None:
    target = tmp_path / "q.parquet"
    done = lpp_sql(documented_store, "--run", "entropy", "-o", target)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert pl.read_parquet(target).to_dicts() == answer(documented_store, "entropy")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--run", "difference"), "'difference'. Did you mean differences?"),
        (("--run", "Profile"), "Did you mean profiles or probes?"),
        (("--run", "zzz"), "'zzz'. All of them: lpp-sql --list"),
        (("--show", "difference"), "Did you mean differences?"),
        (("SELECT 1", "--run", "flags"), "SQL or --run NAME, not both"),
        ((), "No SQL to run"),
    ],
)
def test_wrong_names_are_told(words: tuple[str, ...], said: str, store: Path, lpp_sql: Run) -> None:
    done = lpp_sql(store, *words)
    assert done.returncode == 2
    assert done.stdout == b""
    assert said in done.stderr.decode()


@pytest.mark.slow
def test_a_database_of_another_release_is_told(store: Path, lpp_sql: Run) -> None:
    with duckdb.connect(str(store / "profiles.duckdb")) as connection:
        connection.execute("DROP TABLE correlations")
    done = lpp_sql(store, "--run", "correlations")
    assert done.returncode == 2
    assert done.stdout == b""
    assert "lpp-analyze profile" in done.stderr.decode()


def test_unknown_name_is_an_input_error() -> None:
    with pytest.raises(InputError) as caught:
        saved_query("nothing")
    assert caught.value.kind is ErrorKind.NOT_FOUND
