"""Scores and items of an evaluation in a store: one source for each task and way of asking it.

Correlations never mix sources, and every model of a source was asked the same: the name of a source
holds the task, its version, shots, chat template, limit and a hash of the documents.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lpp.capture.evaluation.score_source import (
    held_sets,
    keep_scores,
    originals_of,
    rows_of,
)
from lpp.store import Store
from lpp.store.errors import ConflictError, ErrorKind
from lpp.store.format.documents import document_hash
from lpp.store.format.plan import ModelInfo
from lpp.store.items import ITEMS_FILE

KIND: Final = "lm-eval"

UNVERSIONED: Final = (None, "Yaml", "N/A")
"""What lm-eval writes for the version of a task that has none."""

_HASH_DIGITS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalScore:
    """One score of a model on one task or group."""

    task: str
    metric: str
    """Metric and filter, as lm-eval writes them: `acc,none`."""
    value: float
    stderr: float | None
    n: int | None
    """Items that were scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """What an evaluation gave for one task, or for one group of tasks."""

    task: str
    source: str
    model: str
    run: str | None
    scores: tuple[EvalScore, ...]
    files: Mapping[str, bytes]
    """Files of lm-eval and the items, by name."""


def scored_name(model: ModelInfo, revision: str | None) -> str:
    """What the scores of a model are filed under.

    A hub name says which model it is; a folder's does not, so it goes with the first digits of the
    weights' fingerprint. revision: the one that was asked for.
    """
    name = model.id
    if model.source != "hub":
        name += f"@{model.weights[:_HASH_DIGITS]}"
    elif revision is not None and model.revision is not None:
        name += f"@{model.revision[:_HASH_DIGITS]}"
    if model.untrained_seed is not None:
        name += f" untrained-{model.untrained_seed}"
    return name


def source_name(
    task: str,
    *,
    version: object,
    shots: object,
    chat: bool,
    limit: int | None,
    docs: Sequence[str],
) -> str:
    """The source of the scores of a task; depends on no model and no backend.

    docs: hashes of the documents, in order.
    """
    parts = [f"eval {task}", f"{shots}-shot"]
    parts += [f"v{version}"] if version not in UNVERSIONED else []
    parts += ["chat"] if chat else []
    parts += [f"first-{limit}"] if limit is not None else []
    return " ".join([*parts, document_hash(list(docs))[:_HASH_DIGITS]])


def scores_of(results: Mapping[str, Any], task: str, parts: Sequence[str]) -> tuple[EvalScore, ...]:
    """Every finite score that lm-eval gives a task or a group, in its order.

    parts: the task, or the tasks of the group, whose items count. An item counts for the metrics
    that it has.
    """
    entry = results["results"][task]
    counts = Counter(
        f"{metric},{sample['filter']}"
        for part in parts
        for sample in results["samples"][part]
        for metric in sample["metrics"]
    )
    found = []
    for name, value in entry.items():
        metric, comma, rest = name.partition(",")
        if not comma or metric.endswith("_stderr") or not _is_number(value):
            continue
        stderr = entry.get(f"{metric}_stderr,{rest}")
        found.append(
            EvalScore(
                task=task,
                metric=name,
                value=float(value),
                stderr=float(stderr) if _is_number(stderr) else None,
                n=counts[name] or None,
            )
        )
    return tuple(found)


def not_finite(results: Mapping[str, Any], task: str) -> list[str]:
    """Metrics of a task that are no finite number, and so are left out."""
    return [
        metric
        for metric, value in results["results"][task].items()
        if "," in metric and "_stderr," not in metric and not _is_number(value)
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def keep_result(store: Store, result: TaskResult, *, replace: bool) -> bool:
    """Keep the scores and items of one task; False where the store has the same already.

    Equal scores of another run, such as one of other sites, take the place of the old ones. Raises
    ConflictError where the store has other scores of this model, unless they are to be replaced.
    """
    held = held_sets(store.path, result.source)
    rows = [_row(result, score) for score in result.scores]
    mine = [row for row in rows_of(held) if row["model"] == result.model]
    if not rows or (_sorted(mine) == _sorted(rows) and _holds_items(originals_of(held), result)):
        return False
    if mine and _values(mine) != _values(rows) and not replace:
        raise ConflictError(
            f"{store.path} has other scores of {result.model} on {result.task} already (source "
            f"{result.source!r}). Replace them with --replace: the run is kept, and no pass is "
            "repeated.",
            kind=ErrorKind.PLAN_DIFFERS,
        )
    keep_scores(
        store.path, result.source, rows, result.files, lambda row: row["model"] == result.model
    )
    return True


def _holds_items(held: Mapping[str, bytes], result: TaskResult) -> bool:
    items = {name: data for name, data in result.files.items() if name.endswith(ITEMS_FILE)}
    return all(held.get(name) == data for name, data in items.items())


def _values(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    return {(row["benchmark"], row["metric"]): row["value"] for row in rows}


def _row(result: TaskResult, score: EvalScore) -> dict[str, Any]:
    return {
        "model": result.model,
        "run": result.run,
        "benchmark": score.task,
        "metric": score.metric,
        "value": score.value,
        "stderr": score.stderr,
        "n": score.n,
        "source": result.source,
        "kind": KIND,
    }


def _sorted(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["benchmark"], row["metric"]))
