"""`lpp-capture eval`: tasks that cannot be had, and stores of another tokenizer."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from eval_tasks import write_task

from lpp.analyze.questions import ScoreSettings
from lpp.analyze.scores.scores import add_benchmarks
from lpp.capture.cli.command import main
from lpp.capture.evaluation.tasks.documents import asks_hub
from lpp.store import Run, open_store, read_scores
from lpp.store.scores.items import read_items
from lpp.store.scores.scores import score_sets


def evaluate(model: Path, task: Path, root: Path, *extra: object) -> Result:
    words = ["eval", "--model", model, "--tasks", task, "--store", root, "--sites", "final"]
    return CliRunner().invoke(main, [str(word) for word in (*words, "--context", 60, *extra)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "tasks"
    path.mkdir()
    return path


@pytest.mark.slow
def test_without_a_network_a_download_is_one_message_and_no_retry(
    tiny_folder: Callable[[str], Path], folder: Path, tmp_path: Path
) -> None:
    """In a process whose hub is a port where nothing listens."""
    name = write_task(folder, "multiple_choice", dataset_path="nobody/nothing", dataset_kwargs={})
    words = ["eval", "--model", tiny_folder("llama"), "--tasks", folder / f"{name}.yaml"]
    words += ["--store", tmp_path / "store", "--context", 60]
    program = "import sys; from lpp.capture.cli.command import main; main(sys.argv[1:])"
    away = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "cache")}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, **away},
    )
    assert done.returncode == 2, done.stderr
    assert "HF_HOME" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr  # a retry has a line of its own
    assert not (tmp_path / "store").exists()


def test_only_documents_of_a_hub_are_asked_for(folder: Path) -> None:
    name = write_task(folder, "multiple_choice")
    assert not asks_hub(folder)
    (folder / "hub.yaml").write_text("task: hub\ndataset_path: 'owner/name'  # on the hub\n")
    assert asks_hub(folder)
    assert asks_hub(folder / "hub.yaml")
    assert not asks_hub(folder / f"{name}.yaml")
    (folder / "hub.yaml").write_text(f"task: hub\ndataset_path: {folder}\n")
    assert not asks_hub(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"doc_to_text": "Q: {{nothing}}"},
        {"doc_to_choice": []},
        {"metric_list": [{"metric": "nothing"}]},
        {"output_type": "nothing"},
        {"test_split": "nothing"},
        {"items": 0},
        {"doc_to_audio": "question"},
    ],
)
def test_a_task_that_contradicts_itself_is_one_message(
    tiny_folder: Callable[[str], Path], folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    name = write_task(folder, "multiple_choice", **changes)
    done = evaluate(tiny_folder("llama"), folder / f"{name}.yaml", tmp_path / "store")
    assert done.exit_code == 2
    assert "tiny_mc" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "store").exists()


def only_third(text: str) -> str:
    """A template that gives `text` for the document 3, and its question for the others."""
    return "{{" + repr(text) + " if id == 'doc-3' else question}}"


@pytest.mark.parametrize(
    ("kind", "item", "changes"),
    [
        ("multiple_choice", 0, {"doc_to_text": " "}),
        ("multiple_choice", 3, {"doc_to_text": only_third("\n ")}),
        ("loglikelihood", 3, {"doc_to_text": only_third(" ")}),
        (
            "loglikelihood",
            3,
            {"doc_to_text": only_third(""), "doc_to_target": only_third("")}
            | {"target_delimiter": ""},
        ),
        (
            "multiple_choice",
            0,
            {"doc_to_text": "", "doc_to_choice": ["<s>", "a"], "target_delimiter": ""},
        ),
    ],
)
def test_no_answer_is_scored_that_has_no_token_or_no_token_before_it(
    tiny_folder: Callable[[str], Path],
    folder: Path,
    tmp_path: Path,
    *,
    kind: str,
    item: int,
    changes: dict[str, Any],
) -> None:
    """lm-eval's own `hf` fails at each of them, with an empty message."""
    name = write_task(folder, kind, num_fewshot=0, **changes)
    done = evaluate(tiny_folder("llama"), folder / f"{name}.yaml", tmp_path / "store")
    assert done.exit_code == 2, done.output
    assert f"item {item} of {name}" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "store").exists()


