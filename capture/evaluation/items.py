"""The items of an evaluated task: what was right, what was chosen, and which prompts show it."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from lpp.capture.evaluation.sequences import Answer
from lpp.store.scores.items import ITEMS_SCHEMA, answered_correctly, field_text


def items_table(
    task: Any,
    samples: Sequence[Mapping[str, Any]],
    answers: Mapping[int, Mapping[int, Sequence[Answer]]],
    *,
    source: str,
    model: str,
    group: str | None = None,
    cluster: str | None = None,
    correct: str | None = None,
) -> tuple[pa.Table, list[str]]:
    """The items of one task, (n, 17) `ITEMS_SCHEMA`, and the metrics without a number per item.

    task: lm-eval's. samples: lm-eval's records of its items. answers: item -> index of the request
    -> its answers. group, cluster: fields of a document that name the item's group and its
    cluster. correct: metric that is 1 where an item is right, where the task says it.
    """
    rows, others = [], dict[str, None]()
    for sample in samples:
        given = [
            answer
            for _, of_request in sorted(answers[sample["doc_id"]].items())
            for answer in of_request
        ]
        values = {name: as_number(sample[name]) for name in sample["metrics"]}
        others.update(dict.fromkeys(name for name, value in values.items() if value is None))
        metrics = {
            name: value
            for name, value in values.items()
            if value is not None and math.isfinite(value)
        }
        gold, chosen = _choices(task, sample["doc"], given)
        rows.append(
            {
                "source": source,
                "model": model,
                "run": next((answer.run for answer in given if answer.run is not None), None),
                "task": str(task.config.task),
                "item": sample["doc_id"],
                "filter": sample["filter"],
                "item_group": field_text(sample["doc"], group),
                "prompt_ids": [answer.prompt_id for answer in given],
                "log_likelihoods": [answer.log_likelihood for answer in given],
                "greedy": [answer.greedy for answer in given],
                "gold": gold,
                "chosen": chosen,
                "correct": (
                    answered_correctly(metrics, gold, chosen)
                    if correct is None
                    else metrics.get(correct) == 1
                ),
                "metrics": json.dumps(metrics, sort_keys=True),
                "doc_sha256": sample["doc_hash"],
                "item_cluster": field_text(sample["doc"], cluster),
                "n_answer": [answer.n_answer for answer in given],
            }
        )
    return pa.Table.from_pylist(rows, schema=ITEMS_SCHEMA), list(others)


def as_number(value: object) -> float | None:
    """A metric of one item as a number; None where it is not one, such as a pair that is averaged
    over all items together.
    """
    return float(value) if isinstance(value, int | float | np.number | np.bool_) else None


def _choices(
    task: Any, doc: Mapping[str, Any], given: Sequence[Answer]
) -> tuple[int | None, int | None]:
    """(index of the right answer, of the most likely one) of a multiple-choice item."""
    if task.OUTPUT_TYPE != "multiple_choice" or not hasattr(task, "doc_to_choice"):
        return None, None
    choices = task.doc_to_choice(doc)
    multiple = getattr(task, "multiple_input", 0)
    gold = task.doc_to_text(doc) if multiple else task.doc_to_target(doc)
    if isinstance(gold, str):
        gold = choices.index(gold) if gold in choices else None
    if not isinstance(gold, int) or not 0 <= gold < len(choices):
        gold = None  # several may be right, or none of them
    chosen = int(np.argmax([answer.log_likelihood for answer in given[: len(choices)]]))
    return gold, chosen
