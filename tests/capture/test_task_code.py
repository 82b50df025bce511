"""Tasks of strangers: what runs code, or reads what is not theirs, is refused by name."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
import yaml
from click.testing import CliRunner, Result
from eval_tasks import write_task

from lpp.capture.cli.command import main
from lpp.capture.evaluation.tasks.load import load_tasks
from lpp.capture.synthetic.items import TASKS
from lpp.store.errors import ErrorKind, InputError

FLAG = "--trust-task-code"
ESCAPE = "{{cycler.__init__.__globals__.os.system('touch %s')}}"


class Function(str):
    """A string that is written as `!function`."""

    __slots__ = ()


yaml.SafeDumper.add_representer(
    Function, lambda dumper, name: dumper.represent_scalar("!function", str(name))
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file `mark.py` whose functions leave `touched` beside the folder."""
    path = tmp_path / "tasks"
    path.mkdir()
    program = f"from pathlib import Path\nPath({str(tmp_path / 'touched')!r}).touch()\n"
    (path / "mark.py").write_text(program + "def text(doc): return doc['question']\n")
    (tmp_path / "secret.txt").write_text("the secret\n")
    return path


def evaluate(model: Path, task: Path, root: Path, *extra: object) -> Result:
    words = ["eval", "--model", model, "--tasks", task, "--store", root, "--sites", "final"]
    return CliRunner().invoke(main, [str(word) for word in (*words, "--context", 60, *extra)])


def metric(name: str, **more: object) -> dict[str, Any]:
    return {
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True, **more}]
    }


def of_file(name: str) -> dict[str, Any]:
    """A task whose documents are lines of `name`."""
    files = {"test": name, "shots": name}
    return {"dataset_path": "text", "dataset_kwargs": {"data_files": files}}


PROGRAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "text": ("doc_to_text", {"doc_to_text": Function("mark.text")}),
    "docs": ("process_docs", {"process_docs": Function("os.system")}),
    "dataset": ("custom_dataset", {"custom_dataset": Function("mark.text")}),
    "shots": ("fewshot_config.doc_to_text", {"fewshot_config": {"doc_to_text": Function("a.b")}}),
    "filter": (
        "filter_list.0.filter.0.function",
        {"filter_list": [{"name": "x", "filter": [{"function": Function("mark.text")}]}]},
    ),
    "aggregation": (
        "metric_list.0.aggregation",
        {"metric_list": [{"metric": "acc", "aggregation": Function("mark.text")}]},
    ),
    "metric": ("metric_list.0.metric", metric("./mark.py")),
    "metric of a hub": ("metric_list.0.metric", metric("acc", hf_evaluate=True)),
    "prompt": ("use_prompt", {"use_prompt": "promptsource:*"}),
    "include": ("the file", {"include": "../outside.yaml"}),
    "pickle": ("dataset_path", {"dataset_path": "pandas"}),
    "script": ("dataset_path", {"dataset_path": "TASKS", "dataset_kwargs": {}}),
    "elsewhere": ("dataset_path", {"dataset_path": "/etc", "dataset_kwargs": {}}),
    "url": ("dataset_path", {"dataset_path": "file:///etc", "dataset_kwargs": {}}),
    "setting": (
        "dataset_kwargs.cache_dir",
        {"dataset_path": "nobody/nothing", "dataset_kwargs": {"cache_dir": "/tmp/elsewhere"}},
    ),
    "absolute": ("dataset_kwargs.data_files", of_file("/etc/hostname")),
    "above": ("dataset_kwargs.data_files", of_file("TASKS/../secret.txt")),
    "pattern": ("dataset_kwargs.data_files", of_file("TASKS/*/../../secret.txt")),
    "link": ("dataset_kwargs.data_files", of_file("TASKS/link.txt")),
    "pattern of links": ("dataset_kwargs.data_files", of_file("TASKS/l*.txt")),
    "pipe": ("dataset_kwargs.data_files", of_file("TASKS/pipes/*")),
    "file url": ("dataset_kwargs.data_files", of_file("file:///etc/hostname")),
    "chain": ("dataset_kwargs.data_files", of_file("zip://a::https://b/c.zip")),
    "folder": (
        "dataset_kwargs.data_dir",
        {"dataset_path": "text", "dataset_kwargs": {"data_dir": "/etc"}},
    ),
    "of a hub": (
        "dataset_kwargs.data_files",
        {"dataset_path": "nobody/nothing", "dataset_kwargs": {"data_files": "/etc/hostname"}},
    ),
}


def named(value: Any, folder: Path) -> Any:
    """`value` with the folder of the tasks for TASKS."""
    if isinstance(value, dict):
        return {key: named(inner, folder) for key, inner in value.items()}
    is_text = type(value) is str
    return value.replace("TASKS", str(folder)) if is_text else value


