"""A request for a capture: a model, a corpus, what to keep. Nothing is opened yet.

Imports no torch, so that a file of many requests is checked without delay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from lpp.capture.corpus.fields import TEXT, check_names, column_name
from lpp.capture.corpus.passages import Corpus
from lpp.capture.corpus.selection import Selection
from lpp.capture.models.spec import LoadedModel, ModelSpec
from lpp.capture.plan.settings import KeepHead
from lpp.store.format.plan import LogitPositions, SiteDtype

if TYPE_CHECKING:
    from lpp.capture.plan.backend import Backend

BATCH_BYTES: Final = 1 << 30
"""Most bytes of one batch's activations over all sites: 5,000 tokens at 7B, 800 at 70B. A forward
pass of a few hundred tokens keeps a GPU busy; a larger batch would only take more memory."""

ROUTER: Final = "router"
"""Names and patterns of sites that begin with this are those of routers: `routers` is all."""

BackendName = Literal["torch", "vllm", "vllm+torch"]


@dataclass(frozen=True, kw_only=True)
class CorpusSpec:
    """A corpus, as the user names it. Raises InputError for field names that are not allowed."""

    name: str
    revision: str | None = None
    split: str | None = None
    text_field: str | None = None
    fields: tuple[str, ...] = ()
    """Fields of its rows that are stored as columns of the prompts. A plan records neither them
    nor the texts: they change no number."""
    keep_texts: bool = False
    """Whether the texts are stored."""
    chat_template: str | None = None
    """File with the template of conversations; None: the model's own."""
    token_fields: tuple[str, ...] = ()
    """Fields with a value for each token that are stored as columns of the prompts."""

    def __post_init__(self) -> None:
        check_names(self.fields)
        check_names(self.token_fields, "--token-fields")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the prompts will have for these options."""
        return (*map(column_name, self.fields), *([TEXT] if self.keep_texts else []))


@dataclass(frozen=True, kw_only=True)
class ContinuationSpec:
    """How the model continues each prompt."""

    tokens: int
    """Most tokens that it writes; it may end its text earlier."""
    temperature: float = 0.0
    """0: the most likely token each time; else tokens are drawn from softmax(logits / T)."""
    seed: int | None = None
    """Seed of the draws. None: a random seed, which the store keeps."""


@dataclass(frozen=True, kw_only=True)
class CaptureRequest:
    """Everything that a user chooses for one capture."""

    model: ModelSpec
    corpus: CorpusSpec
    selection: Selection
    name: str | None = None
    """What to call the run. A plan does not record it: it changes no number."""
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
    """Whether every site inside vLLM is compared with transformers before capture. A plan does not
    record it: it changes no number."""
    batch_tokens: int | None = None
    shard_bytes: int | None = None
    """None: `DeviceKind.shard_bytes`."""
    stored_dtype: Mapping[str, SiteDtype | None] = field(default_factory=dict)
    """How rows of sites lie on disk, by name or pattern: the last that matches counts. None, and
    sites without one: as computed."""
    keep_head: KeepHead = "auto"
    """Whether the unembedding is kept. A plan does not record it: it changes no number."""

    @property
    def longest(self) -> int:
        """Most tokens of a prompt, including those that the model writes."""
        return self.context + (0 if self.continuation is None else self.continuation.tokens)


@dataclass(frozen=True, kw_only=True)
class InMemory:
    """Objects in memory, used instead of those that the request names."""

    model: LoadedModel | None = None
    corpus: Corpus | None = None
    key: str | None = None
    """Identifies these objects, as `lpp.capture.engine.run_cache` identifies a request, so that a
    repeated call finds its run; None if nothing identifies them."""
    backend: "Backend | None" = None
    """A backend that runs the model of the request; the capture leaves it open."""


NOTHING: Final = InMemory()
"""Nothing is in memory: everything is loaded by name."""
