"""transformers with `output_hidden_states`, written with safetensors.

That output has no row of the last block before the norm, so a hook on the norm takes it.
"""

from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.outputs import save_batch
from benchmarks.peers.sides import Run
from benchmarks.peers.sides.loading import batches_of, final_norm, load_model
from benchmarks.peers.work import Work


def load(work: Work) -> Run:
    """Load the model."""
    model = load_model(work)
    batches = batches_of(work)

    @torch.inference_mode()
    def run(out: Path) -> None:
        last: list[torch.Tensor] = []

        def keep(_: Any, given: tuple[torch.Tensor, ...]) -> None:
            last.append(given[0])

        hook = final_norm(model).register_forward_pre_hook(keep)
        try:
            for number, ids in enumerate(batches):
                output = model(ids, output_hidden_states=True)
                *before, final = output.hidden_states
                save_batch(out, number, [*before, last.pop(), final], output.logits)
        finally:
            hook.remove()

    return run
