"""nnsight: one trace for each batch, which saves what enters and leaves every block."""

from pathlib import Path

import nnsight
import torch

from benchmarks.peers.outputs import save_batch
from benchmarks.peers.sides import Run
from benchmarks.peers.sides.loading import batches_of
from benchmarks.peers.work import Work


def load(work: Work) -> Run:
    """Load the model."""
    model = nnsight.TransformersModel(
        work.model, task="text-generation", dtype="auto", device_map="cpu", dispatch=True
    )
    batches = batches_of(work)

    @torch.inference_mode()
    def run(out: Path) -> None:
        for number, ids in enumerate(batches):
            with model.trace(ids, use_cache=False):
                states = nnsight.save([])
                states.append(model.model.embed_tokens.output)
                for layer in model.model.layers:
                    states.append(layer.output)
                states.append(model.model.norm.output)
                logits = model.lm_head.output.save()
            save_batch(out, number, states, logits)

    return run
