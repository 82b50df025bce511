"""The exact teacher: next-token distributions over the whole vocabulary, from `final` and the head.

A trainer chooses what it takes of them when it trains: the k most likely tokens, samples, or all of
it in a loss. What the k most likely tokens leave out is a bias that no training removes; samples
have none (Anshumann et al. 2025, arXiv 2503.16870).

Exact means: with the rounding of the model. Logits of a bfloat16 model are rounded to bfloat16, as
its own pass rounds them. Those of the same states in float32 differ by up to 0.18 in ln p, and a
student's gradients by 1.6 % (SmolLM2); `teacher(run, logits="float32")` gives these.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from lpp.store.arrays.reader import to_float32
from lpp.store.draws import Draws, Integers
from lpp.store.errors import ErrorKind, InputError
from lpp.store.feed.make_feeds import prompts
from lpp.store.feed.output import Like, check_like, given
from lpp.store.feed.prompt_feed import PromptBatch, PromptFeed
from lpp.store.format.commit_record import checksum
from lpp.store.runs.read import Run
from lpp.store.settings.arguments import check_positive, check_whole, check_word
from lpp.store.shared.logits import PIECE, Float32

Direction: TypeAlias = Literal["forward", "reverse"]
"""forward: KL(teacher || student), which makes the student cover the teacher. reverse:
KL(student || teacher), which makes it choose."""


Logits: TypeAlias = Literal["model", "float32"]
"""model: rounded as the model rounds them. float32: not rounded."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Tokens that a teacher expects next, and how much. Arrays are of NumPy or torch."""

    token_ids: Any
    """(n, k) int64. Of top k: most likely first. Of samples: as drawn, with repetitions."""
    logprobs: Any
    """(n, k) float32, ln p of each, in the distribution over the whole vocabulary."""


