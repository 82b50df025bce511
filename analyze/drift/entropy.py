"""The paired difference of mean entropy, from the statistics that capture stored of every token."""

import math
from typing import Final

import polars as pl

from lpp.analyze.drift.pair import Pair, read_compared
from lpp.analyze.drift.predictions import Summary, summarize_tokens

_COLUMNS: Final = ("prompt_id", "position", "entropy")


def entropy_drift(pair: Pair, *, first_position: int = 0) -> Summary:
    """Entropy of the next token, B less A, in nats: over all tokens from `first_position` on that
    have one in both runs, with the paired error over prompts. FormatError for altered bytes.
    """
    a, b = (
        read_compared(view, pair, _COLUMNS, first_position).with_columns(
            pl.col("entropy").cast(pl.Float64)
        )
        for view in (pair.a, pair.b)
    )
    both = a.join(b, on=["prompt_id", "position"], how="inner", maintain_order="left")
    change = (pl.col("entropy_right") - pl.col("entropy")).fill_nan(None)
    return summarize_tokens(
        both.select("prompt_id", value=change).drop_nulls(), (-math.inf, math.inf)
    )
