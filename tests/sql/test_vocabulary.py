"""`vocabulary`: tokens in words, for every run of the tokenizer, exact whatever they contain."""

import csv
import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from written_run import write_run

from lpp.sql import VOCABULARY, connect, saved_query
from lpp.store.format.tables import VOCABULARY_SCHEMA
from lpp.store.shared.vocabularies import add_vocabulary

HOSTILE = {
    0: (b"\n", "\n"),
    1: (b" the", " the"),
    2: (b"\xf0\x9f", "\ufffd"),
    10: (b"<script>alert(1)</script>", "<script>alert(1)</script>"),
    11: (b"\x1b[31m", "\x1b[31m"),
    20: (None, "<|endoftext|>"),
    21: (b'a "b", c', 'a "b", c'),
    22: ("\u202eabc\0".encode(), "\u202eabc\0"),
    23: (b"", ""),
}
"""Ids of the runs of `write_run`, in words that mean something to a terminal, a page, a table."""

TOKENIZER = "tok-print"  # that of the runs of `write_run`
Run = Callable[..., subprocess.CompletedProcess[bytes]]


def words() -> pa.Table:
    columns = {
        "id": list(HOSTILE),
        "bytes": [spelled for spelled, _ in HOSTILE.values()],
        "text": [text for _, text in HOSTILE.values()],
    }
    return pa.table(columns).cast(VOCABULARY_SCHEMA)


def test_every_run_of_a_tokenizer_has_its_tokens(store: Path) -> None:
    runs = [write_run(store), write_run(store, "Lab/b")]
    add_vocabulary(store, TOKENIZER, words())
    with connect(store) as connection:
        described = connection.execute("DESCRIBE vocabulary").fetchall()
        found = connection.execute("FROM vocabulary ORDER BY run, token_id").fetchall()
        listed = [name for (name,) in connection.execute("SHOW TABLES").fetchall()]
    assert [row[:2] for row in described] == [(c.name, c.type) for c in VOCABULARY.columns]
    assert found == [
        (run.id, token, text, spelled)
        for run in sorted(runs, key=lambda run: str(run.id))
        for token, (spelled, text) in HOSTILE.items()
    ]
    assert [name for name in listed if "vocab" in name] == ["vocabulary"]


def test_tokens_are_joined_with_their_statistics(store: Path) -> None:
    run = write_run(store)
    add_vocabulary(store, TOKENIZER, words())
    with connect(store) as connection:
        found = connection.execute(
            "SELECT token_id, token FROM token_stats LEFT JOIN vocabulary USING (run, token_id) "
            "ORDER BY prompt_id, position"
        ).fetchall()
    assert found == [
        (row["token_id"], HOSTILE.get(row["token_id"], (None, None))[1]) for row in run.rows
    ]


def test_it_is_empty_without_a_vocabulary_and_comments_are_there(store: Path) -> None:
    write_run(store)
    with connect(store) as connection:
        assert connection.execute("FROM vocabulary").fetchall() == []
        comments = connection.execute(
            "SELECT column_name, comment FROM duckdb_columns() "
            "WHERE table_name = 'vocabulary' ORDER BY column_index"
        ).fetchall()
    assert comments == [(c.name, c.comment) for c in VOCABULARY.columns]


def test_it_is_read_where_the_sql_names_it(store: Path, lpp_sql: Run) -> None:
    write_run(store)
    add_vocabulary(store, TOKENIZER, words())
    done = lpp_sql(store, "SELECT count(*) AS n FROM Vocabulary", "--format", "csv")
    assert (done.returncode, done.stdout) == (0, b"n\n9\n")
    with (
        connect(store, token_stats=False) as connection,
        pytest.raises(duckdb.Error, match=r"/\* vocabulary \*/"),
    ):
        connection.execute("FROM vocabulary").fetchall()


def test_a_damaged_one_is_left_out_with_a_line(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run(store)
    add_vocabulary(store, TOKENIZER, words())
    (table,) = store.glob("vocabularies/*/*/vocabulary.arrow")
    table.write_bytes(table.read_bytes()[:-9] + b"x" * 9)
    with connect(store) as connection:
        assert connection.execute("FROM vocabulary").fetchall() == []
        answer = connection.sql(saved_query("surprises").text)
        tokens = {row[answer.columns.index("token")] for row in answer.fetchall()}
    assert tokens == {str(row["token_id"]) for row in run.rows if row["position"] > 0}
    (message,) = caplog.messages
    assert "lpp-capture repair" in message


def test_surprises_are_words_and_numbers_where_there_are_none(store: Path, lpp_sql: Run) -> None:
    run = write_run(store)
    expected = [HOSTILE.get(r["token_id"], (None, str(r["token_id"])))[1] for r in run.rows]
    came = sorted(text for row, text in zip(run.rows, expected, strict=True) if row["position"])
    add_vocabulary(store, TOKENIZER, words())

    def tokens(form: str) -> bytes:
        done = lpp_sql(store, "--run", "surprises", "--format", form)
        assert done.returncode == 0, done.stderr
        return done.stdout

    found = json.loads(tokens("json"))
    assert sorted(row["token"] for row in found) == came
    rows = csv.DictReader(io.StringIO(tokens("csv").decode(), newline=""))
    assert sorted(row["token"] for row in rows) == came
    table = tokens("table").decode()
    assert not any(sign in table for sign in ("\x1b", "\u202e", "\x00"))
    assert "\\x1b[31m" in table
    assert "\\u202eabc" in table
