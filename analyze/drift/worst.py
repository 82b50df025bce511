"""The tokens after which the predictions of two models differ most, as text in context."""

from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from lpp.analyze.drift.pair import Pair
from lpp.analyze.drift.tables import Drift
from lpp.analyze.runs.words import Words

CONTEXT_TOKENS: Final = 24
"""Tokens of a prompt that are shown: more than fit on a line."""

_TEXTS: Final = pl.Schema(
    {
        **dict.fromkeys(("at", "text_so_far", "came"), pl.String),
        **{"expected_a": pl.String, "probability_a": pl.Float64},
        **{"expected_b": pl.String, "probability_b": pl.Float64},
    }
)


def order_of(drift: Drift) -> str:
    """The number that orders the worst tokens: `kl`, or `next_logprob` without logits."""
    return "kl" if drift.no_logits is None else "next_logprob"


def worst_tokens(drift: Drift, count: int = 10) -> pl.DataFrame:
    """The `count` compared tokens with the largest change above 0, the largest first.

    Columns `prompt_id`, `position`, the number of `order_of` (`kl`, or `change` without logits;
    nats), `at`, `text_so_far` (the prompt up to this token), `came` (the next token; null at the
    end of a prompt), and the most likely next token of each model with its probability. Tokens are
    text if one of the stores holds the vocabulary of its run's tokenizer, else ids; texts are
    exact, and a page escapes them. Raises FormatError for altered bytes.
    """
    name = "kl" if order_of(drift) == "kl" else "change"
    moved = pl.col("next_logprob_b").cast(pl.Float64) - pl.col("next_logprob_a")
    change = pl.col("kl") if name == "kl" else moved.abs()
    worst = (
        drift.tokens.select("prompt_id", "position", change.alias(name))
        .filter(pl.col(name) > 0)
        .sort(name, "prompt_id", "position", descending=[True, False, False])
        .head(count)
    )
    words = Words(_vocabulary(drift.pair))
    prompts = drift.pair.a.prompts["token_ids"]
    keys = ["prompt_id", "position"]
    stored = worst.join(drift.pair.statistics, on=keys, how="left", maintain_order="left")
    texts = []
    for row in stored.iter_rows(named=True):
        prompt, position = row["prompt_id"], row["position"]
        ids = prompts[prompt].to_list()
        text: dict[str, str | float | None] = {
            "at": f"{prompt}:{position}",
            "text_so_far": words.text(ids[max(0, position + 1 - CONTEXT_TOKENS) : position + 1]),
            "came": words.text(ids[position + 1 : position + 2]) or None,
        }
        for run in "ab":
            token, logprob = row[f"top1_id_{run}"], row[f"max_logprob_{run}"]
            text[f"expected_{run}"] = "" if token is None else words.text([token])
            text[f"probability_{run}"] = None if logprob is None else float(np.exp(logprob))
        texts.append(text)
    return worst.hstack(pl.DataFrame(texts, schema=_TEXTS))


def _vocabulary(pair: Pair) -> pa.Table | None:
    """The vocabulary of either run: the token ids are equal, so the tokens are."""
    vocabulary = pair.a.run.vocabulary()
    return pair.b.run.vocabulary() if vocabulary is None else vocabulary
