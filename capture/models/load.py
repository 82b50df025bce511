"""Loading a model and its tokenizer; the only module that imports transformers.

A hub name, a folder or a GGUF file is first resolved to a local folder, at an exact revision, and
loaded from there: only safetensors, and none of the model's own code unless requested. A model
whose weights are pickles is refused.
"""

import copy
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from lpp.capture.models.anatomy import logits_width, max_positions
from lpp.capture.models.fingerprints import (
    tokenizer_fingerprint,
    trained_fingerprint,
    untrained_fingerprint,
    weight_files,
)
from lpp.capture.models.gguf import converted_folder
from lpp.capture.models.hub import hub_snapshot
from lpp.capture.models.loaded import known_as, origin
from lpp.capture.models.machine import check_device, explained, require
from lpp.capture.models.same_weights import equals_its_files, state_fingerprint
from lpp.capture.models.spec import LoadedModel, Model, ModelSpec
from lpp.store.commands.escaping import library_bars
from lpp.store.commands.progress import SILENT, Progress
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.plan import ModelInfo, StoredDtype, TokenizerInfo


@dataclass(frozen=True, slots=True)
class _Files:
    id: str
    folder: Path
    source: Literal["hub", "folder", "gguf"]
    revision: str | None


def load_model(spec: ModelSpec, *, quiet: bool = True, progress: Progress = SILENT) -> Model:
    """Load a causal language model; every failure is raised as one clear error.

    quiet: keep the libraries' own warnings and bars off stderr. progress: gets a line for slow
    steps.
    """
    _check(spec)
    with _quiet(quiet), explained(spec.id, spec.device):
        files = _files(spec, weights=spec.untrained_seed is None, progress=progress)
        config = _config(files.folder, spec)
        tokenizer = _tokenizer(files.folder, spec)
        if spec.untrained_seed is None:
            model = _trained(files.folder, config, spec)
            weights = trained_fingerprint(model, files.folder, spec.id, code=spec.trust_remote_code)
        else:
            model = _untrained(config, spec)
            weights = untrained_fingerprint(model, spec.untrained_seed)
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
    with _quiet(quiet), explained(spec.id, spec.device):
        files = _files(spec, weights=True, progress=progress)
        config = _config(files.folder, spec)
        tokenizer = _tokenizer(files.folder, spec)
        dtype = _weights_dtype(files.folder, config, spec)
        with torch.device("meta"):
            model = _from_config(config, spec, dtype)
        weights = trained_fingerprint(model, files.folder, spec.id, code=spec.trust_remote_code)
    name = _dtype_name(dtype, spec.id)
    return _model(files, spec, model, tokenizer, weights=weights, dtype=name)


def adopt_model(loaded: LoadedModel, spec: ModelSpec, *, quiet: bool = True) -> Model:
    """The record of a model that the caller has loaded, described by `lpp.capture.models.loaded`.

    If loading the files that it came from gives the same model, this is the record that
    `load_model` gives for them. Otherwise it is identified by its values in memory, and has no
    files. Reads every weight once, in memory and in the files.
    """
    module, found = loaded.module, origin(loaded.module)
    files = _Files(spec.id, Path(os.devnull), "folder", None)
    with _quiet(quiet):
        if found is not None and _is_of(module, found[0], spec):
            files = _Files(spec.id, *found)
            code = spec.trust_remote_code
            weights = trained_fingerprint(module, files.folder, spec.id, code=code)
        else:
            weights = state_fingerprint(module)
    dtype = _dtype_name(module.dtype, spec.id)
    model = _model(files, spec, module, loaded.tokenizer, weights=weights, dtype=dtype)
    called = known_as(loaded.tokenizer.name_or_path)
    if called and called != known_as(module.config._name_or_path):
        model = replace(model, tokenizer_info=replace(model.tokenizer_info, id=called))
    return replace(model, module=module)


def _is_of(module: Any, folder: Path, spec: ModelSpec) -> bool:
    """Whether loading the weights in `folder` gives `module`."""
    from accelerate import init_empty_weights

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return False
    config = copy.deepcopy(module.config)
    try:
        with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
            reference = _from_config(config, spec, module.dtype)
    except (ImportError, OSError, ValueError):  # custom code that cannot be loaded again
        return False
    reference.tie_weights()  # accelerate gave each name a separate weight
    return equals_its_files(module, reference, _named_as_in_files(module), files)


def _named_as_in_files(module: Any) -> dict[str, torch.Tensor]:
    """Parameters by the names that files give them.

    A library that renames weights when it loads them gives the names under which it would save
    them. Weights that it merges keep their names, which no file has.
    """
    named = dict(module.named_parameters(remove_duplicate=False))
    conversions = getattr(module, "_weight_conversions", None)
    if not conversions:
        return named
    from transformers import core_model_loading as loading  # since 5, as the attribute

    if not all(isinstance(one, loading.WeightRenaming) for one in conversions):
        return named
    return loading.revert_weight_conversion(module, named)  # type: ignore[no-any-return]


