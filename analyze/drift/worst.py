"""The tokens after which the predictions of two models differ most, as text in context."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from lpp.analyze.drift.drift import Drift
from lpp.analyze.drift.pair import Pair
from lpp.analyze.runs.words import Words

CONTEXT_TOKENS: Final = 24
"""Tokens of a prompt that are shown: more than fit on a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The most likely next token of one model."""

    token: str
    probability: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstToken:
    """A token, and what both models predict after it. Texts are exact: a terminal escapes them."""

    prompt_id: int
    position: int
    change: float
    """The number that orders the tokens: KL(A || B), or |ln p(next), B - A|; nats."""
    context: str
    """The prompt up to this token."""
    came: str | None
    """The token that follows; None at the end of a prompt."""
    a: Expected
    b: Expected


def order_of(drift: Drift) -> str:
    """The number that orders the worst tokens: `kl`, or `next_logprob` without logits."""
    return "kl" if drift.no_logits is None else "next_logprob"


def worst_tokens(drift: Drift, count: int = 10) -> list[WorstToken]:
    """The `count` compared tokens with the largest change above 0, the largest first.

    Tokens are text if one of the stores holds the vocabulary of its run's tokenizer, else ids.
    Raises FormatError for altered bytes.
    """
    moved = pl.col("next_logprob_b").cast(pl.Float64) - pl.col("next_logprob_a")
    change = pl.col("kl") if order_of(drift) == "kl" else moved.abs()
    worst = (
        drift.tokens.select("prompt_id", "position", change=change)
        .filter(pl.col("change") > 0)
        .sort("change", "prompt_id", "position", descending=[True, False, False])
        .head(count)
    )
    if worst.is_empty():
        return []
    words = Words(_vocabulary(drift.pair))
    prompts = drift.pair.a.prompts["token_ids"]
    keys = ["prompt_id", "position"]
    stored = worst.join(drift.pair.statistics, on=keys, how="left", maintain_order="left")
    tokens = []
    for row in stored.iter_rows(named=True):
        prompt, position = row["prompt_id"], row["position"]
        ids = prompts[prompt].to_list()
        tokens.append(
            WorstToken(
                prompt_id=prompt,
                position=position,
                change=row["change"],
                context=words.text(ids[max(0, position + 1 - CONTEXT_TOKENS) : position + 1]),
                came=words.text(ids[position + 1 : position + 2]) or None,
                a=_most_likely(row["top1_id_a"], row["max_logprob_a"], words),
                b=_most_likely(row["top1_id_b"], row["max_logprob_b"], words),
            )
        )
    return tokens


def _vocabulary(pair: Pair) -> pa.Table | None:
    """The vocabulary of either run: the token ids are equal, so the tokens are."""
    vocabulary = pair.a.run.vocabulary()
    return pair.b.run.vocabulary() if vocabulary is None else vocabulary


def _most_likely(token: int | None, logprob: float | None, words: Words) -> Expected:
    return Expected(
        token="" if token is None else words.text([token]),
        probability=None if logprob is None else float(np.exp(logprob)),
    )
