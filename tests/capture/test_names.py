"""Names of tasks and models that a store cannot hold: refused before any model is loaded."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from eval_tasks import write_task

import lpp.capture
from lpp.capture.cli.command import main
from lpp.capture.evaluation.result_files import file_name
from lpp.store import read_scores
from lpp.store.errors import InputError
from lpp.store.format.keys import key_problem
from lpp.store.scores.scores import score_sets

UNPRINTABLE = ["tab\there", "esc\x1b[31m", "line\nbreak", "right\u202eleft", "half\udc80"]


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "tasks"
    path.mkdir()
    return path


def called(folder: Path, name: str, **changes: Any) -> Path:
    """A task of this name."""
    path = folder / f"{write_task(folder, 'multiple_choice', items=2)}.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "task": name, **changes}))
    return path


@pytest.mark.parametrize("name", [*UNPRINTABLE[:-1], " "])
def test_a_task_whose_name_does_not_print_is_refused_before_the_model_loads(
    folder: Path, tmp_path: Path, name: str
) -> None:
    task, root = called(folder, name), tmp_path / "store"
    done = run("eval", "--model", tmp_path / "nothing", "--tasks", task, "--store", root)
    assert done.exit_code == 2
    assert not root.exists()


@pytest.mark.parametrize("name", UNPRINTABLE)
def test_a_model_whose_name_does_not_print_is_refused_at_every_door(
    folder: Path, tmp_path: Path, name: str
) -> None:
    """No weights lie there: a command that looked for them would say so."""
    model, root = tmp_path / name, tmp_path / "store"
    model.mkdir()
    (tmp_path / "texts.txt").write_text("some text\n")
    where = ("--model", model, "--store", root)
    for words in (
        ("run", *where, "--corpus", tmp_path / "texts.txt", "--prompts", 1, "--min-bytes", 0),
        ("eval", *where, "--tasks", called(folder, "fine")),
    ):
        done = run(*words)
        assert done.exit_code == 2, done.output
        assert not root.exists()


def test_a_model_from_python_needs_a_name_that_prints(
    load: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="text that prints"):
        lpp.capture.capture(
            load(),
            tiny_tokenizer,
            ["some text"],
            store=tmp_path / "store",
            name="esc\x1b[31m",
        )
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", ["a/b", "../a", ".hidden", "a\\b", "x" * 300])
def test_the_log_of_every_other_name_is_kept(
    tiny_folder: Callable[[str], Path], folder: Path, tmp_path: Path, name: str
) -> None:
    model = tmp_path / ".hidden" if name == ".hidden" else tmp_path / ("m" * 250)
    shutil.copytree(tiny_folder("llama"), model)
    task, root = called(folder, name), tmp_path / "store"
    where = ("--model", model, "--store", root, "--sites", "final", "--context", 60)
    done = run("eval", *where, "--tasks", task)
    assert done.exit_code == 0, done.output
    (found,) = score_sets(root)
    (log,) = [data for key, data in found.original().items() if key.endswith(".jsonl")]
    assert len(log.splitlines()) == 2
    assert {row["benchmark"] for row in read_scores(root).to_pylist()} == {name}


@pytest.mark.parametrize("name", ["a/b", "..", ".x", "a\\b", "é" * 300, "x" * 180, "arc_easy"])
def test_names_of_files_are_those_that_a_store_takes(name: str) -> None:
    found = file_name(name)
    assert key_problem(found) is None
    assert len(found.encode()) <= 180
    assert (found == name) == (name in ("x" * 180, "arc_easy"))
    assert file_name(found) == found
