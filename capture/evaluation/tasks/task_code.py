"""What a task may do: it is text and documents, and runs no code unless the user trusts it.

A YAML file of lm-eval may name functions, metrics and data sets that are programs; its templates
reach Python through Jinja; its documents may be any file of this machine, which an evaluation keeps
in the store. A task that comes with neither lm-eval nor this package does none of it unless the
user says so.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lpp.store.errors import ErrorKind, InputError, first_line

FLAG: Final = "--trust-task-code"

_FORMATS: Final = ("arrow", "csv", "json", "parquet", "text")
"""Readers of files that `dataset_path` may name: they take data for data."""

_SETTINGS: Final = frozenset(
    {
        *("data_dir", "data_files", "revision", "split", "streaming", "columns", "field"),
        *("delimiter", "sep", "header", "names", "column_names", "quotechar", "skiprows"),
        *("encoding", "keep_linebreaks", "sample_by"),
    }
)
"""`dataset_kwargs` that name no code and no place outside the task's folder."""

_MAGIC: Final = frozenset("*?[{")
"""Characters of a pattern of files."""


@dataclass(frozen=True, slots=True)
class _Function:
    """The tag `!function` of a YAML file."""

    name: str


def refuse_code(path: Path, ours: Sequence[Path], theirs: Path) -> None:
    """InputError that names the first key of a task's YAML that runs code.

    path: a YAML file, or a folder whose files are all read; a group stands for its whole folder.
    ours, theirs: folders of this package's tasks and of lm-eval's, whose files may be included. A
    function of lm-eval takes the arguments of the task that includes it, so it needs trust too.
    """
    folder = folder_of(path)
    left = yaml_files(folder) if path.is_dir() else [path.resolve()]
    seen: set[Path] = set()
    while left:
        file = left.pop(0)
        real = file.resolve()
        if real in seen or any(real.is_relative_to(root) for root in ours):
            continue
        seen.add(real)
        if not any(map(real.is_relative_to, (folder, theirs))):
            raise refused(str(file), "the file", f"is outside {folder}")
        document = _document(real)
        for key, why in _programs(document):
            raise refused(str(file), f"`{key}`", why)
        includes = document.get("include") or ()
        includes = [includes] if isinstance(includes, str) else includes
        left += [real.parent / str(name) for name in includes]
        if isinstance(document.get("task"), list):  # a group finds its tasks beside it
            left += yaml_files(folder)


def folder_of(path: Path) -> Path:
    """The folder of a task, without links: that of its file, or the folder that was named."""
    return path.resolve() if path.is_dir() else path.resolve().parent


def yaml_files(folder: Path) -> list[Path]:
    """The files below a folder that may be tasks."""
    return sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")])


def _document(file: Path) -> Mapping[str, Any]:
    """The YAML of a file, with `_Function` for functions; empty where lm-eval cannot read it."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """lm-eval's loader, so that both accept the same files."""

    Loader.add_constructor("!function", lambda _, node: _Function(str(node.value)))
    try:
        document = yaml.load(file.read_bytes(), Loader)
    except (yaml.YAMLError, OSError, ValueError, RecursionError):
        return {}  # lm-eval explains it, or leaves it out
    return document if isinstance(document, dict) else {}


