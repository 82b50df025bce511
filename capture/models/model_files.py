"""The files of a model, in a local folder at an exact revision, and what they say of it.

A hub name, a folder or a GGUF file is resolved to a folder; its configuration and tokenizer are
read from there. Nothing of a model's own code runs unless requested.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch

from lpp.capture.models.adapter import ADAPTER_CONFIG, BASE, base_of, check_adapter, refusal
from lpp.capture.models.complete import LOADING, check_loaded
from lpp.capture.models.gguf import converted_folder, folder_model
from lpp.capture.models.hub import check_hub_name, hub_snapshot
from lpp.capture.models.machine import require
from lpp.capture.models.spec import ModelSpec
from lpp.store.errors import ErrorKind, InputError, LppError, first_line
from lpp.store.objects.place import check_regular
from lpp.store.progress import SILENT, Progress

_LONGEST: Final = 300
"""Most characters of a warning of transformers."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model lies."""

    id: str
    folder: Path
    """A local folder as transformers saves it."""
    source: Literal["hub", "folder", "gguf"]
    revision: str | None
    """Commit of the hub's repository; None: not from the hub."""
    adapter: Path | None = None
    """Folder of the PEFT adapter to merge into the model in `folder`, whose files these are not."""


def check_is_there(model: str) -> None:
    """Refuse a model that is neither a file nor a model folder nor can be on the hub. Reads no
    file.
    """
    path = Path(model).expanduser()
    check_name(folder_model(path)[0] if path.is_dir() else path.name)
    if model and path.is_dir():
        _check_folder(path, model)
    elif path.suffix == ".gguf":
        _check_file(path)
    elif not path.is_file():
        check_hub_name(model)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"no file {path}. Correct --model.", kind=ErrorKind.NOT_FOUND)


def _check_folder(folder: Path, model: str) -> None:
    for file in (*folder.glob("*"), *folder.glob("*/*")):  # transformers opens those it knows
        check_regular(file)
    if not any((folder / name).is_file() for name in ("config.json", ADAPTER_CONFIG)):
        raise InputError(
            f"{model} is not a model folder: no config.json in {folder}. Correct --model.",
            kind=ErrorKind.NOT_FOUND,
        )


def find_files(spec: ModelSpec, *, weights: bool, progress: Progress) -> ModelFiles:
    """Download or convert the files of a model, or find them; weights: fetch the weights too."""
    files = _own_files(spec, weights, progress)
    if (base := base_of(files.folder)) is None:
        return files
    check_adapter(files.folder, spec)
    try:
        there = _own_files(replace(spec, id=base[0], revision=base[1]), weights, progress)
    except LppError as error:
        message = f"{ADAPTER_CONFIG} of {spec.id}: {str(error).replace('--model', BASE)}"
        raise type(error)(message, kind=error.kind) from error
    if base_of(there.folder) is not None:
        raise refusal(spec, f"has an adapter as its base ({base[0]})")
    return replace(files, folder=there.folder, adapter=files.folder)


def _own_files(spec: ModelSpec, weights: bool, progress: Progress) -> ModelFiles:
    path = Path(spec.id).expanduser()
    check_name(folder_model(path)[0] if path.is_dir() else path.name)
    if path.suffix == ".gguf" or path.is_file():
        return ModelFiles(path.stem, _from_gguf(path, progress), "gguf", None)
    if spec.id and path.is_dir():  # an empty id would be the current folder
        _check_folder(path, spec.id)
        name, source = folder_model(path)
        return ModelFiles(name, path, source, None)
    folder, commit = hub_snapshot(
        spec.id, spec.revision, weights=weights, code=spec.trust_remote_code, progress=progress
    )
    return ModelFiles(spec.id, folder, "hub", commit)


def check_name(name: str) -> None:
    """Refuse a model's name that no table and no file of a store may hold."""
    if not name.isprintable():
        raise InputError(
            f"the model's name {name!a} has characters that do not print, and runs, scores "
            "and files are named after it. Rename its folder or file."
        )


