"""A model inside a real vLLM, beside the same weights in transformers."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model inside vLLM, and the same weights in transformers."""

    engine: Any
    reference: Any
    found: Any
    vocabulary: int
    family: str

    def backend(self, wanted: Any) -> Any:
        """Captures `wanted` in float32."""
        from lpp.capture.backends.vllm.backend import VllmBackend

        return VllmBackend(self.engine, tuple(wanted), "float32", self.vocabulary)


def serve(folder: Path, family: str, *, tensor_parallel: int = 1) -> Iterator[Served]:
    """One engine at a time: vLLM's state is the process's."""
    from lpp.capture.backends.vllm.backend import probe_engine
    from lpp.capture.backends.vllm.engine import EngineSettings, VllmEngine

    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    vocabulary = reference.config.vocab_size
    settings = EngineSettings(
        dtype="float32", context=96, batch_tokens=2048, tensor_parallel=tensor_parallel
    )
    engine = VllmEngine(folder, family, settings, quiet=not os.environ.get("LPP_DEBUG"))
    try:
        found = probe_engine(
            engine,
            family,
            n_blocks=reference.config.num_hidden_layers,
            hidden_size=reference.config.hidden_size,
            logits_width=vocabulary,
        )
        yield Served(
            engine=engine,
            reference=reference.eval(),
            found=found,
            vocabulary=vocabulary,
            family=family,
        )
    finally:
        engine.close()
