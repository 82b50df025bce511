"""The paired difference of mean entropy, from the statistics that capture stored of every token."""

import math
from typing import Final

import polars as pl

from lpp.analyze.drift.pair import Pair
from lpp.analyze.drift.predictions import Summary, summarize_tokens
from lpp.analyze.runs.keys import RunView
from lpp.analyze.runs.token_files import read_tokens

_COLUMNS: Final = ("prompt_id", "position", "entropy")


def entropy_drift(pair: Pair, *, first_position: int = 0) -> Summary:
    """Entropy of the next token, B less A, in nats: over all tokens from `first_position` on that
    have one in both runs, with the paired error over prompts. FormatError for altered bytes.
    """
    a, b = (_entropies(view, pair, first_position) for view in (pair.a, pair.b))
    both = a.join(b, on=["prompt_id", "position"], how="inner", maintain_order="left")
    change = (pl.col("entropy_right") - pl.col("entropy")).fill_nan(None)
    return summarize_tokens(
        both.select("prompt_id", value=change).drop_nulls(), (-math.inf, math.inf)
    )


def _entropies(view: RunView, pair: Pair, first_position: int) -> pl.DataFrame:
    """Prompt, position and entropy, in float64, of the tokens that are compared."""
    wanted = pl.col("prompt_id") < pair.n_prompts
    wanted &= ~pl.col("prompt_id").is_in(pair.left_out.tolist())
    wanted &= pl.col("position") >= first_position
    files = zip(view.run.shards, view.run.tokens_files(), strict=True)
    return pl.concat(
        read_tokens(file, _COLUMNS).filter(wanted)
        for shard, file in files
        if shard.first_prompt < pair.n_prompts
    ).with_columns(pl.col("entropy").cast(pl.Float64))
