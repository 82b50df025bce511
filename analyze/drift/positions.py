"""Drift of the predictions by position in the prompt: does it grow with the context?

Positions are grouped in bands of doubling width: [0, 1), [1, 2), [2, 4), [4, 8) and so on. So the
first tokens of a prompt, which can be attention sinks, have bands of their own.
"""

from itertools import pairwise
from typing import Final

import polars as pl

from lpp.analyze.drift.predictions import prediction_drift
from lpp.analyze.numerics.jackknife import error_names
from lpp.analyze.runs.groups import GROUPS, Groups

BANDS: Final = pl.Schema(
    {
        "first": pl.Int32,
        "end": pl.Int32,
        "n_tokens": pl.Int64,
        **{column: pl.Float64 for name in ("kl", "flips") for column in (name, *error_names(name))},
    }
)
"""One row for each band that holds a token. n_tokens: tokens compared; kl: mean in nats, null
without logits; flips: share of tokens; each with its error and 95 % interval over prompts."""


def by_position(frame: pl.DataFrame, groups: Groups = GROUPS) -> pl.DataFrame:
    """KL and flips of the tokens of each band of positions: columns `BANDS`, by `first`.

    frame: of `token_drift`. groups: of the jackknife. A band is [first, end). The first band begins
    at the first position that has a token, the last one ends behind the last.
    """
    positions = frame["position"]
    found = []
    if len(frame):
        edges = band_edges(int(positions.min()), int(positions.max()) + 1)  # type: ignore[arg-type]
        for first, end in pairwise(edges):
            band = frame.filter((positions >= first) & (positions < end))
            if len(band):
                found.append(
                    {"first": first, "end": end, "n_tokens": len(band), **_means(band, groups)}
                )
    return pl.DataFrame(found, schema=BANDS)


def band_edges(first: int, end: int) -> list[int]:
    """Where the bands of the positions from `first` to below `end` begin, and `end`.

    >>> band_edges(0, 10), band_edges(3, 10)
    ([0, 1, 2, 4, 8, 10], [3, 4, 8, 10])
    """
    inner = (1 << k for k in range(end.bit_length()))
    return [first, *(edge for edge in inner if first < edge < end), end]


def _means(band: pl.DataFrame, groups: Groups) -> dict[str, float | None]:
    """Mean, error and interval of both numbers."""
    found = prediction_drift(band, only=("kl", "flips"), groups=groups)
    return {
        column: value
        for name, one in found.items()
        for column, value in zip(
            (name, *error_names(name)),
            (one.mean, one.stderr, one.ci_low, one.ci_high),
            strict=True,
        )
    }
