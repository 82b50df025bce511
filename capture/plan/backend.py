"""What a backend is: something that runs a model on batches of token ids.

torch and vLLM stand behind one protocol and pass the same contract tests. The engine gives each
batch the host memory that its rows belong into, and a backend writes them there: straight from the
device, in one copy. Moments are accumulated by the backend, where the rows are.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from lpp.store.arrays.layout import Rows
from lpp.store.arrays.moments import SiteMoments
from lpp.store.format.plan import ComputeInfo, Keep, MomentsDtype, Plan, StoredDtype
from lpp.store.shared.heads import HeadContent

if TYPE_CHECKING:
    from lpp.capture.models.sites import Sites
    from lpp.capture.models.spec import Model


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a capture wants of each batch."""

    sites: tuple[str, ...]
    """In depth order."""
    dtype: StoredDtype
    keep: Keep = "rows"
    band_ends: tuple[int, ...] = ()
    """Ends of the position bands of moments, where they are kept."""
    moments_dtype: MomentsDtype = "float64"

    @classmethod
    def of(cls, plan: Plan) -> "Outputs":
        """What `plan` wants."""
        return cls(
            sites=plan.site_names,
            dtype=plan.stored_dtype,
            keep=plan.keep,
            band_ends=plan.moment_ends if plan.keeps_moments else (),
            moments_dtype=plan.moments_dtype,
        )


@dataclass(frozen=True, slots=True)
class Before:
    """What a model reads before the tokens of a branch."""

    of: int
    """Prompt that it branches off."""
    token_ids: npt.NDArray[np.int32]
    """(n,) the first tokens of that prompt."""


_NOTHING: Final = np.zeros(0, np.int32)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Prompts that run together, laid flat: no padding, whatever the backend does inside."""

    shard: int
    prompt_ids: tuple[int, ...]
    lengths: tuple[int, ...]
    """Tokens of each prompt; they sum to T."""
    token_ids: npt.NDArray[np.int32]
    """(T,)"""
    logit_rows: npt.NDArray[np.int64]
    """(S,) flat rows whose logits are reduced to statistics, ascending."""
    hidden: Mapping[str, Rows] = field(default_factory=dict)
    """Site -> (T, d) host memory in the stored dtype (uint16 for the bits of bfloat16), which the
    backend fills. Empty for a plan that keeps moments alone."""
    ends_shard: bool = False
    """Whether no further batch of its shard follows."""
    before: Mapping[int, Before] = field(default_factory=dict)
    """Prompts that are branches -> what comes before their tokens. Its rows are not wanted."""

    def ids_before(self, prompt: int) -> npt.NDArray[np.int32]:
        """(n,) tokens that the model reads before those of `prompt`; none of most."""
        before = self.before.get(prompt)
        return _NOTHING if before is None else before.token_ids

    @property
    def inputs(self) -> list[npt.NDArray[np.int32]]:
        """All that the model reads of each prompt: what comes before its tokens, and they."""
        ends = np.cumsum(self.lengths)[:-1]
        own = zip(self.prompt_ids, np.split(self.token_ids, ends), strict=True)
        return [np.concatenate([self.ids_before(prompt), ids]) for prompt, ids in own]

    @property
    def next_ids(self) -> npt.NDArray[np.int32]:
        """(S,) the token after each of `logit_rows`; -1 at a prompt's last token."""
        following = np.append(self.token_ids[1:], np.int32(-1))
        following[np.cumsum(self.lengths) - 1] = -1
        return following[self.logit_rows]


@dataclass(frozen=True, kw_only=True)
class Captured:
    """What one batch gave, beside the rows that are in `batch.hidden` now."""

    batch: Batch
    statistics: Mapping[str, npt.NDArray[Any]]
    """Column of `lpp.store.format.tables.STATISTICS` -> (S,) values at `batch.logit_rows`."""
    failed: Mapping[int, str] = field(default_factory=dict)
    """Prompts that the backend could not run even alone -> why. Their rows are zeros."""
    not_finite: Mapping[str, npt.NDArray[np.int64]] | None = None
    """Site -> flat rows that hold NaN or infinities, ascending; sites without any are left out.
    None: not checked yet; the engine checks the rows as it encodes them."""
    moments: Mapping[str, SiteMoments] | None = None
    """With the last batch of a shard, where moments are kept: those of the shard, but for the
    prompts that are set aside. A site's are computed when it is asked for; valid until the next
    batch is asked for."""


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """A prompt that a model continues."""

    prompt_id: int
    token_ids: npt.NDArray[np.int32]
    """(n,), at least one."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a model wrote after one prompt."""

    prompt_id: int
    token_ids: npt.NDArray[np.int32]
    """(n,) up to `Writing.tokens`; none where the prompt did not fit into memory even alone."""
    logprobs: npt.NDArray[np.float32]
    """(n,) ln p of each when it was written, by the softmax of all logits at temperature 1."""


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How a model continues prompts."""

    tokens: int
    temperature: float
    """0: the most likely token."""
    seed: int
    """Of the draws; not looked at where nothing is drawn."""
    end_ids: tuple[int, ...]
    """Tokens after which nothing more is written; they are written themselves."""


class Backend(Protocol):
    """A model that is ready to run."""

    @property
    def model(self) -> "Model":
        """What a plan records of the model."""

    @property
    def sites(self) -> "Sites":
        """The sites it can capture."""

    @property
    def compute(self) -> ComputeInfo:
        """What a plan records of how the model runs; `batch_tokens` is the request's, or 0."""

    def allocate(self, size: int) -> npt.NDArray[np.uint8]:
        """(size,) host memory that rows reach fastest: page-locked for a GPU, shared with the
        workers where they are other processes. MemoryError where there is too little.
        """

    def capture(self, batches: Iterable[Batch], outputs: Outputs) -> Iterator[Captured]:
        """Run every batch, in order; may run ahead of what it has yielded, by one batch."""

    def write(self, beginnings: Sequence[Beginning], how: Writing) -> Iterator[Written]:
        """Continue every prompt; yield each once, in any order, as they are finished.

        A draw depends on the seed, the prompt and its id, and not on what runs beside it.
        """

    def head(self) -> HeadContent | str:
        """What makes logits of `final`, in host memory, to be kept in the store; where there is
        none to keep, why, in a few words. Costs a copy of the matrix.
        """

    def close(self) -> None:
        """Give the model's memory back."""