class Teacher:
    """The distributions of one run. `teacher` opens it. The head stays in memory: V d values."""

    def __init__(self, run: Run, logits: Logits = "model") -> None:
        check_word("logits", logits, Logits)
        run.require_rows("final", "float32")
        head = run.head()
        if head is None:
            raise InputError(
                f"run {run.id}: the store does not have the head of {run.plan.model.id}, so that "
                "`final` gives no distribution. Repeat its `lpp-capture run` with --keep-head yes.",
                kind=ErrorKind.NOT_FOUND,
            )
        self.run, self.head = run, head.unrounded() if logits == "float32" else head
        self._on_device: dict[Any, Any] = {}
        self.lossy = run.plan.is_lossy("final")
        """Whether rows of `final` were rounded to 8 bits: the distributions are then not exact."""

    def prompts(self, **options: Any) -> PromptFeed:
        """Prompts with their rows of `final`; options are those of `lpp.store.feed.prompts`."""
        return prompts(self.run, "final", **options)

    def targets(
        self,
        final: Any,
        *,
        k: int | None = None,
        samples: int | None = None,
        temperature: float = 1.0,
        seed: int = 0,
        prompt_ids: Any = None,
        like: Like = "torch",
    ) -> Targets:
        """The tokens that follow each row of `final`, (n, d) of a batch, as stored or float32.

        k: the k most likely. samples: drawn with replacement, so that each has weight 1/samples;
        `seed` and the rows of the batch decide them. prompt_ids: (n,) the prompt of each row, of
        whole prompts; the samples of a prompt then depend on `seed` and its id alone, not on the
        batch. temperature: of the distribution.

        Raises InputError unless exactly one of k and samples is given, from 1 to V.
        """
        count = k if samples is None else samples
        if (k is None) == (samples is None) or count is None:
            raise _refusal("give k=64, the most likely tokens, or samples=32, not both")
        if samples is None:
            check_whole("k", k, least=1, most=self.head.vocabulary)
        else:
            check_whole("samples", samples, least=1)
        check_whole("seed", seed, most=2**63 - 1)
        check_like(like)
        rows = _rows(final)
        ids = np.empty((len(rows), count), np.int64)
        logprobs = np.empty(ids.shape, np.float32)
        uniform = None if samples is None else _uniform(rows, count, seed, prompt_ids)
        for tile, logp in self.logprobs(rows, temperature):
            ids[tile] = (
                _most_likely(logp, count) if uniform is None else _drawn(logp, uniform[tile])
            )
            logprobs[tile] = np.take_along_axis(logp, ids[tile], axis=1)
        return Targets(token_ids=given(ids, like), logprobs=given(logprobs, like))

    def logprobs(
        self, final: npt.NDArray[Any], temperature: float = 1.0
    ) -> Iterator[tuple[slice, Float32]]:
        """Ln p over the whole vocabulary, some rows at a time: their slice, and (m, V) float32 that
        is valid until the next is requested.
        """
        temperature = check_positive("temperature", temperature)
        for tile, logits in self.head.tiles(_rows(final)):
            step = max(1, PIECE // self.head.vocabulary)  # rows that stay in the cache
            for start in range(0, len(logits), step):
                z = logits[start : start + step]
                np.divide(z, np.float32(temperature), out=z)
                np.subtract(z, z.max(axis=1, keepdims=True), out=z)
                np.subtract(z, np.log(np.exp(z).sum(axis=1, keepdims=True)), out=z)
            yield tile, logits

    def loss(
        self,
        final: Any,
        hidden: Any,
        weight: Any,
        bias: Any = None,
        *,
        direction: Direction = "forward",
        temperature: float = 1.0,
        mask: Any = None,
    ) -> Any:
        """Mean KL divergence in nats between teacher and student, a scalar tensor with a gradient.

        final: (n, d) of the teacher. hidden: (n, d') tensor of the student before its own head;
        weight, bias: (V, d') and (V,) of that head. The logits of both are computed some rows at a
        time, and so is the gradient, on the device of `hidden`: no tensor has n V values. mask:
        (n,) weights of the rows, such as `next_token_mask`; the mean is over them.

        Raises InputError for shapes that do not fit, another word, and weights whose sum is not
        above 0: there is no mean over no row.
        """
        check_word("direction", direction, Direction)
        check_positive("temperature", temperature)
        from lpp.store.teacher.torch_loss import DeviceHead, kl_divergence

        if hidden.device not in self._on_device:
            self._on_device[hidden.device] = DeviceHead(self.head, hidden.device)
        return kl_divergence(
            self._on_device[hidden.device],
            final,
            hidden,
            weight,
            bias,
            reverse=direction == "reverse",
            temperature=temperature,
            mask=mask,
        )


def teacher(run: Run, *, logits: Logits = "model") -> Teacher:
    """The teacher that the model of `run` is, over its prompts. logits: as the model rounds them,
    or "float32", without rounding.

    Raises InputError for a run without rows of `final` or whose head the store does not have.
    """
    return Teacher(run, logits)


def next_token_mask(batch: PromptBatch, label: str = "loss_mask") -> Any:
    """(n,) the value by token of the token after each, such as its loss mask; 0 at the end of each
    prompt. A row of `final` predicts the token after it, so these weight the rows.
    """
    if label not in batch.labels:
        names = ", ".join(batch.labels) or "none"
        raise _refusal(f"label={label!r}: the values by token of these prompts are {names}")
    values = batch.labels[label]
    after = values.clone() if hasattr(values, "clone") else values.copy()
    after[-1:] = 0
    after[:-1] = values[1:] * (batch.documents[1:] == batch.documents[:-1])
    return after


def _rows(final: Any) -> Float32:
    """Rows as float32, from arrays of NumPy (uint16: bfloat16) or tensors of torch."""
    if hasattr(final, "detach"):
        final = final.detach().cpu().float().numpy()
    return to_float32(np.asarray(final))


def _most_likely(logp: Float32, k: int) -> Integers:
    """(m, k) ids of the largest values of (m, V), largest first; of equal ones the lower id."""
    ids = np.empty((len(logp), k), np.int64)
    for row, values in enumerate(logp):
        least = np.partition(values, -k)[-k]
        above = np.flatnonzero(values > least)
        equal = np.flatnonzero(values == least)[: k - len(above)]
        chosen = np.sort(np.concatenate([above, equal]))
        ids[row] = chosen[np.argsort(-values[chosen], kind="stable")]
    return ids


def _uniform(rows: Float32, samples: int, seed: int, prompt_ids: Any) -> npt.NDArray[np.float64]:
    """(n, samples) random numbers from 0 up to 1, those of a prompt from a stream of its own, or
    those of a batch.
    """
    n, shape = len(rows), (len(rows), samples)
    if prompt_ids is None:
        batch = int(checksum(np.ascontiguousarray(rows)), 16)
        return Draws(seed, batch).uniform(n * samples).reshape(shape)
    prompts = np.asarray(prompt_ids)
    if prompts.shape != (n,) or prompts.dtype.kind not in "iu" or prompts.min(initial=0) < 0:
        raise _refusal(f"prompt_ids of shape {prompts.shape}: {n} whole numbers, one for each row")
    edges = [*np.flatnonzero(np.diff(prompts, prepend=-1)).tolist(), n]
    streams = [
        Draws(seed, int(prompts[first])).uniform((end - first) * samples)
        for first, end in pairwise(edges)
    ]
    return np.concatenate([np.zeros(0), *streams]).reshape(shape)


def _drawn(logp: Float32, uniform: npt.NDArray[np.float64]) -> Integers:
    """(m, samples) ids drawn from each row of (m, V) by numbers from 0 up to 1."""
    ids = np.empty(uniform.shape, np.int64)
    for row, values in enumerate(logp):
        ends = np.cumsum(np.exp(values, dtype=np.float64))
        ids[row] = np.searchsorted(ends, uniform[row] * ends[-1], side="right")
    last = logp.shape[1] - 1  # rounding may put a number at the very end
    np.minimum(ids, last, out=ids)
    return ids


def _refusal(message: str) -> InputError:
    return InputError(f"{message}.")
