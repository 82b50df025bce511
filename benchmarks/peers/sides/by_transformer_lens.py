"""TransformerLens: `run_with_cache` of a `TransformerBridge`, which keeps residual streams alone.

The bridge leaves weights as they are in the files and computes attention step by step, so its
numbers are those of transformers but for rounding.
"""

from pathlib import Path

import torch
import transformers
from transformer_lens.model_bridge import TransformerBridge

from benchmarks.peers.outputs import save_batch
from benchmarks.peers.sides import Run
from benchmarks.peers.sides.loading import batches_of
from benchmarks.peers.work import Work


def load(work: Work) -> Run:
    """Load the model, with the dtype of its files."""
    dtype = transformers.AutoConfig.from_pretrained(work.model).dtype
    model = TransformerBridge.boot_transformers(work.model, dtype=dtype, device="cpu")
    blocks = range(model.cfg.n_layers)
    names = ["hook_embed", *(f"blocks.{k}.hook_resid_post" for k in blocks), "ln_final.hook_out"]
    batches = batches_of(work)

    @torch.inference_mode()
    def run(out: Path) -> None:
        for number, ids in enumerate(batches):
            logits, cache = model.run_with_cache(ids, names_filter=names)
            save_batch(out, number, [cache[name] for name in names], logits)

    return run
