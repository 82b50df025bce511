"""What capturing inside vLLM costs beside vLLM alone; needs vLLM (`make bench-vllm`).

vLLM's state is its process's, so each side lives in a process of its own with its engine loaded,
and runs when it is told to; the others sleep meanwhile. Every side runs the same prompts, eagerly
and without a prefix cache; what is timed begins with the prompts' ids and ends with the results
in memory, or, for the capture, in the store.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

from benchmarks.pairs import Ratio, ratio_of_times
from benchmarks.setting import capture, request, scratch
from benchmarks.sides import Side
from lpp.capture.plan.request import ContinuationSpec

PROMPTS: Final = 60
REPEATS: Final = 3
TOKENS: Final = 32
"""That are written after each prompt, where any are."""
EXECUTION: Final = "eager, without CUDA graphs"
"""How vLLM runs the model on every side: capture needs it so, and vLLM alone is given the same."""


def measure(prompts: int = PROMPTS) -> Iterator[Ratio]:
    """The bars of capture inside vLLM."""
    with scratch() as folder, ExitStack() as stack:
        sides = {
            name: stack.enter_context(closing(Side(make, folder / name, prompts)))
            for name, make in {
                "capture": capturing_all,
                "last": capturing_ends,
                "generate": generating,
                "logprobs": generating_logprobs,
                "continue": continuing,
                "write": generating_many,
            }.items()
        }
        for side in sides.values():
            side.seconds()  # one run of each that does not count
        times = {name: [] for name in sides}  # type: dict[str, list[float]]
        for _ in range(REPEATS):
            for name, side in sides.items():
                times[name].append(side.seconds())
    unembedding = [1 - b / a for a, b in zip(times["capture"], times["last"], strict=True)]
    share = sorted(unembedding)[len(unembedding) // 2]
    yield ratio_of_times(
        "capture inside vLLM, `final`, statistics of every position / `LLM.generate(max_tokens=1)`"
        f", both {EXECUTION}",
        (times["capture"], times["generate"]),
        bar=1.15,
        bound=f"{share:.0%} of it is the unembedding of every prompt token and its reduction",
    )
    yield ratio_of_times(
        "the same, statistics at the prompts' ends alone / `LLM.generate(max_tokens=1)`",
        (times["last"], times["generate"]),
        bar=1.15,
    )
    yield ratio_of_times(
        "`LLM.generate(prompt_logprobs=1)` / capture inside vLLM, statistics of every position",
        (times["capture"], times["logprobs"]),
        bar=1.0,
        direction="at least",
        inverted=True,
    )
    yield ratio_of_times(
        f"continuation of {TOKENS} tokens and capture inside vLLM, `final`, statistics of every "
        f"position / `LLM.generate(max_tokens={TOKENS})`, both {EXECUTION}",
        (times["continue"], times["write"]),
        bar=1.3,
        bound="the captured pass computes every token once more",
    )


def capturing_all(folder: Path, prompts: int) -> Callable[[], object]:
    """Every logit statistic, `final`, into a store."""
    return _capturing(folder, prompts, schedule=False)


def capturing_ends(folder: Path, prompts: int) -> Callable[[], object]:
    """The same without the unembedding of every token: one prefix, so one position a prompt."""
    return _capturing(folder, prompts, schedule=True)


def _capturing(folder: Path, prompts: int, *, schedule: bool) -> Callable[[], object]:
    from dataclasses import replace

    from lpp.capture.engine.prepare import prepare

    ready = prepare(
        request(
            prompts,
            backend="vllm",
            sites=("final",),
            logit_positions="schedule" if schedule else "all",
        )
    )
    if schedule:
        ready = replace(ready, plan=replace(ready.plan, prefixes=(ready.plan.context,)))
    folder.mkdir(parents=True)
    runs = iter(range(1_000_000))
    return lambda: capture(ready, folder / str(next(runs)))


def continuing(folder: Path, prompts: int) -> Callable[[], object]:
    """Write after every prompt, then capture both, into a new store each time."""
    from benchmarks import continuation_cost
    from lpp.capture.engine.prepare import prepare

    wanted = request(
        prompts,
        backend="vllm",
        sites=("final",),
        continuation=ContinuationSpec(tokens=TOKENS),
    )
    return continuation_cost.continuing(wanted, prepare(wanted, root=folder / "first"), folder)


def generating_many(folder: Path, prompts: int) -> Callable[[], object]:
    """The front end of vLLM: as many tokens for each prompt as `continuing` has it write."""
    return _generating(prompts, tokens=TOKENS)


def generating(folder: Path, prompts: int) -> Callable[[], object]:
    """The front end of vLLM: one token for each prompt."""
    return _generating(prompts)


def generating_logprobs(folder: Path, prompts: int) -> Callable[[], object]:
    """The same with the log-probability of every prompt token and of the likeliest."""
    return _generating(prompts, prompt_logprobs=1)


def _generating(prompts: int, *, tokens: int = 1, **asked: Any) -> Callable[[], object]:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # as ours; vLLM's default binds its cores
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    from vllm import LLM, SamplingParams

    from lpp.capture.corpus.prompts import tokenise
    from lpp.capture.engine.prepare import choose_passages
    from lpp.capture.models.load import describe_model, load_tokenizer

    wanted = request(prompts)
    described = describe_model(wanted.model)
    _, passages = choose_passages(wanted.corpus, wanted.selection)
    ids = tokenise(passages, load_tokenizer(wanted.model.id), wanted.context)["token_ids"]
    llm = LLM(
        str(described.folder),
        dtype=described.dtype,
        enforce_eager=True,
        enable_prefix_caching=False,
        max_model_len=wanted.context + tokens,
        max_num_batched_tokens=2048,
        kv_cache_memory_bytes=1 << 30,
    )
    texts = [{"prompt_token_ids": one} for one in ids.to_pylist()]
    params = SamplingParams(temperature=0.0, max_tokens=tokens, detokenize=False, **asked)
    return lambda: llm.generate(texts, params, use_tqdm=False)
