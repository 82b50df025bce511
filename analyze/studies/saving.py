"""Tokens run by the paper's procedure for a grid of settings, and by one capture.

Counted are the tokens of the prompts that pass through the model, padding left out on both sides.

- The published code runs the model anew for each number of prompts n, each context C and each
  prefix L of its schedule, over the first min(T_i, L) tokens of each of the first n prompts, T_i
  tokens long: sum over n, C, L and i < n of min(T_i, L). (It feeds prompts one at a time, so it
  pads nothing. Its first version runs everything twice: once for the entropy, once for the
  states.) Layers cost it no tokens.
- A capture runs each prompt once, up to its cut: sum of T_i over all prompts of the run, those
  that no setting uses included.

T_i is the length after the capture's cut, which changes no term, since no prefix is longer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Saving:
    """Tokens of one run, both ways."""

    run: str
    paper_tokens: int
    our_tokens: int

    @property
    def ratio(self) -> float:
        """How many times the tokens of the capture the paper's procedure runs."""
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
    """All runs together."""
    some = list(savings)
    return Saving(
        run="all runs",
        paper_tokens=sum(saving.paper_tokens for saving in some),
        our_tokens=sum(saving.our_tokens for saving in some),
    )
