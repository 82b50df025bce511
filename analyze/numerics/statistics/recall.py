"""Share of the items of a class that are found, where few of the others raise a false alarm."""

from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from lpp.analyze.numerics.moments import Floats
from lpp.analyze.numerics.statistics.auroc import CONFIDENCE, Codes, Flags

FALSE_ALARMS: Final = 0.01

_DRAWS: Final = 500
_AT_ONCE: Final = 100_000
"""Weights of resampled items that are computed together, in the cache."""


class Recall(NamedTuple):
    """A recall at `FALSE_ALARMS`."""

    value: float
    interval: tuple[float, float]
    """95 %: quantiles of 500 resamples of clusters, each with a threshold of its own."""


def recall_at_false_alarms(
    scores: Floats, positive: Flags, clusters: Codes, /, *, seed: int = 0
) -> Recall | None:
    """The recall at the lowest threshold that at most 1 % of the other items exceed.

    scores: (n,). positive: (n,) items to be found: an item is found if its score exceeds the
    threshold, which is a score of one of the others. clusters: (n,) from 0. None for fewer than 100
    other items, of which 1 % is no item, and without positive ones. The interval takes scores as
    given (Pepe 2003, section 5.2).

    >>> scores = np.append(np.arange(200.0), [150.0, 197.0, 197.5, 300.0])
    >>> recall_at_false_alarms(scores, np.arange(204) > 199, np.arange(204)).value
    0.5
    """
    if not positive.any() or (~positive).sum() * FALSE_ALARMS < 1:
        return None
    order = np.argsort(-scores, kind="stable")
    ordered, kind, of_cluster = scores[order], positive[order], clusters[order]
    level = np.searchsorted(-ordered, -ordered)  # the first item with the same score
    k = int(clusters.max()) + 1
    times, step = _resamples(k, seed), max(1, _AT_ONCE // len(scores))
    rates = np.concatenate(
        [
            _recalls(times[start : start + step, of_cluster], kind, level)
            for start in range(0, _DRAWS, step)
        ]
    )
    ends = np.nanquantile(rates, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    (value,) = _recalls(np.ones((1, len(scores)), np.uint8), kind, level)
    return Recall(float(value), (float(ends[0]), float(ends[1])))


@lru_cache(maxsize=2)
def _resamples(k: int, seed: int) -> npt.NDArray[np.uint8]:
    """(`_DRAWS`, k) how often each cluster is drawn: probes of all sites have the same ones.

    Drawn in twenty parts, which are 64 bits wide; of so many draws no count comes near 256.
    """
    generator, shares = np.random.default_rng(seed), np.full(k, 1 / k)
    parts = [generator.multinomial(k, shares, _DRAWS // 20).astype(np.uint8) for _ in range(20)]
    return np.vstack(parts)


def _recalls(weights: npt.NDArray[np.integer[Any]], positive: Flags, level: Codes) -> Floats:
    """(r,) recalls of items in descending order of scores, by (r, n) how often each counts; NaN
    without positive items.
    """
    others = np.cumsum(weights * ~positive, axis=1, dtype=np.int32)
    # the first of the others that is one too many has the threshold's score
    at = level[(others > FALSE_ALARMS * others[:, -1:]).argmax(axis=1)]
    found = np.cumsum(weights * positive, axis=1, dtype=np.int32)
    above = np.where(at > 0, found[np.arange(len(at)), at - 1], 0)
    total = np.where(found[:, -1] > 0, found[:, -1], np.nan)
    return np.asarray(above / total, np.float64)
