"""The floor: the same batches through the model with logits, and nothing kept."""

from pathlib import Path

import torch

from benchmarks.peers.sides import Run
from benchmarks.peers.sides.loading import batches_of, load_model
from benchmarks.peers.work import Work


def load(work: Work) -> Run:
    """Load the model."""
    model = load_model(work)
    batches = batches_of(work)

    @torch.inference_mode()
    def run(out: Path) -> None:
        out.mkdir()
        for ids in batches:
            model(ids)

    return run
