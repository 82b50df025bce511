"""The paired difference of mean entropy, from the statistics that capture stored of every token."""

import math

import polars as pl

from lpp.analyze.drift.pair import Pair
from lpp.analyze.drift.predictions import Summary, summarize_tokens


def entropy_drift(pair: Pair, *, first_position: int = 0) -> Summary:
    """Entropy of the next token, B - A, in nats: over all tokens from `first_position` on that
    have one in both runs, with the paired error over prompts. FormatError for altered bytes.
    """
    a, b = (pl.col(name).cast(pl.Float64) for name in ("entropy_a", "entropy_b"))
    changes = (
        pair.statistics.filter(pl.col("position") >= first_position)
        .select("prompt_id", value=(b - a).fill_nan(None))
        .drop_nulls()
    )
    return summarize_tokens(changes, (-math.inf, math.inf), pair.groups)
