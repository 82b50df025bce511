"""Tasks of lm-eval and of this package, by name, from a YAML file or from a folder of them."""

import difflib
import functools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from lpp.capture.evaluation.tasks.declared import declared_by
from lpp.capture.evaluation.tasks.documents import asks_hub, hub_or_cache
from lpp.capture.evaluation.tasks.task_code import (
    documents_below,
    folder_of,
    refuse_code,
    template_refused,
    yaml_files,
)
from lpp.capture.synthetic.items import TASKS
from lpp.store.errors import ErrorKind, InputError, LppError, first_line
from lpp.store.objects.place import check_regular

FEWSHOT_SEED: Final = 1234
"""lm-eval's own, of the draw of the shots."""

_OF_A_PATH: Final = ("/", "\\", ".yaml", ".yml")


def load_tasks(
    names: Sequence[str],
    *,
    shots: int | None = None,
    trust_code: bool = False,
) -> list[Any]:
    """The units of evaluation, in order: single tasks, and groups with all their tasks.

    Each is what lm-eval's `TaskManager.load` returns, ready for its `evaluate`. names: tasks,
    groups and tags of lm-eval; YAML files; folders, whose tasks are all taken, one by one. shots:
    solved items before each question, but for tasks that forbid any; None: as they say.
    trust_code: let tasks that come with neither lm-eval nor this package run functions, and read
    files outside their folder.

    Raises InputError for an unknown name, a task whose documents cannot be had, a task of images
    or sound, one that would run code of the model, one that declares what nobody knows, and a name
    that is there twice.
    """
    tasks: list[Any] = []
    seen: set[str] = set()
    for name in names:
        for loaded in _loaded(name, trust_code):
            _check_names([*loaded["tasks"], *loaded["groups"]])
            for task, object_ in loaded["tasks"].items():
                if task in seen:
                    raise InputError(f"--tasks: the task {task} is there twice. Name it once.")
                seen.add(task)
                _check(task, object_)
                _set_shots(object_, shots)
            tasks.append(loaded)
    return tasks


def _loaded(name: str, trust_code: bool) -> Iterator[Any]:
    import lm_eval.tasks

    path = _packaged().get(name, Path(name).expanduser())
    ours = [TASKS.resolve()]
    theirs = Path(lm_eval.tasks.__file__).resolve().parent
    strange = path.exists() and not any(map(path.resolve().is_relative_to, (*ours, theirs)))
    if strange:
        for file in yaml_files(path if path.is_dir() else path.parent):
            check_regular(file)  # lm-eval opens them all
        if not trust_code:
            refuse_code(path, ours, theirs)
    manager, wanted = _task_manager(name, path)
    remote = asks_hub(path) if path.exists() else True
    for task_name in wanted:
        with ExitStack() as stack:
            if remote:
                stack.enter_context(hub_or_cache())
            if strange and not trust_code:
                stack.enter_context(documents_below(folder_of(path), name))
            loaded = _load(manager, task_name)
        if loaded["groups"]:
            yield loaded
        else:  # a tag is several tasks that have no score together
            for task, object_ in loaded["tasks"].items():
                yield {"tasks": {task: object_}, "groups": {}, "group_map": {}}


def _task_manager(name: str, path: Path) -> tuple[Any, list[str]]:
    """lm-eval's `TaskManager`, and its names of the wanted tasks."""
    from lm_eval.tasks import TaskManager

    if path.is_dir():
        manager = TaskManager(include_path=str(path), include_defaults=False)
        if not manager.all_subtasks:
            raise InputError(
                f"--tasks {name}: no task of lm-eval in this folder. A task is a .yaml file with "
                "the key `task`.",
                kind=ErrorKind.NOT_FOUND,
            )
        return manager, list(manager.all_subtasks)
    if path.is_file():
        # a group finds its tasks beside it
        manager = TaskManager(include_path=str(path.parent), include_defaults=False)
        wanted = [
            known for known, entry in manager.task_index.items() if _is_of(entry.yaml_path, path)
        ]
        return manager, wanted or [str(path)]
    if name.startswith(".") or any(part in name for part in _OF_A_PATH):
        raise InputError(f"--tasks {name}: no such file or folder.", kind=ErrorKind.NOT_FOUND)
    manager = _all_tasks()
    if name not in manager.all_tasks:
        raise _unknown(name, manager.all_tasks)
    return manager, [name]


def _load(manager: Any, name: str) -> Any:
    from jinja2.exceptions import SecurityError

    try:
        return manager.load([name])
    except LppError:
        raise
    except SecurityError as error:
        raise template_refused(name, error) from None
    except Exception as error:  # of any kind: a task is YAML, a data set and Python of its own
        raise _not_loaded(name, error) from error


def _packaged() -> dict[str, Path]:
    """Files of the packaged tasks, by name; a file whose name begins with _ is only included."""
    return {path.stem: path for path in TASKS.glob("[!_]*.yaml")}


@functools.cache
def _all_tasks() -> Any:
    """The tasks that come with lm-eval: thousands of files are read, in some seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _is_of(file: object, path: Path) -> bool:
    return file is not None and Path(str(file)).resolve() == path.resolve()


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not name.isprintable() or not name.strip():
            raise InputError(
                f"--tasks: the name {name!a} has characters that do not print, or is empty, "
                "and runs and scores are named after it. Rename the task."
            )


def _check(name: str, task: Any) -> None:
    declared_by(task)
    if getattr(task, "MULTIMODAL", False):
        raise InputError(
            f"task {name} asks about images or sound, and a store holds text alone. Choose another."
        )
    if getattr(task, "UNSAFE_CODE", False):
        raise InputError(
            f"task {name} runs code that the model writes, which this command does not do. Choose "
            "another."
        )


def _set_shots(task: Any, shots: int | None) -> None:
    """Set `shots` as lm-eval's command line does: a task with 0 shots keeps 0."""
    declared = task.get_config("num_fewshot")
    if declared is None or (declared != 0 and shots is not None):
        task.set_config(key="num_fewshot", value=shots or 0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)


def _unknown(name: str, known: Sequence[str]) -> InputError:
    near = difflib.get_close_matches(name, [*_packaged(), *known], n=3)
    advice = f"Did you mean {', '.join(near)}?" if near else "`lm_eval ls tasks` lists them."
    return InputError(
        f"--tasks {name}: lm-eval has no such task. {advice} A folder of tasks is given by its "
        f"path: --tasks ./{name}",
        kind=ErrorKind.NOT_FOUND,
    )


def _not_loaded(name: str, error: Exception) -> InputError:
    if isinstance(error, ConnectionError):  # that of data sets, and of what it calls
        return InputError(
            f"--tasks {name}: its documents cannot be loaded. They are not in the cache, and the "
            f"hub was not reached ({first_line(error)}). Run the command once with a network and "
            "without HF_HUB_OFFLINE; the cache (HF_HOME) may then be copied. --tasks pydoc_cloze "
            "needs no download.",
            kind=ErrorKind.NOT_FOUND,
        )
    return InputError(
        f"--tasks {name}: cannot be loaded ({type(error).__name__}: {first_line(error)}). Correct "
        "what its YAML file names: documents, split, fields, metrics, filters. Files are looked "
        "for from the folder of the command; --debug shows where loading failed.",
        kind=ErrorKind.NOT_FOUND,
    )
