"""Which model to load, and the model that was found: records that need no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lpp.store.format.plan import ModelInfo, Series, StoredDtype, TokenizerInfo


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
    """One of `device.KINDS`, such as cuda, or one card, such as cuda:1."""
    device_map: Literal["auto"] | None = None
    """auto: spread over every device and host memory by accelerate."""
    quantization: Literal["int8", "nf4"] | None = None
    attention: Literal["auto", "sdpa", "eager"] = "auto"
    """auto: sdpa if the family supports it (Gemma 2 does not), else eager."""
    trust_remote_code: bool = False
    untrained_seed: int | None = None
    """Random weights from this seed instead of the trained ones; everything else is the same."""
    series: Series | None = None
    """The training that it is a checkpoint of, and the step; None: it is captured by itself."""
    headless: bool = False
    """Whether its files may lack the head: no logits are captured."""
    tokenizer_optional: bool = False
    """Whether it may have no tokenizer: its prompts are token ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model that the caller has loaded; capture leaves it unchanged."""

    module: Any
    """A transformers causal language model in evaluation mode."""
    tokenizer: Any
    """None: it has none, and its prompts are token ids."""
    name: str | None = None
    """What to call it; by default the name of its files, or else its class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that was found: its record for a plan, and its module if it was loaded."""

    info: ModelInfo
    """`info.id` is the hub name, or the name of the folder or GGUF file without its path, which is
    specific to this machine. `info.weights` distinguishes models with the same name."""
    tokenizer_info: TokenizerInfo
    tokenizer: Any
    """None if it has none."""
    folder: Path
    """Folder of its files."""
    max_positions: int | None
    """Longest prompt whose states do not depend on its length; None if there is no limit."""
    dtype: StoredDtype
    """Dtype of the weights as loaded, so of the computation."""
    end_ids: tuple[int, ...] = ()
    """Tokens with which the model ends a text, ascending."""
    module: Any = None
    """The transformers model, in evaluation mode, without gradients or a key-value cache. None if
    the weights were not loaded: vLLM loads them itself."""
