"""A student's epoch with the stored teacher, beside the same epoch with the teacher's own pass.

The student is the first four layers of the packaged model, the teacher that model. Both sides take
the same batches, the same loss in tiles (forward KL), products in bfloat16 (autocast) and the same
steps of the optimiser; they differ in where the teacher's rows of `final` come from. The teacher
runs without gradients, in the dtype that is faster on this processor, and gives the rows before its
head: the loss multiplies by the head on both sides. The second row is beside a plain loss, which
keeps the logits of a batch for the gradient.

Multiply-adds a token: 4 layers of 3.54 million, three times, and four products of 28.3 million with
a head (the teacher's logits; the student's, and two gradients) are 155.7 million on both sides. The
teacher's 30 layers are 106.2 million more. So the bare products alone give .59.
"""

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch.nn import functional

from benchmarks.capture_cost import loaded_module
from benchmarks.pairs import Ratio, ratio_of_times, seconds, timed_pairs
from benchmarks.setting import prepared, request
from lpp.capture.engine.run import capture_into
from lpp.store import open_store
from lpp.store.feed import PromptBatch
from lpp.store.teacher import Teacher, teacher

REPEATS: Final = 5
PROMPTS: Final = 20
LENGTH: Final = 200
"""Tokens of each prompt."""

LAYERS: Final = 4
BATCH_TOKENS: Final = 2000


Loss = Callable[[PromptBatch, torch.Tensor, torch.Tensor], Any]
"""Of a batch, the student's last states and the weight of its head: a scalar tensor."""


def measure(folder: Path, *, prompts: int = PROMPTS, repeats: int = REPEATS) -> Iterator[Ratio]:
    """folder: scratch."""
    root = folder / "teacher"
    run = capture_into(root, request(prompts, sites=("final",))).run
    stored = teacher(open_store(root).runs[run])
    model = loaded_module(prepared(prompts))
    online, student = fastest(model, stored), first_layers(model)
    batches = [*stored.prompts(max_tokens=BATCH_TOKENS)]

    def from_the_store() -> None:
        def loss(batch: PromptBatch, hidden: torch.Tensor, weight: torch.Tensor) -> Any:
            return stored.loss(batch.hidden["final"], hidden, weight)

        epoch(student, stored.prompts(max_tokens=BATCH_TOKENS), loss)

    def with_the_pass() -> None:
        def loss(batch: PromptBatch, hidden: torch.Tensor, weight: torch.Tensor) -> Any:
            return stored.loss(rows_of(online, batch), hidden, weight)

        epoch(student, batches, loss)

    def with_all_logits() -> None:
        def loss(batch: PromptBatch, hidden: torch.Tensor, weight: torch.Tensor) -> Any:
            with torch.no_grad():
                theirs = online.lm_head(rows_of(online, batch)).float().log_softmax(dim=-1)
            ours = functional.linear(hidden, weight).float().log_softmax(dim=-1)
            return functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)

        epoch(student, batches, loss)

    tokens = sum(len(batch.token_ids) for batch in batches)
    bound = "both heads and their softmax: the bare products alone give .59"
    for other, what in ((with_the_pass, ""), (with_all_logits, " and a loss over all logits")):
        yield ratio_of_times(
            f"a student's epoch from the store / with the teacher's pass{what}, {LAYERS} of 30 "
            f"layers, forward KL, {tokens:,} tokens, CPU seconds",
            timed_pairs(from_the_store, other, repeats, time.process_time),
            bar=0.6,
            bound=bound,
        )


def first_layers(model: Any) -> Any:
    """A student with weights in float32."""
    student = copy.deepcopy(model).float().train()
    student.model.layers = student.model.layers[:LAYERS]
    student.config.num_hidden_layers = LAYERS
    return student.requires_grad_(True)


def fastest(model: Any, stored: Teacher) -> Any:
    """The model in its own dtype or in float32, whichever takes less time here."""
    (batch, *_) = stored.prompts(max_tokens=BATCH_TOKENS)
    choices = [model.eval(), copy.deepcopy(model).float().eval()]
    taken = [seconds(partial(rows_of, choice, batch), time.process_time) for choice in choices]
    return choices[taken.index(min(taken))]


def rows_of(model: Any, batch: PromptBatch) -> torch.Tensor:
    """Rows of `final`, (n, d)."""
    with torch.no_grad():
        rows: torch.Tensor = model.model(batch.token_ids.view(-1, LENGTH)).last_hidden_state
    return rows.flatten(0, 1)


def epoch(student: Any, batches: Iterable[PromptBatch], loss: Loss) -> None:
    """Train on all batches."""
    optimiser = torch.optim.AdamW(student.parameters(), lr=1e-4)
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = student.model(batch.token_ids.view(-1, LENGTH)).last_hidden_state
            value = loss(batch, hidden.flatten(0, 1), student.get_output_embeddings().weight)
        value.backward()
        optimiser.step()
        optimiser.zero_grad()
