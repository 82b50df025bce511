"""The modules of a model: with the weights of its files, with random ones, or without weights.

Only safetensors are read; a model whose weights are pickles is refused.
"""

import copy
import importlib.metadata
from pathlib import Path
from typing import Any, Final

import torch

from lpp.capture.models.complete import LOADING, beside_packed, check_loaded, without_head
from lpp.capture.models.fingerprints import weight_files
from lpp.capture.models.machine import require
from lpp.capture.models.model_files import auto_class, transformers_library
from lpp.capture.models.spec import ModelSpec
from lpp.store.errors import ErrorKind, InputError, MachineError
from lpp.store.progress import SILENT, Progress

QUANTISED_BY: Final = {
    "awq": ("gptqmodel",),
    "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed-tensors",),
    "gptq": ("optimum", "gptqmodel"),
    "torchao": ("torchao",),
}
"""Distributions that read quantised weights, by the `quant_method` in config.json."""

_UNREAD: Final = ("hqq", "quanto")
"""Methods whose packed weights transformers 5 leaves out, and draws others at random."""


def require_quantised(model: str, quantisation: Any) -> None:
    """Raise an error with the command to install what a checkpoint's weights need.

    quantisation: `quantization_config` of its configuration, as a dictionary or an object.
    Raises InputError for a method that transformers does not read: it would take the packed numbers
    for weights.
    """
    settings = quantisation if isinstance(quantisation, dict) else vars(quantisation)
    method = settings.get("quant_method")
    method = str(getattr(method, "value", method))  # an enumeration in an object
    known = transformers_library().quantizers.AutoHfQuantizer
    if method in _UNREAD or not known.supports_quant_method(settings):
        raise InputError(
            f"the weights of {model} are quantised ({method}), which transformers does not read. "
            "Give a copy in a format that docs/troubleshooting.md lists.",
            kind=ErrorKind.UNSUPPORTED_MODEL,
        )
    there = {one.name.lower().replace("_", "-") for one in importlib.metadata.distributions()}
    missing = [name for name in QUANTISED_BY.get(method, ()) if name not in there]
    if missing:
        raise MachineError(
            f"the weights of {model} are quantised ({method}), which needs {', '.join(missing)}. "
            f"Install with: pip install {' '.join(missing)}",
            kind=ErrorKind.NO_PACKAGE,
        )


def trained_model(folder: Path, config: Any, spec: ModelSpec, progress: Progress = SILENT) -> Any:
    """The model in `folder`, on its device or spread over several.

    Raises InputError for weights that the files lack. progress: gets a line on those that the model
    does not use.
    """
    transformers = transformers_library()
    settings: dict[str, Any] = {}
    if quantisation := getattr(config, "quantization_config", None):
        require_quantised(spec.id, quantisation)
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
    model, info = auto_class(config).from_pretrained(
        folder,
        dtype="auto" if spec.dtype == "auto" else getattr(torch, spec.dtype),
        attn_implementation=_attention(config, spec),
        use_safetensors=True,
        trust_remote_code=spec.trust_remote_code,
        local_files_only=True,
        **LOADING,
        **settings,
    )
    check_loaded(spec.id, without_head(model, info) if spec.headless else info, progress)
    return model if "device_map" in settings else model.to(spec.device)


def check_weights(folder: Path, config: Any, spec: ModelSpec, progress: Progress) -> None:
    """Refuse what `trained_model` refuses, for an engine that loads `folder` itself.

    Reads names and shapes, no weight.
    """
    config = copy.deepcopy(config)
    packed = (folder / "hf_quant_config.json").is_file()  # of ModelOpt, which vLLM reads
    if getattr(config, "quantization_config", None) is not None:
        packed = True
        del config.quantization_config  # else transformers needs the package of the method
    _, info = auto_class(config).from_pretrained(
        folder,
        config=config,
        device_map="meta",
        use_safetensors=True,
        trust_remote_code=spec.trust_remote_code,
        local_files_only=True,
        **LOADING,
    )
    check_loaded(spec.id, beside_packed(info) if packed else info, progress)


def untrained_model(config: Any, spec: ModelSpec) -> Any:
    """The same architecture with random weights, drawn on the CPU whatever the device."""
    dtype = getattr(config, "dtype", None) or torch.float32
    if spec.dtype != "auto":
        dtype = getattr(torch, spec.dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.untrained_seed or 0)
        model = from_config(config, spec, dtype)
    return model.to(spec.device)


def from_config(config: Any, spec: ModelSpec, dtype: torch.dtype) -> Any:
    """The modules that `config` describes, on the default device."""
    return auto_class(config).from_config(
        config,
        dtype=dtype,
        attn_implementation=_attention(config, spec),
        trust_remote_code=spec.trust_remote_code,
    )


def weights_dtype(folder: Path, config: Any, spec: ModelSpec) -> torch.dtype:
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
