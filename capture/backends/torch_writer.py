"""Continue prompts with a transformers model.

The loop, the key-value cache and the left padding are transformers' own (`generate`), which knows
how each family counts positions after padding. A logits processor of this module chooses each
token: it gets the logits as the model computed them, chooses, records ln p of its choice, and
leaves only the chosen token possible. So nothing in a model's generation_config.json (a penalty for
repetition, top-p) changes what is written.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lpp.capture.models.device import free_cached, kind_of
from lpp.capture.models.machine import out_of_memory
from lpp.capture.plan.backend import Beginning, Writing, Written
from lpp.capture.plan.batches import BATCH_COST, group_by_budget
from lpp.capture.plan.draws import PromptDraws
from lpp.store.errors import ErrorKind, InputError, MachineError


def write_in_torch(
    module: Any,
    device: torch.device,
    beginnings: Sequence[Beginning],
    how: Writing,
    budget: int | None = None,
) -> Iterator[Written]:
    """Continue every prompt with `module`, several at a time; similar lengths run together.

    budget: tokens at once, by default `DeviceKind.writing_tokens`. Prompts that do not fit into
    memory together run in halves. Raises MachineError(NO_MEMORY) for a prompt that does not fit
    alone, InputError for a model that cannot generate.
    """
    if not callable(getattr(module, "generate", None)):
        raise InputError(
            f"{type(module).__name__} has no generate, so --continue cannot have it write. Leave "
            "--continue out, or use --backend vllm.",
            kind=ErrorKind.UNSUPPORTED_MODEL,
        )
    lengths = [len(beginning.token_ids) + how.tokens for beginning in beginnings]
    budget = budget or kind_of(device).writing_tokens
    # a batch reads the weights once for each token that it writes
    for group in group_by_budget(lengths, budget, batch_cost=BATCH_COST * how.tokens):
        yield from _write([beginnings[index] for index in group], module, device, how)


def _write(
    group: Sequence[Beginning], module: Any, device: torch.device, how: Writing
) -> list[Written]:
    try:
        return _generate(group, module, device, how)
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not out_of_memory(error):
            raise
        if len(group) == 1:
            raise MachineError(
                f"out of memory while the model continued prompt {group[0].prompt_id}, which has "
                f"{len(group[0].token_ids)} tokens, by {how.tokens}. Repeat with a shorter "
                "--context or --continue, or with --device-map auto; what is written stays.",
                kind=ErrorKind.NO_MEMORY,
            ) from error
    free_cached(device)  # only here: the error kept the frames of the pass alive
    middle = len(group) // 2
    return [
        *_write(group[:middle], module, device, how),
        *_write(group[middle:], module, device, how),
    ]


@torch.inference_mode()
def _generate(
    group: Sequence[Beginning], module: Any, device: torch.device, how: Writing
) -> list[Written]:
    longest = max(len(beginning.token_ids) for beginning in group)
    ids = np.zeros((len(group), longest), np.int64)
    mask = np.zeros((len(group), longest), np.int64)
    # prompts are aligned on the right, so that all end together
    for row, beginning in enumerate(group):
        ids[row, longest - len(beginning.token_ids) :] = beginning.token_ids
        mask[row, longest - len(beginning.token_ids) :] = 1
    choice = _Choice(group, how)
    with _plain_generation(module, how):
        module.generate(
            torch.from_numpy(ids).to(device),
            attention_mask=torch.from_numpy(mask).to(device),
            logits_processor=[choice],
        )
    tokens, logprobs = choice.chosen()
    lengths = written_lengths(tokens, how.end_ids)
    return [
        Written(
            prompt_id=beginning.prompt_id,
            token_ids=tokens[row, : lengths[row]],
            logprobs=logprobs[row, : lengths[row]],
        )
        for row, beginning in enumerate(group)
    ]


@contextmanager
def _plain_generation(module: Any, how: Writing) -> Iterator[None]:
    """Make `generate` follow only `how`: by default it takes options from the model's
    configuration.
    """
    original = module.generation_config
    module.generation_config = type(original)(
        max_new_tokens=how.tokens,
        do_sample=False,  # only one token is possible
        use_cache=True,
        eos_token_id=list(how.end_ids) or None,
        pad_token_id=0,
    )
    try:
        yield
    finally:
        module.generation_config = original


class _Choice:
    """Chooses the next token of each prompt of a group. A logits processor of transformers."""

    def __init__(self, group: Sequence[Beginning], how: Writing) -> None:
        self._temperature = how.temperature
        self._draws = [
            PromptDraws(how.seed, beginning.prompt_id, beginning.token_ids) for beginning in group
        ]
        self._tokens: list[torch.Tensor] = []
        self._logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Leave one token possible in each row of `scores`, (prompts, V) float32 logits."""
        chosen = self._drawn(scores) if self._temperature else scores.argmax(dim=-1)
        chosen = chosen.unsqueeze(-1)
        logprobs = scores.gather(-1, chosen).squeeze(-1) - scores.logsumexp(dim=-1)
        self._tokens.append(chosen.squeeze(-1))
        self._logprobs.append(logprobs)
        return scores.fill_(-torch.inf).scatter_(-1, chosen, 0.0)

    def _drawn(self, scores: torch.Tensor) -> torch.Tensor:
        """(prompts,) the tokens at which the distribution functions exceed this step's draws."""
        step = len(self._tokens)
        draws = torch.tensor([[draw.uniform(step)] for draw in self._draws], dtype=torch.float64)
        wide = (scores if kind_of(scores.device).float64 else scores.cpu()).double()
        below = (wide / self._temperature).softmax(dim=-1).cumsum(dim=-1)
        total = below[:, -1:].contiguous()
        drawn = torch.searchsorted(below, draws.to(below.device) * total, right=True)
        # rounding must not select a token beyond the last possible one; NaN would select beyond all
        last = torch.searchsorted(below, total).clamp(max=scores.shape[-1] - 1)
        return torch.minimum(drawn, last).squeeze(-1).to(scores.device)

    def chosen(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """(prompts, steps) tokens and ln p of each, also after a prompt's end."""
        tokens = torch.stack(self._tokens, dim=-1).to(torch.int32).cpu().numpy()
        return tokens, torch.stack(self._logprobs, dim=-1).float().cpu().numpy()


def written_lengths(tokens: npt.NDArray[np.int32], end_ids: Sequence[int]) -> npt.NDArray[np.int64]:
    """(prompts,) numbers of tokens up to and including the first that ends a text.

    >>> written_lengths(np.array([[5, 2, 7, 2], [5, 6, 7, 8]], np.int32), [2])
    array([2, 4])
    """
    ends = np.isin(tokens, list(end_ids))
    lengths: npt.NDArray[np.int64] = np.where(
        ends.any(axis=1), ends.argmax(axis=1) + 1, tokens.shape[1]
    )
    return lengths
