"""What a backend is: something that turns batches of token ids into rows of activations.

torch and vLLM stand behind the same protocol and pass the same contract tests. A backend owns
everything about its device, the copy to the host included; the engine sees host arrays, but for
moments, which are accumulated where the rows are.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lpp.store.arrays.layout import Rows


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Prompts that run together, laid flat: no padding, whatever the backend does inside."""

    shard: int
    prompt_ids: tuple[int, ...]
    lengths: tuple[int, ...]
    """Tokens of each prompt; they sum to T."""
    token_ids: npt.NDArray[np.int32]
    """(T,)"""
    asked: npt.NDArray[np.int64]
    """(S,) flat rows whose logits are reduced to statistics, ascending."""

    @property
    def next_ids(self) -> npt.NDArray[np.int32]:
        """(S,) the token after each asked row; -1 at a prompt's last token."""
        following = np.append(self.token_ids[1:], np.int32(-1))
        following[np.cumsum(self.lengths) - 1] = -1
        return following[self.asked]


@dataclass(frozen=True, kw_only=True)
class Captured:
    """What one batch gave. The arrays hold until the second batch after it is asked for."""

    batch: Batch
    hidden: Mapping[str, Rows]
    """Site -> (T, d) in the stored dtype; uint16 holds the bits of bfloat16. Empty where the rows
    stay on their device."""
    statistics: Mapping[str, npt.NDArray[Any]]
    """Column of `lpp.store.format.tables.STATISTICS` -> (S,) values at the asked rows."""
    failed: Mapping[int, str] = field(default_factory=dict)
    """Prompts that the backend could not run even alone -> why. Their rows are zeros."""
    on_device: Mapping[str, Any] = field(default_factory=dict)
    """Site -> the same (T, d) as a torch tensor where it was computed, for a plan that keeps
    moments; empty where a backend has host arrays alone."""


class Backend(Protocol):
    """Runs a model. Batches go in, captured batches come out in the same order."""

    def capture(self, batches: Iterable[Batch]) -> Iterator[Captured]:
        """Run every batch; may run ahead of what it has yielded, by a bounded number."""
