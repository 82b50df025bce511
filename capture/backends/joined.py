"""Logits from one backend, hidden states from another: two passes, one run.

For a model whose blocks vLLM runs in a way that cannot be read, or whose hidden states are wanted
with transformers' own arithmetic while the logits come at serving speed. Costs both passes, and
both models in memory.
"""

from collections.abc import Iterable, Iterator
from itertools import tee

import numpy as np

from lpp.capture.plan.backend import Backend, Batch, Captured
from lpp.store.errors import ErrorKind, MachineError


class JoinedBackend:
    """Runs every batch in both. Implements `lpp.capture.plan.backend.Backend`.

    logits: gives the statistics; its hidden states are left. hidden: the other way round.
    """

    def __init__(self, *, logits: Backend, hidden: Backend) -> None:
        self._logits, self._hidden = logits, hidden

    def capture(self, batches: Iterable[Batch]) -> Iterator[Captured]:
        """Yield each batch once both have run it. Raises MachineError where their rows differ."""
        one, other = tee(batches)  # holds what the faster is ahead by: a batch or two
        both = zip(self._hidden.capture(one), self._logits.capture(other), strict=True)
        for states, statistics in both:
            check_same_rows(states.batch, statistics.batch)
            yield Captured(
                batch=states.batch,
                hidden=states.hidden,
                statistics=statistics.statistics,
                failed={**states.failed, **statistics.failed},
                on_device=states.on_device,
            )


def check_same_rows(ours: Batch, theirs: Batch) -> None:
    """Refuse to join batches that are not the same tokens of the same prompts."""
    if (
        ours.prompt_ids != theirs.prompt_ids
        or ours.lengths != theirs.lengths
        or not np.array_equal(ours.token_ids, theirs.token_ids)
        or not np.array_equal(ours.asked, theirs.asked)
    ):
        raise MachineError(
            f"the two backends returned different rows in shard {ours.shard}: prompts "
            f"{ours.prompt_ids[:3]} and {theirs.prompt_ids[:3]} first. Nothing of this shard was "
            "kept. Capture with one backend: --backend torch.",
            kind=ErrorKind.ENGINE_DIED,
        )
