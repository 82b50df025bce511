"""A student's epoch with the stored teacher, beside the same epoch with the teacher's own pass.

The student is the first four layers of the packaged model, the teacher that model. Both sides take
the same batches, the same loss in tiles (forward KL), products in bfloat16 (autocast) and the same
steps of the optimiser; they differ in where the teacher's rows of `final` come from. The teacher
runs without gradients, in the dtype that is faster on this processor, and gives the rows before its
head: the loss multiplies by the head on both sides.
"""

import copy
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

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


def measure(
    folder: Path,
    *,
    prompts: int = PROMPTS,
    repeats: int = REPEATS,
    clock: Callable[[], float] = time.process_time,
) -> Iterator[Ratio]:
    """folder: scratch."""
    wanted = request(prompts, sites=("final",))
    root = folder / "teacher"
    run = capture_into(root, wanted).run
    stored = teacher(open_store(root).runs[run])
    model = loaded_module(prepared(prompts))
    online, student = fastest(model, stored), first_layers(model)
    batches = [*stored.prompts(max_tokens=BATCH_TOKENS)]
    tokens = sum(len(batch.token_ids) for batch in batches)

    def from_the_store() -> None:
        epoch(
            student,
            stored,
            ((b, b.hidden["final"]) for b in stored.prompts(max_tokens=BATCH_TOKENS)),
        )

    def with_the_pass() -> None:
        epoch(student, stored, ((batch, rows_of(online, batch)) for batch in batches))

    yield ratio_of_times(
        f"a student's epoch from the store / with the teacher's pass, {LAYERS} of 30 layers, "
        f"forward KL, {tokens:,} tokens, {'CPU seconds' if clock is time.process_time else 'time'}",
        timed_pairs(from_the_store, with_the_pass, repeats, clock),
        bar=0.6,
        bound="the products with both heads, which both sides compute",
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


def epoch(
    student: Any, stored: Teacher, batches: Iterator[tuple[PromptBatch, torch.Tensor]]
) -> float:
    """Train on all batches; return the last loss, in nats."""
    optimiser = torch.optim.AdamW(student.parameters(), lr=1e-4)
    value = 0.0
    for batch, final in batches:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = student.model(batch.token_ids.view(-1, LENGTH)).last_hidden_state
            weight = student.get_output_embeddings().weight
            loss = stored.loss(final, hidden.flatten(0, 1), weight)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        value = loss.item()
    return value
