"""What a user asks for, before anything is opened: a model, a corpus, what to keep.

Imports no torch, so that a list of requests is read, checked and compared at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from lpp.capture.corpus.fields import TEXT, check_names, column_name
from lpp.capture.corpus.passages import Corpus
from lpp.capture.corpus.selection import Selection
from lpp.capture.models.spec import LoadedModel, ModelSpec
from lpp.store.format.plan import Keep, LogitPositions, MomentsDtype

if TYPE_CHECKING:
    from lpp.capture.plan.backend import Backend

SHARD_BYTES: Final[Mapping[str, int]] = {"cpu": 256 << 20, "cuda": 2 << 30}
"""Activations of a shard over all its sites, before compression, by kind of device. A batch cannot
leave its shard, so on a GPU a shard holds two batches of `BATCH_BYTES` or more: at 7B, 215 kB a
token over 30 sites, they are 50 prompts of 200 tokens, 25 of which run together."""

BATCH_TOKENS: Final[Mapping[str, int]] = {"cpu": 2048, "cuda": 16384}
"""Tokens of a batch by kind of device, where the bytes of its rows allow them."""

BATCH_BYTES: Final = 1 << 30
"""Most activations of one batch over all its sites: 5,000 tokens at 7B, 800 at 70B. A forward
pass of some hundred tokens keeps a GPU's cores busy; more would only take more memory."""


BackendName = Literal["torch", "vllm", "vllm+torch"]

KeepHead = Literal["auto", "yes", "no"]
"""auto: where rows of `final` are kept, unless the matrix is larger than the rows of the run."""


@dataclass(frozen=True, kw_only=True)
class CorpusSpec:
    """Which corpus, as the user names it. InputError for names that no field may have."""

    name: str
    revision: str | None = None
    split: str | None = None
    text_field: str | None = None
    fields: tuple[str, ...] = ()
    """Fields of its rows that come along, as columns of the prompts. No plan records them, nor
    the texts: they change no number."""
    keep_texts: bool = False
    """Whether the texts come along."""

    def __post_init__(self) -> None:
        check_names(self.fields)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the prompts that are asked for."""
        return (*map(column_name, self.fields), *([TEXT] if self.keep_texts else []))


@dataclass(frozen=True, kw_only=True)
class ContinuationSpec:
    """How the model goes on after each prompt."""

    tokens: int
    """N: the most tokens that it writes; fewer where it ends its text itself."""
    temperature: float = 0.0
    """0: the most likely token each time; else tokens are drawn from softmax(logits / T)."""
    seed: int | None = None
    """Of the draws. None: one is drawn, and kept in the store."""


@dataclass(frozen=True, kw_only=True)
class CaptureRequest:
    """What a user asks for."""

    model: ModelSpec
    corpus: CorpusSpec
    selection: Selection
    context: int = 200
    """C: texts are cut at this many tokens."""
    continuation: ContinuationSpec | None = None
    """What the model writes after each prompt, which is captured with it."""
    sites: Sequence[str] = ("all",)
    """Names or patterns such as `block.*`; `all` is every site."""
    logit_positions: LogitPositions = "all"
    backend: BackendName | Literal["auto"] = "auto"
    """auto: vLLM where it is installed and the device is a GPU, torch elsewhere."""
    tensor_parallel: int = 1
    """Cards that share the model inside vLLM."""
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of vLLM's `EngineArgs`."""
    check_sites: bool = False
    """Whether every site inside vLLM is compared with transformers before anything is captured.
    No plan records it: it changes no number."""
    batch_tokens: int | None = None
    shard_bytes: int | None = None
    """None: `SHARD_BYTES` of the device."""
    keep: Keep = "rows"
    """Activations, their moments by prefix band, or both."""
    moments_dtype: MomentsDtype = "float64"
    keep_head: KeepHead = "auto"
    """Whether the unembedding is kept. No plan records it: it changes no number."""

    @property
    def longest(self) -> int:
        """Most tokens of a prompt, those that the model writes included."""
        return self.context + (0 if self.continuation is None else self.continuation.tokens)


@dataclass(frozen=True, kw_only=True)
class InMemory:
    """What the caller has in memory, in place of what a request names."""

    model: LoadedModel | None = None
    corpus: Corpus | None = None
    key: str | None = None
    """What decided all of it, as `lpp.capture.engine.run_cache` knows a request, so that the run is
    found without it the next time; None: that is not known."""
    backend: "Backend | None" = None
    """A backend that runs the model of the request; it stays open."""


NOTHING: Final = InMemory()
"""Everything is loaded by its name."""
