"""A model inside a real vLLM, and the same weights in transformers."""

import gc
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from causal_classes import auto_class


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model inside vLLM, and the same weights in transformers."""

    backend: Any
    """`VllmBackend`, in float32."""
    reference: Any
    vocabulary: int
    family: str


def serve(folder: Path, family: str, *, tensor_parallel: int = 1) -> Iterator[Served]:
    """Serve one model. Only one engine at a time: vLLM's state belongs to the process."""
    from lpp.capture.backends.vllm.backend import VllmBackend
    from lpp.capture.corpus.selection import Selection
    from lpp.capture.models.spec import ModelSpec
    from lpp.capture.plan.request import CaptureRequest, CorpusSpec

    kind = transformers.AutoConfig.from_pretrained(folder).model_type
    reference = auto_class(kind).from_pretrained(folder, dtype=torch.float32)
    request = CaptureRequest(
        model=ModelSpec(id=str(folder), dtype="float32"),
        corpus=CorpusSpec(name="pydoc"),
        selection=Selection(),
        context=96,
        backend="vllm",
        tensor_parallel=tensor_parallel,
        check_sites=True,
    )
    gc.freeze()  # vLLM calls the collector eight times for each engine
    with closing(VllmBackend.load(request, quiet=not os.environ.get("LPP_DEBUG"))) as backend:
        yield Served(
            backend=backend,
            reference=reference.eval(),
            vocabulary=reference.config.get_text_config().vocab_size,
            family=family,
        )
