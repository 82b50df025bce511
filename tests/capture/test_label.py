"""`lpp-capture label`: fields for the prompts of runs that are there already."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lpp.analyze.cli.command import main as analyze
from lpp.capture.cli.command import main
from lpp.store import Run, open_store

TEXTS = ["the dog", "a quick brown fox", "judge my vow", "the lazy dog", "quick waltz"]
ROWS: list[dict[str, Any]] = [
    {"text": text, "id": 10 + n, "label": "even" if n % 2 == 0 else "odd", "score": n / 2}
    for n, text in enumerate(TEXTS)
]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def captured(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Callable[..., Run]:
    """`captured(rows)`: capture these rows of a file into `store`, without their fields."""

    def run(rows: list[dict[str, Any]], *words: str) -> Run:
        given = [f"--model={tiny_folder('llama')}", f"--store={tmp_path / 'store'}", *words]
        file = jsonl(tmp_path / "captured.jsonl", rows)
        done = CliRunner().invoke(main, ["run", *given, f"--corpus={file}", "--context=20"])
        assert done.exit_code == 0, done.output
        (found,) = open_store(tmp_path / "store").runs.values()
        return found

    return run


def label(tmp_path: Path, rows: list[dict[str, Any]], *words: str) -> Result:
    file = jsonl(tmp_path / "labelled.jsonl", rows)
    given = ["label", str(tmp_path / "store"), "*", f"--from={file}", *words]
    return CliRunner().invoke(main, given)


def labels(tmp_path: Path, name: str = "field.label") -> list[Any]:
    (run,) = open_store(tmp_path / "store").runs.values()
    assert run.verify() == []
    values: list[Any] = run.prompts(name)[name].to_pylist()
    return values


@pytest.mark.parametrize(
    ("held", "given", "by"),
    [
        (ROWS, ROWS, "row"),
        (ROWS, [{"text": " "}, *reversed(ROWS)], "id"),
        ([{"text": text} for text in TEXTS], [{"text": ""}, *ROWS, {"text": "more"}], "order"),
    ],
)
def test_a_row_is_found_by_place_id_or_order(
    captured: Callable[..., Run],
    tmp_path: Path,
    held: list[dict[str, Any]],
    given: list[dict[str, Any]],
    by: str,
) -> None:
    before = captured(held)
    done = label(tmp_path, given, "--fields=label,score")
    assert done.exit_code == 0, done.output
    assert f"{before.id}: added label, score, by {by}" in done.stdout
    assert labels(tmp_path) == ["even", "odd", "even", "odd", "even"]
    assert labels(tmp_path, "field.score") == [0.0, 0.5, 1.0, 1.5, 2.0]
    again = label(tmp_path, given, "--fields=label")
    assert "has these fields already" in again.stdout


def test_other_texts_are_refused(captured: Callable[..., Run], tmp_path: Path) -> None:
    captured(ROWS)
    for rows in (
        [*ROWS[:-1], {**ROWS[-1], "text": "quick waltzes"}],
        ROWS[:-1],
        [{"text": text, "label": "x"} for text in reversed(TEXTS)],
    ):
        done = label(tmp_path, rows, "--fields=label")
        assert done.exit_code == 2
        assert "its texts are not the 5 texts that run" in done.stderr
    (run,) = open_store(tmp_path / "store").runs.values()
    assert run.extra_columns.names == ["id"]


def test_the_refusal_of_a_capture_names_the_command(
    captured: Callable[..., Run], tmp_path: Path
) -> None:
    captured(ROWS)
    with pytest.raises(AssertionError, match="To add fields: lpp-capture label STORE"):
        captured(ROWS, "--fields=label")
    assert label(tmp_path, ROWS, "--fields=label").exit_code == 0
    captured(ROWS, "--fields=label")  # now it is the run


def test_numbers_by_cluster_use_them(captured: Callable[..., Run], tmp_path: Path) -> None:
    captured(ROWS)
    asked = ["profile", str(tmp_path / "store"), "--cluster", "label"]
    assert CliRunner().invoke(analyze, asked).exit_code == 2
    assert label(tmp_path, ROWS, "--fields=label").exit_code == 0
    done = CliRunner().invoke(analyze, asked)
    assert done.exit_code == 0, done.output


def test_a_field_that_no_row_has_and_values_of_two_kinds_are_refused(
    captured: Callable[..., Run], tmp_path: Path
) -> None:
    captured(ROWS)
    done = label(tmp_path, ROWS, "--fields=lable")
    assert (done.exit_code, "Did you mean --fields label?" in done.stderr) == (2, True)
    mixed = [*ROWS[:-1], {**ROWS[-1], "label": 3}]
    done = label(tmp_path, mixed, "--fields=label")
    assert (done.exit_code, "is of several types" in done.stderr) == (2, True)
