"""How to run a model in vLLM: what capture sets, what a user may set, what it refuses and why."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lpp.store.errors import InputError

FIXED: Final[Mapping[str, Any]] = {
    "enforce_eager": True,  # hooks run in Python
    "enable_prefix_caching": False,  # a cached prefix is not computed, so it cannot be captured
    "enable_chunked_prefill": False,  # a prompt runs whole
    "async_scheduling": False,  # a step's rows are taken before the next begins
    "language_model_only": True,  # of a wrapper: the text model, without its towers
    "skip_tokenizer_init": True,
    "disable_log_stats": True,
    "worker_extension_cls": "lpp.capture.backends.vllm.worker.CaptureExtension",
}
"""Arguments of the engine that no option changes."""

ALLOWED: Final = frozenset(
    {
        *("attention_backend", "block_size", "cpu_offload_gb", "disable_custom_all_reduce"),
        *("enable_expert_parallel", "gpu_memory_utilization", "kv_cache_dtype"),
        *("kv_cache_memory_bytes", "max_model_len", "max_num_seqs", "num_gpu_blocks_override"),
        "seed",
    }
)
"""Options that change neither the model nor the prompts: memory, kernels, placement."""

REFUSED: Final[Mapping[str, str]] = {
    "pipeline_parallel_size": "no rank sees all sites; use --tensor-parallel",
    "data_parallel_size": "run one process per card instead, each with --part",
    "speculative_config": "drafts are forward passes of another model",
    "quantization": "it changes the model; give a quantised model folder as --model",
    "model": "give it with --model",
    "dtype": "give it with --dtype",
    "tensor_parallel_size": "give it with --tensor-parallel",
    "trust_remote_code": "give it with --trust-remote-code",
    "max_num_batched_tokens": "give it with --batch-tokens",
    "hf_overrides": "it changes the model; edit the folder's config.json",
}
"""Options that would change what is captured, or that have a flag of their own."""

MEMORY_OPTIONS: Final = frozenset(
    {"gpu_memory_utilization", "kv_cache_memory_bytes", "num_gpu_blocks_override"}
)
"""Options with which the user sizes the key-value cache."""


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How to run a model in vLLM."""

    dtype: str
    context: int
    """Longest prompt in tokens, including its continuation."""
    batch_tokens: int
    writes: bool = False
    """Whether prompts are continued: then many of them run at once."""
    tensor_parallel: int = 1
    trust_remote_code: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of vLLM's `EngineArgs`."""


def check_options(settings: EngineSettings) -> None:
    """Refuse engine options that capture does not support, each with the reason."""
    options = settings.options
    for name in options:
        why = REFUSED.get(name) or (
            "capture sets it, since it changes what is captured" if name in FIXED else None
        )
        if why is not None:
            raise InputError(f"--engine-option {name} cannot be set: {why}.")
    longest = options.get("max_model_len", settings.context + 1)
    if not isinstance(longest, int) or longest <= settings.context:
        raise InputError(
            f"--engine-option max_model_len={longest}: prompts of --context {settings.context} "
            f"tokens need {settings.context + 1}, one for the token that comes out. Leave the "
            "option out, or choose a shorter --context."
        )
    if unknown := [name for name in options if name not in ALLOWED]:
        raise InputError(
            f"--engine-option {', '.join(unknown)} is not one that capture passes on, since it "
            f"may change what is captured. It passes {', '.join(sorted(ALLOWED))}."
        )