def save_untrained(
    spec: ModelSpec, folder: Path, *, quiet: bool = True, progress: Progress = SILENT
) -> Model:
    """Write the untrained twin that `spec` names into `folder`, for an engine that reads folders.

    The weights are those that `load_model` draws. Costs the model's memory on the CPU while it
    is written.
    """
    loaded = load_model(replace(spec, device="cpu"), quiet=quiet, progress=progress)
    with _quiet(quiet), explained(spec.id, spec.device):
        loaded.module.save_pretrained(folder)
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
    files: _Files, spec: ModelSpec, module: Any, tokenizer: Any, *, weights: str, dtype: StoredDtype
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
            n_blocks=int(getattr(text, "num_hidden_layers", 0)),
            hidden_size=int(getattr(text, "hidden_size", 0)),
            logits_width=logits_width(module),
            untrained_seed=spec.untrained_seed,
            series=spec.series,
        ),
        tokenizer_info=TokenizerInfo(
            id=files.id, fingerprint=tokenizer_fingerprint(tokenizer), size=len(tokenizer)
        ),
        tokenizer=tokenizer,
        folder=files.folder,
        max_positions=max_positions(text),
        dtype=dtype,
        end_ids=_end_ids(files.folder, module),
    )


def _end_ids(folder: Path, module: Any) -> tuple[int, ...]:
    """Tokens that end a text, ascending: from generation_config.json, else from the model."""
    source: Any = getattr(module, "generation_config", None) or module.config.get_text_config()
    if (folder / "generation_config.json").is_file():
        source = _transformers().GenerationConfig.from_pretrained(folder, local_files_only=True)
    found = getattr(source, "eos_token_id", None)
    ids = found if isinstance(found, (list, tuple)) else [found]
    return tuple(sorted({int(token) for token in ids if token is not None}))


def _refuse_combinations(spec: ModelSpec) -> None:
    """Refuse settings that would be recorded and not followed."""
    if spec.untrained_seed is not None and (spec.quantization or spec.device_map):
        raise InputError(
            "random weights (--untrained-seed) are neither quantised nor spread over devices. "
            "Leave out --quantization and --device-map, or leave out --untrained-seed.",
            kind=ErrorKind.INVALID_VALUE,
        )


def load_tokenizer(
    model: str,
    revision: str | None = None,
    *,
    quiet: bool = True,
    trust_remote_code: bool = False,
) -> Any:
    """The tokenizer of a model, named as in a `ModelSpec`; fetches no weights from the hub."""
    require("transformers", "huggingface_hub")
    spec = ModelSpec(id=model, revision=revision, trust_remote_code=trust_remote_code)
    with _quiet(quiet), explained(model, spec.device):
        return _tokenizer(_files(spec, weights=False, progress=SILENT).folder, spec)


def load_text_side(spec: ModelSpec, *, quiet: bool = True) -> tuple[Any, int | None]:
    """(tokenizer, `Model.max_positions`) of a model, without its weights."""
    require("transformers", "huggingface_hub")
    with _quiet(quiet), explained(spec.id, spec.device):
        folder = _files(spec, weights=False, progress=SILENT).folder
        config = _config(folder, spec).get_text_config()
        return _tokenizer(folder, spec), max_positions(config)


def local_folder(model: str, *, quiet: bool = True) -> Path:
    """The folder with the files of a model named as in a `ModelSpec`, weights included."""
    spec = ModelSpec(id=model)
    with _quiet(quiet), explained(model, spec.device):
        return _files(spec, weights=True, progress=SILENT).folder


def _files(spec: ModelSpec, *, weights: bool, progress: Progress) -> _Files:
    path = Path(spec.id).expanduser()
    if path.suffix == ".gguf" or path.is_file():
        return _Files(path.stem, _from_gguf(path, progress), "gguf", None)
    if spec.id and path.is_dir():  # an empty id would be the current folder
        return _Files(path.resolve().name, path, "folder", None)
    folder, commit = hub_snapshot(
        spec.id, spec.revision, weights=weights, code=spec.trust_remote_code
    )
    return _Files(spec.id, folder, "hub", commit)


def _from_gguf(path: Path, progress: Progress) -> Path:
    if not path.is_file():
        raise InputError(f"no file {path}. Correct --model.", kind=ErrorKind.NOT_FOUND)
    require("gguf", "accelerate")

    def convert(file: Path, folder: Path) -> None:
        progress.note(f"turning {file.name} into a model folder, once")
        _convert(file, folder)

    return converted_folder(path, convert)


