"""Draws of prompts, as weights.

A draw is a row of weights over the P prompts: 1 where a prompt is in, else 0. Numbers are functions
of weights.
"""

import itertools
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from lpp.store.format.schedule import group_boundaries

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer]

Numbers = Callable[[Floats], dict[str, Floats]]
"""(m, P) weights of prompts to (m,) values by name."""

SEED: Final = 7


def drawn_weights(prompts: int, size: int, draws: int) -> Floats:
    """(draws, P) weights: `size` of P prompts in each draw, drawn without replacement."""
    rng = np.random.default_rng([SEED, size])
    first = np.arange(prompts) < size
    return rng.permuted(np.tile(first, (draws, 1)), axis=1).astype(np.float64)


def jackknife_weights(prompts: int) -> Floats:
    """(1 + G, P) weights: all prompts, then without each group that a jackknife leaves out."""
    ends = group_boundaries(prompts)
    found = np.ones((len(ends), prompts))
    for row, (a, b) in zip(found[1:], itertools.pairwise(ends), strict=True):
        row[a:b] = 0
    return found