def _programs(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, what it does) for each value in a YAML document that runs code."""
    left: list[tuple[str, Any]] = [("", document)]
    seen: set[int] = set()  # an alias may hold itself
    while left:
        key_path, value = left.pop()
        if isinstance(value, _Function):
            yield key_path, f"names the function {value.name}"
        if id(value) in seen or not isinstance(value, dict | list):
            continue
        seen.add(id(value))
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            where = f"{key_path}.{key}".removeprefix(".")
            if key == "use_prompt" and inner is not None:
                yield where, "reads a template from elsewhere"
            elif key == "metric_list":
                yield from _metrics(inner, where)
            left.append((where, inner))


def _metrics(entries: object, key_path: str) -> Iterator[tuple[str, str]]:
    """Metrics that lm-eval does not have: `evaluate` would load a program of that name."""
    import lm_eval.api.metrics  # noqa: F401  # registers them
    from lm_eval.api.registry import METRIC_REGISTRY

    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        name = entry.get("metric") if isinstance(entry, Mapping) else None
        if isinstance(name, str) and (entry.get("hf_evaluate") or name not in METRIC_REGISTRY):
            yield f"{key_path}.{index}.metric", f"names {name}, which is no metric of lm-eval"


@contextmanager
def documents_below(folder: Path, task: str) -> Iterator[None]:
    """Load documents from a hub and from files below `folder` alone meanwhile."""
    import datasets

    load = datasets.load_dataset

    def checked(path: str, name: str | None = None, **settings: Any) -> Any:
        for key, why in _documents(path, settings, folder):
            raise refused(task, f"`{key}`", why)
        return load(path, name, **settings)

    datasets.load_dataset = checked
    try:
        yield
    finally:
        datasets.load_dataset = load


def _documents(path: str, settings: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) for each setting that a data set may not have."""
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES as READERS

    for key in settings:
        if key not in _SETTINGS:
            yield f"dataset_kwargs.{key}", "is no plain setting of a data set"
    local = Path(path).expanduser()
    remote = path not in READERS and not local.exists()
    if "://" in path or (path in READERS and path not in _FORMATS):
        yield "dataset_path", f"is {path}: not one of {', '.join(_FORMATS)}, nor a name on the hub"
    elif path not in READERS and not remote:
        yield from _outside("dataset_path", local, folder)
        if programs := [*local.rglob("*.py")]:
            yield "dataset_path", f"has a program, {programs[0]}"
    inner = str(settings.get("data_dir") or "")
    base = (Path() if path in READERS else local) / Path(inner).expanduser()
    files = [("dataset_kwargs.data_files", name) for name in _names(settings)]
    for key, name in [("dataset_kwargs.data_dir", inner), *files]:
        file = Path(name)
        if "://" in name or "::" in name:
            if "::" in name or not name.startswith(("https://", "hf://")):
                yield key, f"is {name}"
        elif remote and (file.is_absolute() or ".." in file.parts or name.startswith("~")):
            yield key, f"is {name}"
        elif name and not remote:
            yield from _outside(key, base if key.endswith("dir") else base / file, folder)


def _names(settings: Mapping[str, Any]) -> list[str]:
    """The file names in `data_files`, of all splits."""
    left, names = [settings.get("data_files")], []
    while left:
        files = left.pop()
        if isinstance(files, Mapping):
            left += files.values()
        elif isinstance(files, list | tuple):
            left += files
        elif files is not None:
            names.append(str(files))
    return names


def _outside(key: str, path: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """What of a file, a folder or a pattern is not below `folder`, links resolved, or no file."""
    fixed, parts = Path(path.anchor), [*path.relative_to(path.anchor).parts]
    while parts and not _MAGIC & set(parts[0]):
        fixed /= parts.pop(0)
    if ".." in parts or not fixed.resolve().is_relative_to(folder):
        yield key, f"is {path}, outside the task's folder {folder}"
        return
    for inner in [fixed, *(fixed.rglob("*") if fixed.is_dir() else ())]:
        if not inner.resolve().is_relative_to(folder):
            yield key, f"holds {inner}, a link to outside the task's folder {folder}"
        elif inner.exists() and not inner.is_dir() and not inner.is_file():
            yield key, f"holds {inner}, no regular file"


@contextmanager
def sandboxed() -> Iterator[None]:
    """Render task templates in Jinja's sandbox meanwhile: a template sees only its document."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from lm_eval import utils

    original = utils.env
    box = ImmutableSandboxedEnvironment(
        undefined=original.undefined, keep_trailing_newline=original.keep_trailing_newline
    )
    box.filters.update(original.filters)
    utils.env = box
    try:
        yield
    finally:
        utils.env = original


def template_refused(task: str, error: Exception) -> InputError:
    """The error of a template that reaches for what the sandbox closes."""
    return refused(task, "a template", f"reaches beyond its document ({first_line(error)})")


def refused(file: str, key: str, why: str) -> InputError:
    """The error of a task that needs to be trusted."""
    return InputError(
        f"--tasks {file}: {key} {why}. A task that comes with neither lm-eval nor this package "
        f"runs no code and reads no file outside its folder. Read it; if you trust it, repeat with "
        f"{FLAG}.",
        kind=ErrorKind.NOT_ALLOWED,
    )
