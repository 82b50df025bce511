"""The features of items, computed: `quantities.items` declares them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import polars as pl

from lpp.analyze.evaluations.evaluated import EvaluatedItems
from lpp.analyze.metrics.tokens import TOKEN_EXPRESSIONS
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.quantities.items import FEATURES, OF_ANSWER, Feature
from lpp.analyze.runs.rows.token_files import read_tokens


def declared_features(items: EvaluatedItems) -> dict[str, Feature]:
    """`FEATURES` by name, with the roles that they have for these items."""
    gold = OF_ANSWER if items.asks_for_gold else ()
    return {f.name: replace(f, role="gold") if f.name in gold else f for f in FEATURES}


AT_ANSWER: Final = pl.col("position") == pl.col("answer")
IN_QUESTION: Final = (pl.col("position") >= pl.col("first")) & (
    pl.col("position") < pl.col("answer")
)
"""Whether a token is at the answer's position, or at a position of the question; needs the columns
of `question_spans`."""

_STATISTICS: Final = ("entropy", "margin", "varentropy", "next_logprob")


def item_features(items: EvaluatedItems, *, first_position: int = 0) -> dict[str, Floats]:
    """Every feature that needs no rows, by name: (n,) in the order of `items.table`; NaN: no
    number.

    first_position: earlier positions are excluded from the question's. Reads the token statistics
    once.
    """
    table = items.table
    length, gold = (_floats(table[name]) for name in ("length", "gold_length"))
    logprobs = [np.array(p, dtype=np.float64) for p in table["logprobs"].to_list()]
    chosen = np.array([p[k] for p, k in zip(logprobs, table["chosen"], strict=True)])
    of_gold = np.array(
        [
            np.nan if k is None else p[k]
            for p, k in zip(logprobs, table["gold"].to_list(), strict=True)
        ]
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        features = {
            "answer_length": length,
            "answer_place": _floats(table["chosen"]),
            "question_length": _floats(table["answer"] - table["question"] + 1),
            "chosen_logprob": chosen,
            "chosen_logprob_token": chosen / length,
            "chosen_share": np.array([answer_share(p) for p in logprobs]),
            "answer_gap": np.array([answer_gap(p) for p in logprobs]),
            "gold_logprob": of_gold,
            "gold_logprob_token": of_gold / gold,
        }
    return {**features, **_of_statistics(items, first_position)}


def question_spans(items: EvaluatedItems, first_position: int) -> pl.DataFrame:
    """For each prompt that shows an item: prompt_id, the answer's position `answer`, and `first`,
    which is at least `first_position`. The question's positions are those from `first` to before
    `answer`.
    """
    first = pl.max_horizontal("question", pl.lit(first_position))
    return items.table.select("prompt_id", "answer", first=first).unique("prompt_id")


def mean_of_all(value: pl.Expr) -> pl.Expr:
    """The mean; null if a value is missing."""
    return pl.when(value.is_not_null().all()).then(value.mean())


def _of_statistics(items: EvaluatedItems, first_position: int) -> Mapping[str, Floats]:
    """Features computed from the token statistics."""
    wanted = question_spans(items, first_position)
    entropy, margin = (pl.col(name).cast(pl.Float64).fill_nan(None) for name in _STATISTICS[:2])
    numbers = {
        "answer_entropy": entropy.filter(AT_ANSWER).first(),
        "answer_margin": margin.filter(AT_ANSWER).first(),
        "question_entropy": mean_of_all(entropy.filter(~AT_ANSWER)),
        "question_margin": mean_of_all(margin.filter(~AT_ANSWER)),
        "question_min_k": TOKEN_EXPRESSIONS["min_k"],
        "question_min_k_pp": TOKEN_EXPRESSIONS["min_k_pp"],
    }
    parts = [pl.DataFrame(schema={"prompt_id": pl.Int32, **dict.fromkeys(numbers, pl.Float64)})]
    for file in items.view.run.tokens_files():
        # rows are in prompt and position order, which the expressions rely on
        rows = read_tokens(file, ["prompt_id", "position", *_STATISTICS]).join(
            wanted, on="prompt_id", maintain_order="left"
        )
        tokens = rows.filter(IN_QUESTION | AT_ANSWER)
        parts.append(
            tokens.group_by("prompt_id", maintain_order=True).agg(
                value.alias(name) for name, value in numbers.items()
            )
        )
    by_item = items.table.select("prompt_id").join(
        pl.concat(parts), on="prompt_id", how="left", maintain_order="left"
    )
    return {name: _floats(by_item[name]) for name in numbers}


def _floats(column: pl.Series) -> Floats:
    values: Floats = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return values


def answer_share(logprobs: Floats) -> float:
    """`chosen_share` of an item: the largest of the softmax of its answers' ln p.

    NaN for one answer, which has nothing to compare with.
    """
    most = logprobs.max()
    if len(logprobs) < 2 or not np.isfinite(most):
        return float("nan")
    return float(1 / np.exp(logprobs - most).sum())


def answer_gap(logprobs: Floats) -> float:
    """`answer_gap` of an item, from its answers' ln p; NaN for one answer."""
    if len(logprobs) < 2:
        return float("nan")
    second, first = np.sort(logprobs)[-2:]
    return float(first - second) if np.isfinite(second) else float("nan")
