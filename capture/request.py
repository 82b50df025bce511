"""What a user asks for, before anything is opened: a model, a corpus, what to keep.

Imports no torch, so that a list of requests is read, checked and compared at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lpp.capture.model_spec import ModelSpec
from lpp.capture.selection import Selection
from lpp.store.plan import LogitPositions

SHARD_BYTES: Final = 256 << 20
"""Activations of a shard over all its sites, before compression. Two are held while capturing."""


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
    batch_tokens: int | None = None
    shard_bytes: int = SHARD_BYTES
