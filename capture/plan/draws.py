"""Random numbers for sampling, which depend only on the seed and the prompt.

Each prompt has its own stream: a SHA-256 of the seed, the prompt's id, its token ids and the step.
So its continuation is the same in any batch, in any part and on any machine, except for rounding in
the logits.
"""

import hashlib
from typing import Final

import numpy as np
import numpy.typing as npt

_BITS: Final = 53


class PromptDraws:
    """The draws for one prompt."""

    def __init__(self, seed: int, prompt_id: int, token_ids: npt.NDArray[np.int32]) -> None:
        self._hash = hashlib.sha256(f"{seed} {prompt_id} ".encode())
        self._hash.update(token_ids.astype("<i4").tobytes())

    def uniform(self, step: int) -> float:
        """The draw for the token written at `step`, from 0: 0 <= u < 1.

        >>> draws = PromptDraws(1, 0, np.array([5, 6], np.int32))
        >>> round(draws.uniform(0), 6), round(draws.uniform(1), 6)
        (0.82216, 0.49598)
        """
        digest = self._hash.copy()
        digest.update(f" {step}".encode())
        return (int.from_bytes(digest.digest()[:8], "little") >> (64 - _BITS)) / 2.0**_BITS

    @property
    def seed(self) -> int:
        """A seed of 63 bits, for an engine with its own generator."""
        return int.from_bytes(self._hash.digest()[:8], "little") >> 1
