"""Load a model and its tokenizer: find its files, create its modules, describe it for a plan."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lpp.capture.models.adapter import adapted_fingerprint, merged, refusal
from lpp.capture.models.device import check_device
from lpp.capture.models.fingerprints import (
    tokenizer_fingerprint,
    trained_fingerprint,
    untrained_fingerprint,
)
from lpp.capture.models.identity import loaded_fingerprint
from lpp.capture.models.instantiate import (
    check_weights,
    from_config,
    trained_model,
    untrained_model,
    weights_dtype,
)
from lpp.capture.models.known import known_models
from lpp.capture.models.loaded import known_as
from lpp.capture.models.machine import explained, require
from lpp.capture.models.model_files import (
    ModelFiles,
    check_name,
    find_files,
    generation_config,
    quietly,
    read_config,
    read_tokenizer,
)
from lpp.capture.models.spec import LoadedModel, Model, ModelSpec
from lpp.capture.models.structure.anatomy import block_count, logits_width, max_positions
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.plan import NO_TOKENIZER, ModelInfo, StoredDtype, TokenizerInfo
from lpp.store.progress import SILENT, Progress


def load_model(spec: ModelSpec, *, quiet: bool = True, progress: Progress = SILENT) -> Model:
    """Load a causal language model; every failure is raised as one clear error.

    quiet: keep the libraries' own warnings and bars off stderr. progress: gets a line for slow
    steps.
    """
    _check(spec)
    with quietly(quiet, progress), explained(spec.id, spec.device):
        files = find_files(spec, weights=spec.untrained_seed is None, progress=progress)
        config = read_config(files.folder, spec)
        tokenizer = read_tokenizer(files, spec)
        if spec.untrained_seed is None:
            base = spec if files.adapter is None else replace(spec, id=str(files.folder))
            model = trained_model(files.folder, config, base, progress)
            weights = trained_fingerprint(model, files.folder, spec.id, code=spec.trust_remote_code)
            if files.adapter is not None:
                model = merged(model, files.adapter, spec, progress)
                weights = adapted_fingerprint(weights, files.adapter)
        else:
            model = untrained_model(config, spec)
            weights = untrained_fingerprint(model, spec.untrained_seed)
    for row in known_models():
        if row["status"] == "wrong" and row["class"] == type(model).__name__:
            release = row["transformers"]
            progress.warn(f"{row['class']} is wrong in transformers {release}: {row['why']}")
    model.eval().requires_grad_(False)
    model.config.use_cache = False
    dtype = _dtype_name(model.dtype, spec.id)
    return replace(
        _model(files, spec, model, tokenizer, weights=weights, dtype=dtype), module=model
    )


def describe_model(spec: ModelSpec, *, quiet: bool = True, progress: Progress = SILENT) -> Model:
    """The record that `load_model` would give for a trained model, without its weights in memory.

    The weight files are read once for their fingerprint; the modules are created on torch's meta
    device. For an engine that loads the weights itself.
    """
    _check(spec)
    with quietly(quiet, progress), explained(spec.id, spec.device):
        files = find_files(spec, weights=True, progress=progress)
        if files.adapter is not None:
            raise refusal(spec, "does not run inside vLLM")
        config = read_config(files.folder, spec)
        tokenizer = read_tokenizer(files, spec)
        dtype = weights_dtype(files.folder, config, spec)
        check_weights(files.folder, config, spec, progress)
        with torch.device("meta"):
            model = from_config(config, spec, dtype)
        weights = trained_fingerprint(model, files.folder, spec.id, code=spec.trust_remote_code)
    name = _dtype_name(dtype, spec.id)
    return _model(files, spec, model, tokenizer, weights=weights, dtype=name)


def adopt_model(loaded: LoadedModel, spec: ModelSpec, *, quiet: bool = True) -> Model:
    """The record of a model that the caller has loaded, described by `lpp.capture.models.loaded`.

    It is identified by its state and by what it computes, and has no files. Costs what
    `loaded_fingerprint` costs.
    """
    check_name(spec.id)
    module = loaded.module
    files = ModelFiles(spec.id, Path(os.devnull), "folder", None)
    with quietly(quiet), explained(spec.id, spec.device):
        weights = loaded_fingerprint(module)
    dtype = _dtype_name(module.dtype, spec.id)
    model = _model(files, spec, module, loaded.tokenizer, weights=weights, dtype=dtype)
    called = "" if loaded.tokenizer is None else known_as(loaded.tokenizer.name_or_path)
    if called and called != known_as(module.config._name_or_path):
        model = replace(model, tokenizer_info=replace(model.tokenizer_info, id=called))
    return replace(model, module=module)


def save_untrained(
    spec: ModelSpec, folder: Path, *, quiet: bool = True, progress: Progress = SILENT
) -> Model:
    """Write the untrained twin that `spec` names into `folder`, for an engine that reads folders.

    The weights are those that `load_model` draws. Costs the model's memory on the CPU while it
    is written.
    """
    loaded = load_model(replace(spec, device="cpu"), quiet=quiet, progress=progress)
    with quietly(quiet), explained(spec.id, spec.device):
        loaded.module.save_pretrained(folder)
        if loaded.tokenizer is not None:
            loaded.tokenizer.save_pretrained(folder)
    return replace(loaded, folder=folder, module=None)


def _check(spec: ModelSpec) -> None:
    """Refuse whatever can be refused before anything is read."""
    require("torch", "transformers", "safetensors", "huggingface_hub")
    if spec.device_map is not None or spec.quantization is not None:
        require("accelerate")
    if spec.quantization is not None:
        require("bitsandbytes", extra="quantization")
    check_device(spec.device)
    _refuse_combinations(spec)


def _model(
    files: ModelFiles,
    spec: ModelSpec,
    module: Any,
    tokenizer: Any,
    *,
    weights: str,
    dtype: StoredDtype,
) -> Model:
    """The record of a model. module: loaded, or created on the meta device."""
    text = module.config.get_text_config()
    return Model(
        info=ModelInfo(
            id=files.id,
            source=files.source,
            revision=files.revision,
            weights=weights,
            architecture=type(module).__name__,
            n_parameters=module.num_parameters(),
            n_blocks=int(block_count(text) or 0),
            hidden_size=int(getattr(text, "hidden_size", 0)),
            logits_width=logits_width(module),
            untrained_seed=spec.untrained_seed,
            series=spec.series,
        ),
        tokenizer_info=_tokenizer_info(files.id, tokenizer, logits_width(module)),
        tokenizer=tokenizer,
        folder=files.folder,
        max_positions=max_positions(text),
        dtype=dtype,
        end_ids=_end_ids(files.folder, module),
    )


def _tokenizer_info(name: str, tokenizer: Any, width: int) -> TokenizerInfo:
    if tokenizer is None:
        return TokenizerInfo(id=NO_TOKENIZER, fingerprint=NO_TOKENIZER, size=width)
    return TokenizerInfo(id=name, fingerprint=tokenizer_fingerprint(tokenizer), size=len(tokenizer))


def _end_ids(folder: Path, module: Any) -> tuple[int, ...]:
    """Tokens that end a text, ascending: from generation_config.json, else from the model."""
    source: Any = getattr(module, "generation_config", None) or module.config.get_text_config()
    if (folder / "generation_config.json").is_file():
        source = generation_config(folder)
    value = getattr(source, "eos_token_id", None)
    ids = value if isinstance(value, (list, tuple)) else [value]
    return tuple(sorted({int(token) for token in ids if token is not None}))


def _refuse_combinations(spec: ModelSpec) -> None:
    """Refuse settings that would be recorded and not followed."""
    if spec.untrained_seed is not None and (spec.quantization or spec.device_map):
        raise InputError(
            "random weights (--untrained-seed) are neither quantised nor spread over devices. "
            "Leave out --quantization and --device-map, or leave out --untrained-seed."
        )


def load_tokenizer(
    model: str,
    revision: str | None = None,
    *,
    quiet: bool = True,
    trust_remote_code: bool = False,
    progress: Progress = SILENT,
) -> Any:
    """The tokenizer of a model, named as in a `ModelSpec`; fetches no weights from the hub."""
    require("transformers", "huggingface_hub")
    spec = ModelSpec(id=model, revision=revision, trust_remote_code=trust_remote_code)
    with quietly(quiet), explained(model, spec.device):
        return read_tokenizer(find_files(spec, weights=False, progress=progress), spec)


def load_text_side(spec: ModelSpec, *, quiet: bool = True) -> tuple[Any, int | None]:
    """(tokenizer, `Model.max_positions`) of a model, without its weights."""
    require("transformers", "huggingface_hub")
    with quietly(quiet), explained(spec.id, spec.device):
        files = find_files(spec, weights=False, progress=SILENT)
        config = read_config(files.folder, spec).get_text_config()
        return read_tokenizer(files, spec), max_positions(config)


def local_folder(model: str, *, quiet: bool = True) -> Path:
    """The folder with the files of a model named as in a `ModelSpec`, weights included."""
    spec = ModelSpec(id=model)
    with quietly(quiet), explained(model, spec.device):
        return find_files(spec, weights=True, progress=SILENT).folder


def _dtype_name(dtype: torch.dtype, model: str) -> StoredDtype:
    names: dict[torch.dtype, StoredDtype] = {
        torch.bfloat16: "bfloat16",
        torch.float16: "float16",
        torch.float32: "float32",
    }
    if dtype not in names:
        raise InputError(
            f"{model} computes in {dtype}, which no store holds. Repeat with --dtype float32.",
            kind=ErrorKind.UNSUPPORTED_MODEL,
        )
    return names[dtype]
