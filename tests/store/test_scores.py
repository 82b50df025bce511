"""Benchmark scores in a store: whole or absent, one content for each source."""

import hashlib
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from on_disk import on_disk
from stored import object_path

from lpp.store import add_scores, create_store, read_scores, remove_scores
from lpp.store.errors import ConflictError, ErrorKind, FormatError, InputError
from lpp.store.scores.scores import SCORES_SCHEMA, ScoreSet, score_sets, verify_scores

FILES = {"a/results.json": b'{"x": 1}', "b.csv": b"model,BBH\n"}


def scores(source: str = "board", *, value: float = 0.5, **other: Any) -> pa.Table:
    """Two models, distinct values in every column."""
    rows = [
        {
            "model": "org/B",
            "run": "b-1",
            "benchmark": "BBH",
            "metric": "acc",
            "value": value,
            "stderr": 0.25,
            "n": 7,
        },
        {"model": "org/A", "benchmark": "IFEval", "metric": "strict", "value": 81.5} | other,
    ]
    return pa.Table.from_pylist(
        [{"source": source, "kind": "csv", **row} for row in rows], schema=SCORES_SCHEMA
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return on_disk(create_store(tmp_path / "store").path)


def test_every_value_and_every_file_comes_back(root: Path) -> None:
    assert add_scores(root, "board", scores(), FILES)
    assert add_scores(root, "Other Board!", scores("Other Board!", value=0.75), {})
    table = read_scores(root)
    assert table.schema.equals(SCORES_SCHEMA)
    assert [row for row in table.to_pylist() if row["source"] == "board"] == [
        {
            "model": "org/A",
            "run": None,
            "benchmark": "IFEval",
            "metric": "strict",
            "value": 81.5,
            "stderr": None,
            "n": None,
            "source": "board",
            "kind": "csv",
        },
        {
            "model": "org/B",
            "run": "b-1",
            "benchmark": "BBH",
            "metric": "acc",
            "value": 0.5,
            "stderr": 0.25,
            "n": 7,
            "source": "board",
            "kind": "csv",
        },
    ]
    board, other = score_sets(root)
    said = {"content": board.record.content, "replaces": []}
    digest = hashlib.sha256(json.dumps(said, separators=(",", ":")).encode()).hexdigest()
    assert board.path.name == f"board-{digest[:8]}"
    assert other.path.name.startswith("other-board-")
    assert {
        p.relative_to(object_path(board.path, "original")).as_posix(): p.read_bytes()
        for p in object_path(board.path, "original").rglob("*")
        if p.is_file()
    } == FILES
    assert board.problems() == []


def test_the_same_content_is_not_written_twice(root: Path) -> None:
    assert add_scores(root, "board", scores(), FILES)
    (before,) = score_sets(root)
    turned = scores().take([1, 0])
    assert not add_scores(root, "board", turned, FILES)
    assert not add_scores(root, "board", turned, FILES, replace=True)
    assert [s.record for s in score_sets(root)] == [before.record]


@pytest.mark.parametrize(
    ("table", "files"), [(scores(value=0.75), FILES), (scores(), FILES | {"b.csv": b"other"})]
)
def test_other_content_needs_to_be_told_to_replace(
    root: Path, table: pa.Table, files: dict[str, bytes]
) -> None:
    add_scores(root, "board", scores(), FILES)
    with pytest.raises(ConflictError, match="--replace") as caught:
        add_scores(root, "board", table, files)
    assert caught.value.kind is ErrorKind.PLAN_DIFFERS
    assert add_scores(root, "board", table, files, replace=True)
    assert read_scores(root).equals(table.take([1, 0]))
    assert len(list((root / "benchmarks").iterdir())) == 1


def test_what_a_killed_replacement_leaves_does_not_count(root: Path, tmp_path: Path) -> None:
    add_scores(root, "board", scores(), FILES)
    (old,) = score_sets(root)
    place = on_disk(old.path)
    shutil.copytree(place, tmp_path / "old")
    add_scores(root, "board", scores(value=0.75), FILES, replace=True)
    shutil.copytree(tmp_path / "old", place)  # killed before it was removed
    assert set(read_scores(root)["value"].to_pylist()) == {81.5, 0.75}
    add_scores(root, "board", scores(), FILES, replace=True)  # the first content again
    assert set(read_scores(root)["value"].to_pylist()) == {81.5, 0.5}
    assert len(list((root / "benchmarks").iterdir())) == 1


def test_removal_takes_what_was_replaced_as_well(root: Path, tmp_path: Path) -> None:
    add_scores(root, "board", scores(), FILES)
    (old,) = score_sets(root)
    place = on_disk(old.path)
    shutil.copytree(place, tmp_path / "old")
    add_scores(root, "board", scores(value=0.75), FILES, replace=True)
    shutil.copytree(tmp_path / "old", place)
    add_scores(root, "other", scores("other"), {})
    remove_scores(root, "board")
    assert set(read_scores(root)["source"].to_pylist()) == {"other"}
    with pytest.raises(InputError, match=r"'board'.*are other") as caught:
        remove_scores(root, "board")
    assert caught.value.kind is ErrorKind.NOT_FOUND


def test_two_writers_of_one_source_are_seen(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lpp.store.scores.scores.PAUSE_SECONDS", 0)
    elsewhere = create_store(tmp_path / "elsewhere").path
    add_scores(root, "board", scores(), {})
    add_scores(elsewhere, "board", scores(value=0.75), {})
    (met,) = score_sets(elsewhere)
    shutil.copytree(on_disk(met.path), root / "benchmarks" / met.path.name)
    with pytest.raises(ConflictError, match="both hold the source 'board'"):
        read_scores(root)
    assert add_scores(root, "board", scores(), {}, replace=True)
    assert set(read_scores(root)["value"].to_pylist()) == {81.5, 0.5}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (scores(value=float("nan")), "org/B, BBH, acc: the score is nan"),
        (scores(value=float("inf")), "the score is inf"),
        (scores(stderr=-0.1), "org/A, IFEval, strict: the standard error is -0.1"),
        (pa.concat_tables([scores(), scores()]), "org/A, IFEval, strict: there twice"),
        (scores(model=""), ", IFEval, strict: a name is empty"),
        (scores("another"), "of the source 'another'"),
    ],
)
def test_what_is_no_score_is_refused(root: Path, table: pa.Table, message: str) -> None:
    with pytest.raises(InputError, match=message):
        add_scores(root, "board", table, FILES)
    assert not (root / "benchmarks").exists()


