"""What to load, and what was loaded: the two records around `models.load`, without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Source = Literal["hub", "folder", "gguf"]
Dtype = Literal["bfloat16", "float16", "float32"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Which model to load, and how."""

    id: str
    """A hub name, a folder, or the path of a .gguf file."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """auto: the dtype of the weights."""
    device: str = "cpu"
    """One of cpu, cuda, cuda:1 and so on."""
    device_map: Literal["auto"] | None = None
    """auto: spread over every device and host memory by accelerate."""
    quantization: Literal["int8", "nf4"] | None = None
    attention: Literal["auto", "sdpa", "eager"] = "auto"
    """auto: sdpa where the family has it (Gemma 2 has not), else eager."""
    trust_remote_code: bool = False
    untrained_seed: int | None = None
    """Random weights from this seed instead of the trained ones; everything else is the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """What a plan records of a model, known without its weights in memory."""

    tokenizer: Any
    id: str
    """Hub name, or the name of the folder or GGUF file without the path, which is this machine's.
    Content tells models of one name apart: see `weights`."""
    source: Source
    revision: str | None
    """Exact commit of a hub model."""
    folder: Path
    """Where its files lie."""
    weights: str
    """Fingerprint: content of the weight files, or seed, dtype and configuration if untrained."""
    tokenizer_fingerprint: str
    tokenizer_size: int
    """Entries of the tokenizer; the logits may be wider."""
    architecture: str
    n_parameters: int
    n_blocks: int
    hidden_size: int
    logits_width: int
    max_positions: int | None
    """Longest prompt with states that do not depend on its length; None when unbounded."""
    dtype: Dtype
    """Of the weights as loaded, so of the computation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel(ModelDescription):
    """A transformers model ready for forward passes."""

    model: Any
    """In evaluation mode, without gradients or a key-value cache."""
    attention: str
    """The one in use: never "auto"."""
    device: str
    """Where token ids go; with a device map, the first of several."""