@pytest.mark.parametrize("what", PROGRAMS)
def test_a_task_that_would_run_code_or_read_elsewhere_is_refused(folder: Path, what: str) -> None:
    key, changes = PROGRAMS[what]
    if what.endswith("link") or "links" in what:
        (folder / "link.txt").symlink_to(folder.parent / "secret.txt")
    if what == "pipe":
        (folder / "pipes").mkdir()
        os.mkfifo(folder / "pipes" / "pipe")
    (folder.parent / "outside.yaml").write_text("task: outside\n")
    name = write_task(folder, "multiple_choice", **named(changes, folder))
    for given in (folder / f"{name}.yaml", folder):
        with pytest.raises(InputError) as caught:
            load_tasks([str(given)])
        assert caught.value.kind is ErrorKind.NOT_ALLOWED
        assert key in str(caught.value)
        assert FLAG in str(caught.value)
    assert not (folder.parent / "touched").exists()


@pytest.mark.parametrize("where", ["included", "of lm-eval", "group", "inline", "alias"])
def test_code_is_found_wherever_a_task_has_it(folder: Path, where: str) -> None:
    name = write_task(folder, "multiple_choice")
    task, other = folder / f"{name}.yaml", folder / "other.yaml"
    text = "doc_to_text: !function mark.text\n"
    if where == "included":
        (folder / "deep").mkdir()
        (folder / "deep" / "shared").write_text(text)
        (folder / "deep" / "_more").write_text("include: shared\n")
        task.write_text(task.read_text() + "include: [deep/_more]\n")
    elif where == "of lm-eval":  # it loads the tokenizer that the task names, with its program
        theirs = Path(lm_eval.tasks.__file__).parent / "ruler" / "niah_single_1.yaml"
        task.write_text(task.read_text() + f"include: {theirs}\n")
    elif where == "alias":
        task.write_text(
            task.read_text() + "metadata: &m {version: 1, all: [*m], x: !function a.b}\n"
        )
    else:
        inline = "{task: x, doc_to_text: !function mark.text}" if where == "inline" else name
        other.write_text(f"group: both\ntask: [{inline}]\n")
        if where == "group":
            task.write_text(task.read_text().replace("doc_to_text: ", "doc_to_textual: ") + text)
        task = other
    with pytest.raises(InputError, match=FLAG) as caught:
        load_tasks([str(task)])
    assert caught.value.kind is ErrorKind.NOT_ALLOWED
    assert not (folder.parent / "touched").exists()


@pytest.mark.parametrize("only", [None, "doc-4"])
def test_templates_see_their_document_alone(
    tiny_folder: Callable[[str], Path], folder: Path, tmp_path: Path, only: str | None
) -> None:
    """At once, or when a later document is asked about."""
    escape = ESCAPE % (tmp_path / "touched")
    text = f"{{% if {only is None} or id == '{only}' %}}" + escape + "{% endif %}Q"
    name = write_task(folder, "multiple_choice", doc_to_text=text)
    done = evaluate(tiny_folder("llama"), folder / f"{name}.yaml", tmp_path / "store")
    assert (done.exit_code, done.stdout) == (2, "")
    assert FLAG in done.stderr
    assert name in done.stderr
    assert not (tmp_path / "touched").exists()
    assert not (tmp_path / "store").exists()


def test_a_trusted_task_runs_its_code(
    tiny_folder: Callable[[str], Path], folder: Path, tmp_path: Path
) -> None:
    name = write_task(folder, "multiple_choice", doc_to_text=Function("mark.text"))
    there = folder / f"{name}.yaml"
    assert evaluate(tiny_folder("llama"), there, tmp_path / "store").exit_code == 2
    assert not (tmp_path / "touched").exists()
    done = evaluate(tiny_folder("llama"), there, tmp_path / "store", FLAG)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "touched").exists()


def test_tasks_of_lm_eval_and_of_this_package_need_no_trust(folder: Path) -> None:
    """By name, by path, and where a stranger's task includes them."""
    load_tasks(["pydoc_cloze"])
    load_tasks([str(TASKS / "pydoc_cloze.yaml")])
    (folder / "mine.yaml").write_text(
        f"include: {TASKS / 'pydoc_cloze.yaml'}\ntask: mine\nnum_fewshot: 0\n"
    )
    (loaded,) = load_tasks([str(folder / "mine.yaml")])
    assert len(loaded["tasks"]["mine"].eval_docs) > 100


def test_documents_below_the_folder_need_no_trust(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = write_task(folder, "multiple_choice")
    (folder / "docs").mkdir()
    (folder / f"{name}-test.jsonl").rename(folder / "docs" / "a.jsonl")
    (folder / "docs" / "b.jsonl").symlink_to(folder / "docs" / "a.jsonl")
    monkeypatch.chdir(folder.parent)
    shots = f"tasks/{name}-shots.jsonl"
    for given in ("tasks/docs/a.jsonl", ["tasks/docs/*.jsonl"], "tasks/../tasks/docs/a.jsonl"):
        files = {"data_files": {"test": given, "shots": shots}}
        write_task(folder, "multiple_choice", dataset_kwargs=files)
        assert load_tasks([f"tasks/{name}.yaml"])