def _from_gguf(path: Path, progress: Progress) -> Path:
    _check_file(path)
    require("gguf", "accelerate")

    def convert(file: Path, folder: Path) -> None:
        progress.note(f"turning {file.name} into a model folder, once")
        _convert(file, folder, progress)

    return converted_folder(path, convert)


def _convert(file: Path, folder: Path, progress: Progress) -> None:
    """Dequantise to bfloat16; the tokenizer comes along."""
    transformers = transformers_library()
    where: dict[str, Any] = {"gguf_file": file.name}
    how: dict[str, Any] = {}
    if hasattr(transformers, "GgufConfig"):  # since 5: weights stay quantised unless told
        how["quantization_config"] = transformers.GgufConfig(**where, dequantize=True)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, **where, **how, dtype=torch.bfloat16, **LOADING
    )
    check_loaded(str(file), info, progress)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(file.parent, **where).save_pretrained(folder)


def read_tokenizer(files: ModelFiles, spec: ModelSpec) -> Any:
    """The tokenizer, an adapter's before its base's; without any, None if it is optional."""
    own = files.adapter is not None and any(files.adapter.glob("tokenizer*"))
    folder = files.adapter if own else files.folder
    try:
        return transformers_library().AutoTokenizer.from_pretrained(
            folder, trust_remote_code=spec.trust_remote_code, local_files_only=True
        )
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise
        if spec.tokenizer_optional:
            return None
        raise InputError(
            f"{spec.id} has no tokenizer that loads: a model folder holds tokenizer.json, or what "
            "its family has instead. Save its tokenizer there with save_pretrained.",
            kind=ErrorKind.NOT_FOUND,
        ) from error


def read_config(folder: Path, spec: ModelSpec) -> Any:
    """The configuration in `folder`; InputError unless it is of a causal language model."""
    _check_folder(folder, spec.id)
    config = transformers_library().AutoConfig.from_pretrained(
        folder, trust_remote_code=spec.trust_remote_code, local_files_only=True
    )
    auto = auto_class(config)
    remote = auto.__name__ in (getattr(config, "auto_map", None) or {})
    if type(config) not in auto._model_mapping and not remote:
        raise InputError(
            f"{spec.id} is a {config.model_type} model, not a causal language model. "
            "`lpp-capture models NAME` says what was found of a class.",
            kind=ErrorKind.UNSUPPORTED_MODEL,
        )
    return config


def auto_class(config: Any) -> Any:
    """What makes the model of a configuration: the class of causal language models, or that of
    models which read images too and are captured on text alone (Qwen3-VL).
    """
    transformers = transformers_library()
    causal, images = transformers.AutoModelForCausalLM, transformers.AutoModelForImageTextToText
    mapped = [auto for auto in (causal, images) if type(config) in auto._model_mapping]
    return mapped[0] if mapped else causal


def generation_config(folder: Path) -> Any:
    """What `generation_config.json` in `folder` says."""
    return transformers_library().GenerationConfig.from_pretrained(folder, local_files_only=True)


def transformers_library() -> Any:
    """The library, untyped: its annotations change with each release."""
    import transformers

    return transformers


@contextmanager
def quietly(quiet: bool, progress: Progress = SILENT) -> Iterator[None]:
    """Keep transformers' advice and bars off stderr.

    progress: gets what transformers warns of the model, a line each; not of how it would write.
    """
    if not quiet:
        yield
        return
    settings, logger = transformers_library().utils.logging, logging.getLogger("transformers")
    level, bars = settings.get_verbosity(), settings.is_progress_bar_enabled()
    handlers, heard = logger.handlers, _Heard()
    settings.set_verbosity(logging.WARNING)
    settings.disable_progress_bar()
    logger.handlers = [heard]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.handlers = handlers
        settings.set_verbosity(level)
        if bars:
            settings.enable_progress_bar()
    for line in heard.lines:
        progress.warn(f"transformers warns: {line}")


class _Heard(logging.Handler):
    """Keeps the first line of each warning that may concern the numbers of a capture."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        of_writing = record.name.startswith("transformers.generation")
        # `complete` looks at what was loaded; a deprecation is of our call, not of the model
        if not of_writing and "LOAD REPORT" not in said and "deprecated" not in said:
            self.lines[first_line(said)[:_LONGEST]] = None
