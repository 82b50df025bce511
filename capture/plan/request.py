"""What a user asks for, before anything is opened: a model, a corpus, what to keep.

Imports no torch, so that a list of requests is read, checked and compared at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from lpp.capture.corpus.selection import Selection
from lpp.capture.models.spec import ModelSpec
from lpp.store.format.plan import Keep, LogitPositions, MomentsDtype

SHARD_BYTES: Final = 256 << 20
"""Activations of a shard over all its sites, before compression. Two are held while capturing."""


BackendName = Literal["torch", "vllm", "vllm+torch"]


@dataclass(frozen=True, kw_only=True)
class CorpusSpec:
    """Which corpus, as the user names it."""

    name: str
    revision: str | None = None
    split: str | None = None
    text_field: str | None = None


@dataclass(frozen=True, kw_only=True)
class CaptureRequest:
    """What a user asks for."""

    model: ModelSpec
    corpus: CorpusSpec
    selection: Selection
    context: int = 200
    sites: Sequence[str] = ("all",)
    """Names or patterns such as `block.*`; `all` is every site."""
    logit_positions: LogitPositions = "all"
    backend: BackendName | Literal["auto"] = "auto"
    """auto: vLLM where it is installed and the device is a GPU, torch elsewhere."""
    tensor_parallel: int = 1
    """Cards that share the model inside vLLM."""
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of vLLM's `EngineArgs`."""
    batch_tokens: int | None = None
    shard_bytes: int = SHARD_BYTES
    keep: Keep = "rows"
    """Activations, their moments by prefix band, or both."""
    moments_dtype: MomentsDtype = "float64"
