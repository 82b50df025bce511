"""The tokens after which the predictions of two models differ most, in words and in context."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from lpp.analyze.drift.drift import Drift
from lpp.analyze.drift.pair import Pair

CONTEXT_TOKENS: Final = 24
"""Tokens of a prompt that are shown: more than a line holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The most likely next token of one model."""

    token: str
    probability: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstToken:
    """A token, and what came of it in both models. Words are exact: a terminal escapes them."""

    prompt_id: int
    position: int
    change: float
    """What the tokens are ordered by: KL(A || B), or |ln p(next), B - A|; nats."""
    context: str
    """The prompt up to this token."""
    came: str | None
    """The token that follows; None at a prompt's end."""
    a: Expected
    b: Expected


def order_of(drift: Drift) -> str:
    """What the worst tokens are ordered by: `kl`, or `next_logprob` without logits."""
    return "kl" if drift.no_logits is None else "next_logprob"


def worst_tokens(drift: Drift, count: int = 10) -> list[WorstToken]:
    """Of the compared tokens the `count` with the largest change above 0, the largest first.

    Tokens are words where one of the stores holds the vocabulary of its run's tokenizer, else ids.
    FormatError for altered bytes.
    """
    moved = pl.col("next_logprob_b").cast(pl.Float64) - pl.col("next_logprob_a")
    change = pl.col("kl") if order_of(drift) == "kl" else moved.abs()
    some = (
        drift.tokens.select("prompt_id", "position", change=change)
        .filter(pl.col("change") > 0)
        .sort("change", "prompt_id", "position", descending=[True, False, False])
        .head(count)
    )
    if some.is_empty():
        return []
    words = Words(_vocabulary(drift.pair))
    prompts = drift.pair.a.prompts["token_ids"]
    keys = ["prompt_id", "position"]
    stored = some.join(drift.pair.statistics, on=keys, how="left", maintain_order="left")
    found = []
    for row in stored.iter_rows(named=True):
        prompt, position = row["prompt_id"], row["position"]
        ids = prompts[prompt].to_list()
        found.append(
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
    return found


class Words:
    """Tokens in words, from a vocabulary of a store; ids without one."""

    def __init__(self, vocabulary: pa.Table | None) -> None:
        self._table = vocabulary
        self._ids = None if vocabulary is None else vocabulary["id"].to_numpy()

    def text(self, ids: Sequence[int]) -> str:
        """The text of some tokens in a row; a character of several tokens is put together."""
        parts, waiting = [], b""
        for token in ids:
            spelled, text = self._token(token)
            if spelled is not None:
                waiting += spelled
                continue
            parts += [waiting.decode("utf-8", "replace"), text]
            waiting = b""
        return "".join([*parts, waiting.decode("utf-8", "replace")])

    def _token(self, token: int) -> tuple[bytes | None, str]:
        """Bytes of a token, and its text where they are not known."""
        if self._table is None or self._ids is None:
            return None, f"<{token}>"
        row = int(np.searchsorted(self._ids, token))
        if row == len(self._ids) or self._ids[row] != token:
            return None, f"<{token}>"  # the logits may be wider than the tokenizer
        return self._table["bytes"][row].as_py(), self._table["text"][row].as_py()


def _vocabulary(pair: Pair) -> pa.Table | None:
    """Of either run: ids are the same, so the tokens are."""
    found = pair.a.run.vocabulary()
    return pair.b.run.vocabulary() if found is None else found


def _most_likely(token: int | None, logprob: float | None, words: Words) -> Expected:
    return Expected(
        token="" if token is None else words.text([token]),
        probability=None if logprob is None else float(np.exp(logprob)),
    )
