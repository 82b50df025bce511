"""What capturing costs beside the bare forward pass over the same batches."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.pairs import Ratio, ratio_of_times, timed_pairs
from benchmarks.setting import capture, prepared, scratch
from lpp.capture.backends.torch_backend import TorchBackend
from lpp.capture.backends.torch_passes import passes
from lpp.capture.engine.prepare import Prepared
from lpp.capture.models.structure.anatomy import forward_inputs
from lpp.capture.plan.batches import shard_batches

PROMPTS = 100  # three shards: one fills while the one before is written
REPEATS = 3


def measure() -> Iterator[Ratio]:
    """The two capture bars."""
    with scratch() as folder:
        everything = prepared(PROMPTS)
        times = timed_pairs(
            capturing(everything, folder / "all"), bare(everything, logits=True), REPEATS
        )
        yield ratio_of_times(
            "capture, all sites and all logit statistics / bare forward with logits",
            times,
            bar=1.10,
            bound="compression and file writes take cores from the forward pass on a CPU",
        )
        final = prepared(PROMPTS, sites=("final",), logit_positions="schedule")
        times = timed_pairs(capturing(final, folder / "final"), bare(final, logits=False), REPEATS)
        yield ratio_of_times(
            "capture, `final`, schedule positions / bare forward without unembedding",
            times,
            bar=1.08,
        )


def capturing(prepared: Prepared, folder: Path) -> Callable[[], None]:
    """One whole capture into a new store, compressed, checksummed, flushed and committed."""
    numbers = itertools.count()

    def run() -> None:
        capture(prepared, folder / str(next(numbers)))

    return run


def bare(prepared: Prepared, *, logits: bool) -> Callable[[], None]:
    """The same batches through the model and nothing else."""
    plan = prepared.plan
    batches = [
        torch.from_numpy(one.ids)
        for shard in range(plan.n_shards)
        for batch in shard_batches(plan, prepared.prompts, shard)
        for one in passes(batch, shares=False, budget=plan.compute.batch_tokens)
    ]
    model = loaded_module(prepared)
    module = model if logits else model.base_model

    @torch.inference_mode()
    def run() -> None:
        for ids in batches:
            module(**forward_inputs(ids))

    return run


def loaded_module(prepared: Prepared) -> Any:
    """The transformers model that the torch backend runs."""
    assert isinstance(prepared.backend, TorchBackend)
    return prepared.backend.model.module
