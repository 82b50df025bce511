"""A store with the items of an evaluation, made of a synthetic run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from made_runs import Made, MakeRun

from lpp.analyze.evaluations.evaluated import EvaluatedItems
from lpp.analyze.evaluations.rows import features_of, read_rows
from lpp.analyze.numerics.moments import Floats
from lpp.store import add_scores, open_store
from lpp.store.format.tables import ITEMS_SCHEMA, SCORES_SCHEMA
from lpp.store.scores.items import items_file

ANSWERS = 3


@dataclass(frozen=True)
class EvaluatedRun:
    """The written items and rows, for a slow reference."""

    made: Made
    rows: list[dict[str, Any]]
    """The items, as in `ITEMS_SCHEMA`."""
    before: list[int]
    context: list[int]
    """For each prompt: tokens before the question, and before the answer."""

    @property
    def root(self) -> Path:
        return self.made.root

    def tokens(self) -> list[list[dict[str, Any]]]:
        """Statistics of each prompt."""
        (run,) = (r for r in open_store(self.root).runs.values() if r.id == self.made.run_id)
        found: list[list[dict[str, Any]]] = [[] for _ in self.made.prompts]
        for row in run.tokens().to_table().to_pylist():
            found[row["prompt_id"]].append(row)
        return found


Right = Callable[[Made, int, int], bool]
"""(run, prompt of the chosen answer, position before the answer) -> whether it is right."""


def evaluated_run(
    make_run: MakeRun,
    *,
    items: int = 60,
    right: Right = lambda made, prompt, answer: prompt % 2 == 0,
    groups: Sequence[str | None] = (None,),
    task: str = "tiny_task",
    source: str = "lm-eval tiny",
    changes: Callable[[dict[str, Any]], dict[str, Any]] = lambda row: row,
    context_of: Mapping[int, int] = MappingProxyType({}),
    before_of: Mapping[int, int] = MappingProxyType({}),
    **options: Any,
) -> EvaluatedRun:
    """Items with `ANSWERS` answers each: prompts of the run, one for each answer, in order.

    context_of, before_of: prompt -> the number of tokens before the answer, and before the
    question, that it claims.
    """
    rng = np.random.default_rng(items)
    context: list[int] = np.repeat(rng.integers(5, 10, items), ANSWERS).tolist()
    before: list[int] = np.repeat(rng.integers(0, 3, items), ANSWERS).tolist()
    lengths = [c + int(n) for c, n in zip(context, rng.integers(1, 4, len(context)), strict=True)]
    carried = {
        "field.n_context": pa.array(
            [context_of.get(prompt, n) for prompt, n in enumerate(context)], pa.int64()
        ),
        "field.n_before_question": pa.array(
            [before_of.get(prompt, n) for prompt, n in enumerate(before)], pa.int64()
        ),
        "field.item": pa.array(np.arange(len(context)) // ANSWERS, pa.int64()),
    }
    settings = {"vary_tokens": True, "per_shard": 50, "context": 20, "sites": ("embed", "final")}
    made = make_run(lengths, carried=carried, **settings | options)
    rows = []
    for item in range(items):
        ids = [item * ANSWERS + k for k in range(ANSWERS)]
        logprobs = rng.normal(-4, 2, ANSWERS).tolist()
        chosen = int(np.argmax(logprobs))
        prompt = ids[chosen]
        correct = right(made, prompt, context[prompt] - 1)
        rows.append(
            changes(
                {
                    "source": source,
                    "model": "m",
                    "run": made.run_id,
                    "task": task,
                    "item": item,
                    "filter": "none",
                    "item_group": groups[item % len(groups)],
                    "prompt_ids": ids,
                    "log_likelihoods": logprobs,
                    "greedy": [False] * ANSWERS,
                    "gold": chosen if correct else (chosen + 1) % ANSWERS,
                    "chosen": chosen,
                    "correct": correct,
                    "metrics": '{"acc": 1.0}',
                    "doc_sha256": str(item),
                }
            )
        )
    write_items(made.root, rows)
    return EvaluatedRun(made, rows, before, context)


def write_items(root: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write items to the scores of their source."""
    score = {"benchmark": rows[0]["task"], "metric": "acc", "value": 0.5, "kind": "lm-eval"}
    score |= {"model": rows[0]["model"], "source": rows[0]["source"]}
    items = items_file(pa.Table.from_pylist(list(rows), schema=ITEMS_SCHEMA))
    table = pa.Table.from_pylist([score], schema=SCORES_SCHEMA)
    add_scores(root, score["source"], table, {"m/items.arrow": items}, replace=True)


def row_features(items: EvaluatedItems, site: str, first_position: int = 0) -> dict[str, Floats]:
    """row_norm, distance and participation_ratio of `site`."""
    answers, ratios = read_rows(items, site, first_position=first_position)
    return features_of(answers, items.clusters) | ratios


def row_at(made: Made, site: str, prompt: int, position: int) -> npt.NDArray[np.float64]:
    """A row as it was written."""
    found: npt.NDArray[np.float64] = made.hidden[site][prompt][position].astype(np.float64)
    return found