def test_a_tokenizer_without_a_token_that_ends_a_text_writes_nothing(
    tiny_folder: Callable[[str], Path], folder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "llama"
    shutil.copytree(tiny_folder("llama"), model)
    config = json.loads((model / "tokenizer_config.json").read_text("utf-8"))
    del config["eos_token"]
    (model / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    name = write_task(folder, "generate_until")
    done = evaluate(model, folder / f"{name}.yaml", tmp_path / "store")
    assert done.exit_code == 2, done.output
    assert name in done.stderr
    assert "eos_token" in done.stderr
    assert not (tmp_path / "store").exists()


def test_texts_that_are_all_empty_are_one_message(
    tiny_folder: Callable[[str], Path], folder: Path, tmp_path: Path
) -> None:
    name = write_task(folder, "loglikelihood_rolling", doc_to_target="")
    done = evaluate(tiny_folder("llama"), folder / f"{name}.yaml", tmp_path / "store")
    assert done.exit_code == 2
    assert "empty" in done.stderr
    assert "--context" not in done.stderr  # a larger one does not help


@pytest.mark.parametrize("content", [b"task: [\n", b"hello: 1\n", b"\xff\xfe\x00"])
def test_a_file_that_is_no_task_is_one_message(
    tiny_folder: Callable[[str], Path], folder: Path, tmp_path: Path, content: bytes
) -> None:
    (folder / "bad.yaml").write_bytes(content)
    done = evaluate(tiny_folder("llama"), folder / "bad.yaml", tmp_path / "store")
    assert done.exit_code == 2
    assert "bad.yaml" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "store").exists()


@pytest.fixture
def other(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """The tiny model with a tokenizer that merges nothing: each character is a token."""
    folder = tmp_path / "other" / "llama"
    shutil.copytree(tiny_folder("llama"), folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    tokenizer["model"]["merges"] = []
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    return folder


def test_a_store_of_another_tokenizer_loses_nothing(
    tiny_folder: Callable[[str], Path], other: Path, folder: Path, tmp_path: Path
) -> None:
    task, root = folder / f"{write_task(folder, 'loglikelihood_rolling')}.yaml", tmp_path / "store"
    assert evaluate(tiny_folder("llama"), task, root).exit_code == 0
    (first,) = open_store(root).runs
    scores, items = read_scores(root).to_pylist(), read_items(root)
    done = evaluate(other, task, root)
    assert done.exit_code == 2
    assert "--replace" in done.stderr
    assert read_scores(root).to_pylist() == scores
    assert read_items(root).equals(items)
    assert evaluate(other, task, root, "--replace").exit_code == 0
    runs = open_store(root).runs
    assert len(runs) == 2
    assert len({run.plan.tokenizer.fingerprint for run in runs.values()}) == 2
    assert set(read_items(root)["run"].to_pylist()) == set(runs) - {first}
    assert runs[first].verify() == []


def test_items_are_joined_across_tokenizers_by_their_texts(
    tiny_folder: Callable[[str], Path], other: Path, folder: Path, tmp_path: Path
) -> None:
    task = folder / f"{write_task(folder, 'multiple_choice', items=3, num_fewshot=0)}.yaml"
    logged, root, results = (tmp_path / name for name in ("logged", "store", "results"))
    assert evaluate(tiny_folder("llama"), task, logged).exit_code == 0
    assert evaluate(other, task, root).exit_code == 0
    (found,) = score_sets(logged)
    for name, data in found.original().items():
        if not name.endswith(".arrow"):
            path = results / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.replace(found.scores()["model"][0].as_py().encode(), b"llama"))
    (joined,) = add_benchmarks(root, [results], ScoreSettings(items=True)).items
    (run,) = open_store(root).runs.values()
    assert joined.run == run.id
    table = read_items(root).to_pylist()
    for row in (row for row in table if row["source"] == "lm-eval"):
        (own,) = [r for r in table if r["source"] != "lm-eval" and r["item"] == row["item"]]
        # nothing spells `!`, which no tokenizer here has: the second answer
        own["prompt_ids"][1] = None
        assert row["prompt_ids"] == own["prompt_ids"]
        assert row["doc_sha256"] == own["doc_sha256"]
    assert longest(run) > longest(*open_store(logged).runs.values())


def longest(run: Run) -> int:
    """Tokens of a run's longest prompt."""
    return max(len(row["token_ids"]) for row in run.prompts().to_pylist())
