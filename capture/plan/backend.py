"""The protocol of a backend, which runs a model on batches of token ids.

The torch and vLLM backends implement it and pass the same contract tests. The engine allocates
host memory for the rows of each batch, and the backend copies them there from the device, once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from lpp.store.arrays.layout import Rows
from lpp.store.format.plan import ComputeInfo, Plan, StoredDtype
from lpp.store.shared.logits import HeadContent

if TYPE_CHECKING:
    from lpp.capture.models.spec import Model
    from lpp.capture.models.structure.sites import Sites


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a capture keeps of each batch."""

    sites: tuple[str, ...]
    """In depth order."""
    dtype: StoredDtype
    integers: frozenset[str] = frozenset()
    """Sites that hold integers: the choices of routers."""

    @classmethod
    def of(cls, plan: Plan) -> "Outputs":
        """The outputs that `plan` keeps."""
        integers = frozenset(site.name for site in plan.sites if plan.holds_integers(site))
        return cls(sites=plan.site_names, dtype=plan.stored_dtype, integers=integers)


@dataclass(frozen=True, slots=True)
class Before:
    """The tokens that a model reads before those of a branch."""

    of: int
    """Prompt that it branches off."""
    token_ids: npt.NDArray[np.int32]
    """(n,) the first tokens of that prompt."""


_NOTHING: Final = np.zeros(0, np.int32)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Prompts that run together, concatenated without padding. A backend may pad internally."""

    shard: int
    prompt_ids: tuple[int, ...]
    lengths: tuple[int, ...]
    """Tokens of each prompt; they sum to T."""
    token_ids: npt.NDArray[np.int32]
    """(T,)"""
    logit_rows: npt.NDArray[np.int64]
    """(S,) flat rows whose logits are reduced to statistics, ascending."""
    hidden: Mapping[str, Rows] = field(default_factory=dict)
    """Site -> (T, d) host memory in the dtype of its rows (uint16 for the bits of bfloat16), which
    the backend fills."""
    ends_shard: bool = False
    """Whether it is the last batch of its shard."""
    before: Mapping[int, Before] = field(default_factory=dict)
    """Prompts that are branches -> the tokens before theirs, whose rows are not stored."""

    def ids_before(self, prompt: int) -> npt.NDArray[np.int32]:
        """(n,) tokens that the model reads before those of `prompt`; empty if it is no branch."""
        before = self.before.get(prompt)
        return _NOTHING if before is None else before.token_ids

    @property
    def inputs(self) -> list[npt.NDArray[np.int32]]:
        """All token ids that the model reads for each prompt: those before it, then its own."""
        ends = np.cumsum(self.lengths)[:-1]
        pairs = zip(self.prompt_ids, np.split(self.token_ids, ends), strict=True)
        return [np.concatenate([self.ids_before(prompt), ids]) for prompt, ids in pairs]

    @property
    def next_ids(self) -> npt.NDArray[np.int32]:
        """(S,) the token after each of `logit_rows`; -1 at a prompt's last token."""
        following = np.append(self.token_ids[1:], np.int32(-1))
        following[np.cumsum(self.lengths) - 1] = -1
        return following[self.logit_rows]


@dataclass(frozen=True, kw_only=True)
class Captured:
    """The results of one batch. Its rows are in `batch.hidden`."""

    batch: Batch
    statistics: Mapping[str, npt.NDArray[Any]]
    """Column of `lpp.store.format.tables.STATISTICS` -> (S,) values at `batch.logit_rows`."""
    failed: Mapping[int, str] = field(default_factory=dict)
    """Prompts that the backend could not run even alone -> the reason. Their rows are zeros."""
    not_finite: Mapping[str, npt.NDArray[np.int64]] | None = None
    """Site -> flat rows that hold NaN or infinities, ascending; sites without any are left out.
    None: not checked yet; the engine checks the rows as it encodes them."""


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
    """(n,), n <= `Writing.tokens`; n = 0 if the prompt did not fit into memory even alone."""
    logprobs: npt.NDArray[np.float32]
    """(n,) ln p of each token when it was written: softmax over all logits, temperature 1."""


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How a model continues prompts."""

    tokens: int
    temperature: float
    """0: the most likely token."""
    seed: int
    """Seed of the draws; ignored at temperature 0."""
    end_ids: tuple[int, ...]
    """Tokens that end the text. The first one is kept, and nothing is written after it."""


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

    @property
    def reuses(self) -> bool:
        """Whether a branch is computed from the keys and values of its prompt's pass, instead of
        with all tokens before it. Its rows are then equal except for rounding.
        """

    def allocate(self, size: int) -> npt.NDArray[np.uint8]:
        """(size,) host memory for rows: page-locked for a GPU, shared memory if the workers are
        other processes. Raises MemoryError.
        """

    def capture(self, batches: Iterable[Batch], outputs: Outputs) -> Iterator[Captured]:
        """Run the batches in order; may compute one batch more than it has yielded."""

    def write(self, beginnings: Sequence[Beginning], how: Writing) -> Iterator[Written]:
        """Continue every prompt; yield each once, in any order, when it is finished.

        A draw depends on the seed, the prompt and its id, not on the rest of the batch.
        """

    def head(self) -> HeadContent | str:
        """The unembedding, in host memory, which computes logits from `final`; or, in a few words,
        why it cannot be stored. Costs a copy of the matrix.
        """

    def close(self) -> None:
        """Free the model's memory."""
