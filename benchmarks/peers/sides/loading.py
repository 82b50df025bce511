"""How every other side loads the model: transformers, with the dtype of its files."""

from typing import Any

import torch
import transformers
from torch import nn

from benchmarks.peers.work import Work


def load_model(work: Work) -> Any:
    """The causal language model of `work`, ready for inference without a cache."""
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(work.model, dtype="auto")
    model.eval().requires_grad_(False)
    model.config.use_cache = False
    return model


def batches_of(work: Work) -> list[torch.Tensor]:
    """(B, L) token ids of each batch."""
    return [torch.tensor(work.ids(batch)) for batch in work.batches]


def final_norm(model: Any) -> nn.Module:
    """The norm before the unembedding, in models built like Llama."""
    norm: nn.Module = model.model.norm
    return norm