def _convert(file: Path, folder: Path) -> None:
    """Dequantise to bfloat16; the tokenizer comes along."""
    transformers = _transformers()
    where: dict[str, Any] = {"gguf_file": file.name}
    how: dict[str, Any] = {}
    if hasattr(transformers, "GgufConfig"):  # since 5: weights stay quantised unless told
        how["quantization_config"] = transformers.GgufConfig(**where, dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, **where, **how, dtype=torch.bfloat16
    )
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(file.parent, **where).save_pretrained(folder)


def _tokenizer(folder: Path, spec: ModelSpec) -> Any:
    try:
        return _transformers().AutoTokenizer.from_pretrained(
            folder, trust_remote_code=spec.trust_remote_code, local_files_only=True
        )
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise
        raise InputError(
            f"{spec.id} has no tokenizer that loads: a model folder holds tokenizer.json, or what "
            "its family has instead. Save its tokenizer there with save_pretrained.",
            kind=ErrorKind.NOT_FOUND,
        ) from error


def _config(folder: Path, spec: ModelSpec) -> Any:
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{spec.id} is not a model folder: no config.json in {folder}. Correct --model.",
            kind=ErrorKind.NOT_FOUND,
        )
    transformers = _transformers()
    config = transformers.AutoConfig.from_pretrained(
        folder, trust_remote_code=spec.trust_remote_code, local_files_only=True
    )
    remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING and not remote:
        raise InputError(
            f"{spec.id} is a {config.model_type} model, not a causal language model. "
            "`lpp-capture run --help` names the families that are known to work.",
            kind=ErrorKind.UNSUPPORTED_MODEL,
        )
    return config


def _trained(folder: Path, config: Any, spec: ModelSpec) -> Any:
    transformers = _transformers()
    settings: dict[str, Any] = {}
    if spec.quantization is not None:
        settings["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_8bit=spec.quantization == "int8",
            load_in_4bit=spec.quantization == "nf4",
            bnb_4bit_quant_type="nf4",
        )
    if spec.device_map is not None:
        settings["device_map"] = spec.device_map
    elif spec.quantization is not None or getattr(config, "quantization_config", None):
        require("accelerate")
        settings["device_map"] = {"": spec.device}  # quantised weights cannot be moved later
    weight_files(folder, spec.id)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype="auto" if spec.dtype == "auto" else getattr(torch, spec.dtype),
        attn_implementation=_attention(config, spec),
        use_safetensors=True,
        trust_remote_code=spec.trust_remote_code,
        local_files_only=True,
        **settings,
    )
    return model if "device_map" in settings else model.to(spec.device)


def _untrained(config: Any, spec: ModelSpec) -> Any:
    """The same architecture with random weights, drawn on the CPU whatever the device."""
    dtype = getattr(config, "dtype", None) or torch.float32
    if spec.dtype != "auto":
        dtype = getattr(torch, spec.dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.untrained_seed or 0)
        model = _from_config(config, spec, dtype)
    return model.to(spec.device)


def _from_config(config: Any, spec: ModelSpec, dtype: torch.dtype) -> Any:
    """The modules that `config` describes, on the default device."""
    return _transformers().AutoModelForCausalLM.from_config(
        config,
        dtype=dtype,
        attn_implementation=_attention(config, spec),
        trust_remote_code=spec.trust_remote_code,
    )


def _weights_dtype(folder: Path, config: Any, spec: ModelSpec) -> torch.dtype:
    """The dtype that `from_pretrained` would use: as requested, as configured, or the weights'."""
    if spec.dtype != "auto":
        return getattr(torch, spec.dtype)  # type: ignore[no-any-return]
    configured = getattr(config, "dtype", None)
    if isinstance(configured, torch.dtype):
        return configured
    from safetensors import safe_open

    with safe_open(weight_files(folder, spec.id)[0], framework="pt") as weights:
        # an empty slice of each: it has the dtype, and reads no weights
        dtypes = (weights.get_slice(key)[:0].dtype for key in weights.keys())  # noqa: SIM118
        return next((dtype for dtype in dtypes if dtype.is_floating_point), torch.float32)


def _attention(config: Any, spec: ModelSpec) -> str | None:
    """The attention that transformers is asked for; None: its own choice.

    PyTorch's scaled_dot_product_attention cannot cap attention logits, as Gemma 2 does.
    transformers 5.19 uses it anyway, without the cap and without a warning; 5.22 refuses.
    """
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
    if capped and spec.attention == "sdpa":
        raise ValueError("scaled_dot_product_attention cannot cap attention logits")
    if spec.attention != "auto":
        return spec.attention
    return "eager" if capped else None


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


def _transformers() -> Any:
    """The library, untyped: its annotations change with each release."""
    import transformers

    return transformers


@contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """Keep transformers' advice and bars off stderr; a download's bar still shows on a terminal."""
    if not quiet:
        yield
        return
    import huggingface_hub.utils as hub

    logging = _transformers().utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()  # the hub's bars too
    if sys.stderr.isatty():
        hub.enable_progress_bars()  # type: ignore[attr-defined]
    try:
        with library_bars(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
