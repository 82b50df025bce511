"""Answers to shared questions: keys and values of the question reused, beside whole passes.

Random models with the parts of gpt-oss and Gemma 3, whose blocks attend to windows of 128 and 512
tokens. Both sides capture the same batches of one loaded model into a store; releases before keys
were reused beside windows ran each answer with its question.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any, Final

import numpy as np
import torch
import transformers

from benchmarks.pairs import Ratio, ratio_of_times, timed_pairs
from benchmarks.setting import capture, request, scratch
from lpp.capture.backends.torch_backend import TorchBackend
from lpp.capture.corpus.passages import Corpus, GivenTokens, Passage
from lpp.capture.corpus.selection import Selection
from lpp.capture.engine.prepare import prepare
from lpp.capture.models.spec import LoadedModel
from lpp.capture.plan.request import InMemory

QUESTIONS: Final = 2
QUESTION: Final = 700
"""Tokens of a question."""

ANSWER: Final = 16
ANSWERS: Final = 4
REPEATS: Final = 5

_SIZES: Final = {
    **{"vocab_size": 4096, "hidden_size": 384, "intermediate_size": 1024, "head_dim": 64},
    **{"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 4096},
}
SLIDING: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "gpt-oss, windows of 128": (
        "GptOssConfig",
        {"num_hidden_layers": 4, "num_local_experts": 8, "num_experts_per_tok": 2},
    ),
    "Gemma 3, windows of 512": (
        "Gemma3TextConfig",
        {"num_hidden_layers": 6, "query_pre_attn_scalar": 64, "sliding_window": 512},
    ),
}


def measure(questions: int = QUESTIONS, repeats: int = REPEATS) -> Iterator[Ratio]:
    """The bar of evaluations of models with windows."""
    torch.set_num_threads(1)  # threads that wait for each other take processor time too
    prompts = questions * (ANSWERS + 1)
    wanted = replace(
        request(prompts, sites=("final",), context=QUESTION + ANSWER),
        selection=Selection(prompts=prompts, min_bytes=0),
    )
    for name, (config, own) in SLIDING.items():
        torch.manual_seed(0)
        module = transformers.AutoModelForCausalLM.from_config(
            getattr(transformers, config)(**_SIZES, **own), dtype=torch.float32
        ).eval()
        loaded = LoadedModel(module=module, tokenizer=None, name=name)
        backend = TorchBackend.load(wanted, loaded=loaded)
        assert backend.reuses
        given = InMemory(corpus=_corpus(questions), backend=backend)

        def capturing(folder: Path, *, reuses: bool) -> Callable[[], None]:
            numbers = iter(range(repeats + 1))

            def run() -> None:
                backend.reuses = reuses  # noqa: B023  # run within this iteration
                capture(prepare(wanted, given=given), folder / f"{reuses}-{next(numbers)}")  # noqa: B023

            return run

        with scratch() as folder:
            times = timed_pairs(
                capturing(folder, reuses=True),
                capturing(folder, reuses=False),
                repeats,
                process_time,
            )
        yield ratio_of_times(
            f"{ANSWERS} answers to {QUESTION} tokens, CPU time of a capture of `final`, {name}: "
            "keys reused / every answer run with its question",
            times,
            bar=0.4,
        )


def _corpus(questions: int) -> Corpus:
    """Questions and their answers, of random tokens."""
    draws = np.random.default_rng(0)
    passages: list[Passage] = []
    for _ in range(questions):
        question, *answers = (
            tuple(draws.integers(3, _SIZES["vocab_size"], n).tolist())
            for n in (QUESTION, *[ANSWER] * ANSWERS)
        )
        root = len(passages)
        passages.append(Passage(root, f"text {root}", given=GivenTokens(question)))
        for ids in answers:
            row = len(passages)
            branch = GivenTokens((question[-1], *ids), branch_of=root, branch_at=QUESTION - 1)
            passages.append(Passage(row, f"text {row}", given=branch))
    return Corpus(
        name="answers", revision=None, fingerprint="0" * 32, rule="drawn", passages=passages
    )
