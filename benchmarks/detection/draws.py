"""Draws of prompts, and a number again on each of them, with its jackknife error.

A draw is a row of weights over the P prompts: 1 where a prompt is in, else 0. Numbers are functions
of weights, so one function gives a value on a draw and without each of ten groups of the draw's
prompts, the groups that the package's errors leave out.
"""

import itertools
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from lpp.analyze.numerics.jackknife import jackknife
from lpp.store.format.schedule import group_boundaries

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer]

Numbers = Callable[[Floats], dict[str, Floats]]
"""(m, P) weights of prompts to (m,) values by name."""

SEED: Final = 7


def drawn(prompts: int, size: int, draws: int) -> Integers:
    """(draws, size) ascending places of prompts, drawn without replacement from `prompts`."""
    rng = np.random.default_rng([SEED, size])
    return np.sort(rng.permuted(np.tile(np.arange(prompts), (draws, 1)), axis=1)[:, :size], axis=1)


def groups(chosen: Integers) -> list[Integers]:
    """The groups of (size,) chosen prompts that a jackknife leaves out in turn."""
    ends = group_boundaries(len(chosen))
    return [chosen[a:b] for a, b in itertools.pairwise(ends)]


def weights(chosen: Integers, prompts: int) -> Floats:
    """(1 + G, P) weights of (size,) chosen prompts: all, then without each group."""
    parts = groups(chosen)
    found = np.zeros((1 + len(parts), prompts))
    found[:, chosen] = 1
    for row, part in zip(found[1:], parts, strict=True):
        row[part] = 0
    return found


def all_weights(chosen: Integers, prompts: int) -> Floats:
    """(draws (1 + G), P) weights of (draws, size) chosen prompts, draw after draw."""
    return np.concatenate([weights(one, prompts) for one in chosen])


def on_draws(numbers: Numbers, chosen: Integers, prompts: int) -> dict[str, Floats]:
    """(draws, 3) value and the ends of its interval on each of (draws, size) chosen prompts."""
    values = numbers(all_weights(chosen, prompts))
    return {name: intervals(one.reshape(len(chosen), -1)) for name, one in values.items()}


def intervals(values: Floats) -> Floats:
    """(draws, 3) from (draws, 1 + G) values: of all prompts, then without each group."""
    return np.array([interval(one[0], one[1:]) for one in values])


def interval(value: float, without: Floats) -> tuple[float, float, float]:
    """A value and its 95 % interval, not clipped, from the value without each group, (G,)."""
    found = jackknife(float(value), without.tolist())
    missing = float("nan")
    return (
        float(value),
        missing if found.ci_low is None else found.ci_low,
        missing if found.ci_high is None else found.ci_high,
    )
