"""The vLLM engine that capture drives.

The engine runs in this process: a step returns when its forward pass is done, so its rows have then
been captured, and at most one batch is in progress. (With tensor parallelism the workers are
separate processes; see `worker_memory`.) vLLM's front end would gain nothing: a prompt is a list of
ids that needs one forward pass.

Every setting that would silently change what is captured is set (`settings.FIXED`), and read back
from the engine.
"""

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import numpy as np

from lpp.capture.backends.vllm.cache_size import cache_bytes
from lpp.capture.backends.vllm.installed import check_vllm, platform, silenced, vllm_version
from lpp.capture.backends.vllm.settings import FIXED, MEMORY_OPTIONS, EngineSettings, check_options
from lpp.capture.models.machine import out_of_memory
from lpp.capture.plan.backend import Beginning, Writing, Written
from lpp.capture.plan.draws import PromptDraws
from lpp.store.errors import ErrorKind, InputError, LppError, MachineError

CPU_CACHE_BYTES: Final = 1 << 30
"""Key-value cache on a CPU if a batch's is unknown; vLLM would take nearly all memory."""

PROBE_TOKENS: Final = 14
"""Number of tokens with which a loaded model is checked."""

PROMPTS_AT_ONCE: Final = 256
"""Most prompts of one step: vLLM computes logits for the last token of each."""


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

        index_of = {}
        with self._alive():
            for index, ids in enumerate(prompts):
                self._serial += 1
                name = f"{self._serial}"
                self._engine.add_request(name, tokens_input(list(ids)), self._one_token)
                index_of[name] = index
        while index_of:
            with self._alive():
                outputs = self._engine.step()
            yield [index_of.pop(output.request_id) for output in outputs if output.finished]

    def write(self, beginnings: Sequence[Beginning], how: Writing) -> Iterator[Written]:
        """Continue prompts; yields each when it is finished. vLLM's scheduler chooses which run
        together.
        """
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        waiting: dict[str, Beginning] = {}
        with self._alive():
            for beginning in beginnings:
                draws = PromptDraws(how.seed, beginning.prompt_id, beginning.token_ids)
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
                waiting[name := f"{self._serial}"] = beginning
                self._engine.add_request(name, tokens_input(beginning.token_ids.tolist()), sampling)
        while waiting:
            with self._alive():
                outputs = self._engine.step()
            for output in outputs:
                if output.finished:
                    yield _written(waiting.pop(output.request_id), output.outputs[0])

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


def _written(beginning: Beginning, completion: Any) -> Written:
    """The continuation in vLLM's `CompletionOutput`."""
    tokens = list(completion.token_ids)
    logprobs = [
        of_step[token].logprob for token, of_step in zip(tokens, completion.logprobs, strict=True)
    ]
    return Written(
        prompt_id=beginning.prompt_id,
        token_ids=np.array(tokens, np.int32),
        logprobs=np.array(logprobs, np.float32),
    )


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
    checks = {
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
    if wrong := [name for name, holds in checks.items() if not holds]:
        raise MachineError(
            f"vLLM {vllm_version()} did not take these settings: {', '.join(wrong)}. What it "
            "would capture is something else. Capture with --backend torch.",
            kind=ErrorKind.UNSUPPORTED_MODEL,
        )


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
