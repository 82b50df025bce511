"""`open_corpus`: names, local text in every form, and what each broken input says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lpp.capture.corpus.open import Corpus, open_corpus
from lpp.capture.corpus.passages import fingerprint_texts, prompt_set_fingerprint
from lpp.capture.corpus.pydoc import cut
from lpp.store.errors import ErrorKind, InputError


def texts(corpus: Corpus) -> list[str]:
    return [passage.text for passage in corpus.passages]


def rows(corpus: Corpus) -> list[int]:
    return [passage.source_row for passage in corpus.passages]


def write_jsonl(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def refusal(path: Path | str, **options: Any) -> InputError:
    """The error of opening and reading all of it."""
    with pytest.raises(InputError) as caught:
        list(open_corpus(path, **options).passages)
    return caught.value


# --- the built-in passages ---------------------------------------------------------------


def test_pydoc_has_hundreds_of_long_distinct_passages() -> None:
    corpus = open_corpus("pydoc")
    found = list(corpus.passages)
    assert len(found) >= 300
    assert min(len(p.text.encode()) for p in found) >= 900
    assert max(len(p.text.encode()) for p in found) < 2500
    assert len({p.text for p in found}) == len(found)
    assert len({p.text[:40] for p in found}) == len(found)
    assert [p.source_row for p in found] == list(range(len(found)))
    assert corpus.fingerprint == fingerprint_texts(p.text for p in found)
    assert corpus.fingerprint.startswith("a62029810a940d48"), (
        "the documents have other numbers then"
    )
    assert (corpus.name, corpus.revision, corpus.files) == ("pydoc", None, ())
    assert not any("\n***" in p.text or "\n+--" in p.text for p in found)


def test_pydoc_fingerprint_is_that_of_another_process() -> None:
    code = (
        "from lpp.capture.corpus.open import open_corpus; print(open_corpus('pydoc').fingerprint)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    printed = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)
    assert printed.strip() == open_corpus("pydoc").fingerprint


def test_cut_joins_prose_keeps_code_and_drops_decoration() -> None:
    article = (
        "Heading\n*******\n\nOne sentence that\nwraps. And another one here.\n\n"
        "   x = 1\n   y = 2\n\n+---+---+\n| a | b |\n+---+---+\n\nThe end.\n"
    )
    assert list(cut({"a": article}, passage_bytes=10)) == [
        "Heading\n\nOne sentence that wraps.",
        "And another one here.",
        "   x = 1\n   y = 2",
    ]  # "The end." is left over: shorter than a passage


# --- local files -------------------------------------------------------------------------


def test_jsonl_texts_stand_as_written_and_rows_locate_them(tmp_path: Path) -> None:
    path = tmp_path / "words.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"text": "first", "n": 1}\r\n'
        b"\r\n"
        b'{"text": null}\r\n{"text": "  "}\n'
        + '{"text": " héllo 🙂\\n"}'.encode()  # no line end at the end of the file
    )
    corpus = open_corpus(path)
    assert texts(corpus) == ["first", " héllo 🙂\n"]
    assert rows(corpus) == [0, 4]
    assert (corpus.name, corpus.rule, corpus.files) == (
        "words.jsonl",
        "field text",
        ("words.jsonl",),
    )


def test_txt_passages_are_paragraphs(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes("\ufeffone\r\ntwo\r\n \t\r\n\r\nthree 🙂\n\n\n".encode())
    corpus = open_corpus(path)
    assert texts(corpus) == ["one\ntwo", "three 🙂"]
    assert rows(corpus) == [0, 1]
    assert corpus.rule == "paragraphs"


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]
)
def test_parquet_columns_of_text_with_nulls(tmp_path: Path, kind: pa.DataType) -> None:
    values = pa.array(["alpha", None, "", "delta"], pa.string()).cast(kind)
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"n": [1, 2, 3, 4], "text": values}), path)
    corpus = open_corpus(path)
    assert texts(corpus) == ["alpha", "delta"]
    assert rows(corpus) == [0, 3]


def test_parquet_of_several_row_groups_and_batches(tmp_path: Path) -> None:
    expected = [f"row {k}" for k in range(1000)]
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": expected}), path, row_group_size=300)
    corpus = open_corpus(path)
    assert texts(corpus) == expected
    assert rows(corpus) == list(range(1000))


def test_csv_has_names_in_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    written = (
        '\ufefflabel,text\r\ngood,"He said ""no"", twice.\nThen left."\r\n\r\nbad,\r\n7,"a, b"\r\n'
    )
    path.write_bytes(written.encode())
    corpus = open_corpus(path, fields=["label"])
    found = list(corpus.passages)
    assert [one.text for one in found] == ['He said "no", twice.\nThen left.', "a, b"]
    assert [one.source_row for one in found] == [0, 3]
    assert [one.fields for one in found] == [{"label": "good"}, {"label": "7"}]
    assert [one.location for one in found] == [f"{path}, line 2", f"{path}, line 6"]
    assert texts(open_corpus(path, text_field="label")) == ["good", "bad", "7"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"body,label\na,b\n", r"no field 'text'; its fields: 'body', 'label'. Name one with"),
        (b"text,text\na,b\n", "no field 'text'"),
        (b"text,label\na,b\nc\n", r"line 3: 1 columns, where the first line has 2"),
        (b"text\na, b\n", "line 2: 2 columns, where the first line has 1"),
        (b'text\n"a\n', r"line 2: not CSV \(unexpected end of data\)"),
        (b'text\n"a"b\n', "line 2: not CSV"),
    ],
)
def test_bad_csv(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    error = refusal(tmp_path / "t.csv")
    assert re.search(says, str(error)), str(error)
    assert error.kind is ErrorKind.INVALID_VALUE


def test_a_text_of_csv_that_is_not_utf8_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"text,label\nfine,a\nb\xe9,b\nalso,c\n")
    corpus = open_corpus(tmp_path / "t.csv", fields=["label"])
    assert texts(corpus) == ["fine", "also"]
    where = f"{tmp_path / 't.csv'}, line 3: not UTF-8"
    assert corpus.refused.summary() == f"1 not_utf8, the first {where}"


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv", "txt"])
def test_a_pipe_is_no_corpus(tmp_path: Path, ending: str) -> None:
    (tmp_path / "a.txt").write_text("some text")
    os.mkfifo(tmp_path / f"pipe.{ending}")
    for given in (tmp_path, tmp_path / f"pipe.{ending}"):
        with pytest.raises(InputError, match="a pipe"):
            open_corpus(given)


def test_folder_takes_known_files_below_it_by_relative_path(tmp_path: Path) -> None:
    (tmp_path / "b" / ".hidden").mkdir(parents=True)
    write_jsonl(tmp_path / "b" / "two.JSONL", [{"text": "2"}])
    (tmp_path / "a.txt").write_text("1\n\nand\n")
    pq.write_table(pa.table({"text": ["3"]}), tmp_path / "c.parquet")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "notes.md").write_text("not taken")
    (tmp_path / ".a.txt").write_text("not taken")
    (tmp_path / "b" / ".hidden" / "x.txt").write_text("not taken")
    corpus = open_corpus(tmp_path)
    assert corpus.files == ("a.txt", "b/two.JSONL", "c.parquet", "empty.txt")
    assert texts(corpus) == ["1", "and", "2", "3"]
    assert rows(corpus) == [0, 1, 2, 3]
    assert corpus.name == tmp_path.name


def test_fingerprint_follows_content_and_names_not_places(tmp_path: Path) -> None:
    def made(folder: str, name: str, text: str) -> str:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text)
        return open_corpus(tmp_path / folder).fingerprint

    first = made("first", "a.txt", "one")
    assert made("second", "a.txt", "one") == first
    assert made("third", "b.txt", "one") != first
    assert made("fourth", "a.txt", "onf") != first
    assert re.fullmatch("[0-9a-f]{32}", first)


def test_fingerprints_are_pinned() -> None:
    assert fingerprint_texts([]) == "99aa06d3014798d86001c324468d497f"
    assert fingerprint_texts(["ab", "c"]) != fingerprint_texts(["a", "bc"])
    assert fingerprint_texts(["ab", "c"]) != fingerprint_texts(["c", "ab"])


def test_prompt_set_depends_on_texts_alone(tmp_path: Path) -> None:
    here = open_corpus(write_jsonl(tmp_path / "a.jsonl", [{"text": "x"}, {"text": "y"}]))
    (tmp_path / "b.txt").write_text("x\n\ny\n")
    there = open_corpus(tmp_path / "b.txt")
    assert here.fingerprint != there.fingerprint
    assert prompt_set_fingerprint(here.passages) == prompt_set_fingerprint(there.passages)


@pytest.mark.slow
def test_reading_is_bounded_in_memory(tmp_path: Path) -> None:
    import tracemalloc

    line = json.dumps({"text": "word " * 200}) + "\n"
    path = tmp_path / "large.jsonl"
    path.write_text(line * 20_000)  # 20 MB
    tracemalloc.start()
    count = sum(1 for _ in open_corpus(path).passages)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 8 << 20


# --- what cannot be read -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["bad.txt", "bad.jsonl"])
def test_an_invalid_byte_is_located(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    good = b'\xef\xbb\xbf{"text": "fine \xc3\xa9"}\n\n'
    path.write_bytes(good + b'{"text": "caf\xe9"}\n')
    offset = len(good) + len(b'{"text": "caf')
    corpus = open_corpus(path)
    for _ in range(2):  # however often it is read
        (passage,) = corpus.passages
        assert passage.source_row == 0
    last = 2 if name.endswith("jsonl") else 1  # the blank line of JSON is a row
    rows = {row.pop("source_row"): row for row in corpus.refused.table().to_pylist()}
    what = f"{path}: not UTF-8: byte 0xe9 at offset {offset}, line 3"
    assert rows.pop(last) == {"reason": "not_utf8", "detail": what}
    assert [row["reason"] for row in rows.values()] == ["empty"] * len(rows)
    path.write_bytes(b'{"text": "caf\xe9"}\n')
    message = str(refusal(path))
    assert f"1 not_utf8, the first {path}: not UTF-8: byte 0xe9" in message
    assert "iconv -f ISO-8859-1" in message


def test_bytes_of_parquet_that_are_no_text_are_set_aside(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"caf\xe9", None, b"too"], pa.binary())
    text = pa.StringArray.from_buffers(4, *raw.buffers()[1:], raw.buffers()[0], 1)
    pq.write_table(pa.table({"text": text}), tmp_path / "x.parquet")
    corpus = open_corpus(tmp_path / "x.parquet")
    assert [(p.source_row, p.text) for p in corpus.passages] == [(0, "fine"), (3, "too")]
    reasons = corpus.refused.table().to_pylist()
    assert [(r["source_row"], r["reason"]) for r in reasons] == [(1, "not_utf8"), (2, "empty")]


def test_half_a_surrogate_pair_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b\\ud83d"}\n')
    corpus = open_corpus(path)
    assert [passage.text for passage in corpus.passages] == ["a"]
    (row,) = corpus.refused.table().to_pylist()
    assert (row["source_row"], row["reason"]) == (1, "no_text")
    assert row["detail"].endswith("line 2: half a surrogate pair at character 1")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"text": "a"}\n{"text": \n', "line 2: not JSON"),
        ('{"text": "a"}\n[1]\n', "line 2: a list instead of an object"),
        ('"a"\n', "line 1: a string instead of an object"),
        ('{"body": "a", "id": 3}\n', "line 1: no field 'text'; its fields: 'body', 'id'."),
        ("{}\n", "line 1: no field 'text'; its fields: none."),
        ('{"text": 3}\n', "line 1: field 'text' holds a number instead of a string"),
        ('{"text": true}\n', "holds true or false instead of a string"),
        ('{"text": {"a": 1}}\n', "holds an object instead of a string"),
        ("[" * 100_000 + "\n", "line 1: not JSON"),
    ],
)
def test_bad_lines_of_json(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    message = str(refusal(path))
    assert says in message
    assert str(path) in message


def test_empty_inputs(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    assert "empty.jsonl: empty." in str(refusal(tmp_path / "empty.jsonl"))
    assert "empty." in str(refusal(tmp_path))
    (tmp_path / "blank.txt").write_text(" \n\n\t\n")
    assert "every text is empty" in str(refusal(tmp_path / "blank.txt"))
    pq.write_table(pa.table({"text": pa.array([None], pa.string())}), tmp_path / "n.parquet")
    assert "every text is empty" in str(refusal(tmp_path / "n.parquet"))
    (tmp_path / "none").mkdir()
    error = refusal(tmp_path / "none")
    assert error.kind == ErrorKind.NOT_FOUND


def test_bad_parquet(tmp_path: Path) -> None:
    (tmp_path / "not.parquet").write_text("text")
    error = refusal(tmp_path / "not.parquet")
    assert error.kind == ErrorKind.CORRUPT
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"body": ["a"], "n": [1]}), path)
    assert "no field 'text'; its fields: 'body', 'n'. Name one with --text-field." in str(
        refusal(path)
    )
    assert "column 'n' holds int64 instead of strings" in str(refusal(path, text_field="n"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert refusal(path, text_field="body").kind == ErrorKind.CORRUPT


@pytest.mark.slow
def test_a_line_beyond_the_limit_is_refused_without_reading_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as stream:
        stream.truncate(40 << 20)  # sparse: forty mebibytes of NUL and no line end
    assert "line 1: a line of more than 16 MiB. Write one passage per line." in str(refusal(path))
    paragraph = tmp_path / "a.txt"
    paragraph.write_text(("x" * 1023 + "\n") * (17 << 10))
    assert "line 1: a paragraph of more than 16 MiB." in str(refusal(paragraph))
