"""The wrong answers that a model was most confident of, as text."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from lpp.analyze.evaluations.evaluated import EvaluatedItems
from lpp.analyze.runs.words import Words
from lpp.store.scores.items import read_items

QUESTION_TOKENS: Final = 60
"""Number of a question's last tokens that are shown."""

MISTAKES: Final = pl.Schema(
    {
        "item": pl.Int32(),
        "item_group": pl.String(),
        "confidence": pl.Float64(),
        "question": pl.String(),
        "chosen_answer": pl.String(),
        "gold_answer": pl.String(),
        "gold_share": pl.Float64(),
    }
)
"""A row for each item that was answered wrongly. confidence: share of the chosen answer among the
answers; probability of the only one. gold_answer: null if the item has no gold answer, or if the
gold answer's prompt was set aside. Texts are exact; terminal output must escape them."""


def confident_mistakes(items: EvaluatedItems, count: int = 10) -> pl.DataFrame:
    """`MISTAKES`: the `count` wrong items with the largest confidence, the largest first.

    Tokens are text if the store has the vocabulary of the run's tokenizer, else ids. Raises
    FormatError for altered bytes.
    """
    wrong = [row for row in items.table.iter_rows(named=True) if not row["right"]]
    sure = sorted((-_shares(row["logprobs"])[row["chosen"]], row["item"], row) for row in wrong)
    words = Words(items.view.run.vocabulary())
    answers = _answers(items)
    ids = items.view.run.prompts()["token_ids"]

    def answer(row: Mapping[str, Any], prompt: int | None, length: int | None) -> str | None:
        if prompt is None or length is None:
            return None
        tokens = ids[prompt].as_py()
        beside = prompt == row["prompt_id"]  # the question's prompt; else the answer ends its own
        begin = row["answer"] + 1 if beside else len(tokens) - length
        return words.text(tokens[begin : begin + length])

    mistakes = []
    for confidence, item, row in sure[:count]:
        first = max(row["question"], row["answer"] + 1 - QUESTION_TOKENS)
        gold = row["gold"]
        mistakes.append(
            {
                "item": item,
                "item_group": row["item_group"],
                "confidence": -confidence,
                "question": words.text(ids[row["prompt_id"]].as_py()[first : row["answer"] + 1]),
                "chosen_answer": answer(row, answers[item][row["chosen"]], row["length"]) or "",
                "gold_answer": None
                if gold is None
                else answer(row, answers[item][gold], row["gold_length"]),
                "gold_share": None if gold is None else _shares(row["logprobs"])[gold],
            }
        )
    return pl.DataFrame(mistakes, schema=MISTAKES)


def _answers(items: EvaluatedItems) -> dict[int, list[int | None]]:
    """The prompts of the answers of each item."""
    rows = pl.DataFrame(pl.from_arrow(read_items(items.view.run.directory.root)))
    asked = {"source": items.settings.source, "filter": items.settings.filter}
    selected = rows.filter(task=items.task, run=items.view.run.id, **asked)
    return dict(selected.select("item", "prompt_ids").iter_rows())


def _shares(logprobs: Sequence[float]) -> list[float]:
    """Share of each answer among all; the probability of a single one."""
    if len(logprobs) == 1:
        return [math.exp(logprobs[0])]
    most = max(logprobs)
    weights = [math.exp(p - most) for p in logprobs]
    return [weight / sum(weights) for weight in weights]
