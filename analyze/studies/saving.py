"""Tokens that the model runs: by the paper's procedure for a grid of settings, and in one capture.

Both count tokens of prompts without padding.

- The published code runs the model again for each number of prompts n, each context C and each
  prefix L of its schedule, on the first min(T_i, L) tokens of each of the first n prompts, where
  T_i is the prompt's length: the sum of min(T_i, L) over n, C, L and i < n. (It runs prompts one at
  a time, so it does not pad. Its first version runs everything twice, for the entropy and for the
  states.) More layers cost no more tokens.
- A capture runs each prompt once: the sum of T_i over all prompts of the run, including those that
  no setting uses.

T_i is the length after capture has cut the prompt. That changes no term: no prefix is longer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Saving:
    """Tokens of one run, by both procedures."""

    run: str
    paper_tokens: int
    our_tokens: int

    @property
    def ratio(self) -> float:
        """Tokens of the paper's procedure divided by those of the capture."""
        return self.paper_tokens / self.our_tokens


def paper_tokens(
    lengths: npt.NDArray[np.integer],
    schedules: Iterable[Sequence[int]],
    sizes: Sequence[int],
) -> int:
    """Tokens that the published procedure runs for a grid; one schedule for each context.

    lengths: (P,) tokens of each prompt.

    >>> paper_tokens(np.array([3, 9]), [(2, 4)], [1, 2])  # (2 + 3) + (2 + 2 + 3 + 4)
    16
    """
    wide = np.asarray(lengths, dtype=np.int64)
    return sum(
        int(np.minimum(wide[:size], prefix).sum())
        for schedule in schedules
        for prefix in schedule
        for size in sizes
    )


def total(savings: Iterable[Saving]) -> Saving:
    """The sum over runs."""
    per_run = list(savings)
    return Saving(
        run="all runs",
        paper_tokens=sum(saving.paper_tokens for saving in per_run),
        our_tokens=sum(saving.our_tokens for saving in per_run),
    )