@pytest.mark.parametrize("name", ["/etc/x", "../x", ".hidden", "a/.x", "", "a\\b", "a\0", "a//b"])
def test_original_files_stay_inside(root: Path, name: str) -> None:
    with pytest.raises(InputError, match="a store cannot keep a file of that name"):
        add_scores(root, "board", scores(), {name: b""})


def test_altered_bytes_never_become_scores(root: Path) -> None:
    add_scores(root, "board", scores(), FILES)
    (found,) = score_sets(root)
    path = object_path(found.path, "scores.arrow")
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    key = path.relative_to(root).as_posix()
    assert list(map(str, verify_scores(root))) == [f"{key}: altered: its checksum does not match"]
    with pytest.raises(FormatError, match=r"scores\.arrow: altered"):
        read_scores(root)
    path.unlink()
    with pytest.raises(FormatError, match=r"scores\.arrow: missing"):
        read_scores(root)


def test_a_source_replaced_while_it_is_read_is_read_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_scores(root, "board", scores(), FILES)
    (old,) = score_sets(root)

    def listed(place: Path) -> list[ScoreSet]:
        monkeypatch.undo()
        found = score_sets(place)
        add_scores(root, "board", scores().slice(0, 1), FILES, replace=True)
        return found

    monkeypatch.setattr("lpp.store.scores.scores.score_sets", listed)
    assert read_scores(root).num_rows == 1
    with pytest.raises(FileNotFoundError, match="was replaced"):
        old.scores()


def test_two_writers_who_met_and_put_both_together_are_waited_for(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = create_store(tmp_path / "elsewhere").path
    add_scores(root, "board", scores(), {})
    add_scores(elsewhere, "board", scores(value=0.75), {})
    (met,) = score_sets(elsewhere)
    shutil.copytree(on_disk(met.path), root / "benchmarks" / met.path.name)

    def put_together(seconds: float) -> None:
        if seconds > 0:
            add_scores(root, "board", scores(), {}, replace=True)

    monkeypatch.setattr("lpp.store.scores.scores.time.sleep", put_together)
    assert set(read_scores(root)["value"].to_pylist()) == {81.5, 0.5}


@pytest.mark.parametrize(
    "step", ["scores.scores.open_checked", "committed.checked.read_table", "objects.disk.describe"]
)
def test_a_source_replaced_at_any_step_of_reading_is_read_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    add_scores(root, "board", scores(), FILES)
    name, _, step = f"lpp.store.{step}".rpartition(".")
    module = importlib.import_module(name)
    real = getattr(module, step)

    def replaced(*arguments: object, **named: object) -> object:
        monkeypatch.undo()
        add_scores(root, "board", scores().slice(0, 1), FILES, replace=True)
        return real(*arguments, **named)

    monkeypatch.setattr(module, step, replaced)
    assert read_scores(root).num_rows == 1


@pytest.mark.parametrize("step", ["open_checked", "check_objects", "describe"])
def test_a_source_replaced_while_it_is_verified_is_no_problem(
    root: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    from lpp.store.committed import compare as module

    add_scores(root, "board", scores(), FILES)
    real = getattr(module, step)

    def replaced(*arguments: object) -> object:
        monkeypatch.undo()
        add_scores(root, "board", scores().slice(0, 1), FILES, replace=True)
        return real(*arguments)

    monkeypatch.setattr(module, step, replaced)
    assert verify_scores(root) == []


def test_an_altered_or_newer_record_is_refused(root: Path) -> None:
    add_scores(root, "board", scores(), FILES)
    (found,) = score_sets(root)
    path = on_disk(found.path) / "COMMIT.json"
    path.write_bytes(path.read_bytes().replace(b'"board"', b'"bored"'))
    with pytest.raises(FormatError, match="not what was written"):
        read_scores(root)
    (problem,) = verify_scores(root)
    assert problem.where.endswith("COMMIT.json")


def test_a_file_that_was_put_in_is_seen(root: Path) -> None:
    add_scores(root, "board", scores(), FILES)
    assert verify_scores(root) == []
    (found,) = score_sets(root)
    object_path(found.path, "original/more.csv").write_text("x")
    (problem,) = verify_scores(root)
    assert str(problem).endswith("original/more.csv: not part of what was committed")
