"""Scores and items of an evaluation in a store: one source for each task and way of asking it.

Correlations never mix sources, and every model of a source was asked the same: the name of a source
holds the task, its version, shots, chat template, limit and a hash of the documents. The probes
share a source, whose name has their version in the place of the hash.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lpp.capture.evaluation.items import as_number
from lpp.capture.evaluation.score_source import (
    held_sets,
    keep_scores,
    originals_of,
    rows_of,
)
from lpp.store import Run, Store
from lpp.store.errors import ConflictError, ErrorKind, FormatError
from lpp.store.format.documents import document_hash
from lpp.store.format.plan import ModelInfo
from lpp.store.scores.items import ITEMS_FILE, field_text
from lpp.store.uncertainty import score_interval, standard_error

KIND: Final = "lm-eval"

PROBE_KIND: Final = "probe"
"""Kind of tasks that share a source."""

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
    """Items that count for it."""
    interval: tuple[float, float] | None = None
    """95 % interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """What an evaluation gave for one task, or for one group of tasks."""

    task: str
    source: str
    kind: str
    model: str
    """Name that its scores are filed under."""
    info: ModelInfo
    run: str | None
    """The run of its passes; None where there is none, or several."""
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


def probe_source(
    source: str, *, version: object, shots: object, chat: bool, limit: int | None
) -> str:
    """The source of tasks that share one, in which their version stands for the documents."""
    parts = [f"{source}-{version}", f"{shots}-shot"]
    parts += ["chat"] if chat else []
    parts += [f"first-{limit}"] if limit is not None else []
    return " ".join(parts)


def scores_of(
    results: Mapping[str, Any], task: str, parts: Sequence[str], *, cluster: str | None = None
) -> tuple[EvalScore, ...]:
    """Every finite score that lm-eval gives a task or a group, in its order.

    parts: the task, or the tasks of the group, whose items count. An item counts for the metrics
    that it has. cluster: field of the documents whose equal values mark items that are not
    independent; the standard error of a mean accounts for them.
    """
    entry = results["results"].get(task, {})  # a group without scores of its own has no entry
    counted: dict[str, list[tuple[float | None, Hashable]]] = defaultdict(list)
    for part in parts:
        for sample in results["samples"][part]:
            named = field_text(sample["doc"], cluster)
            among = sample["doc_id"] if named is None else named
            for metric in sample["metrics"]:
                of_item = as_number(sample[metric]), (part, among)
                counted[f"{metric},{sample['filter']}"].append(of_item)
    scores = []
    for name, value in entry.items():
        metric, comma, rest = name.partition(",")
        if not comma or metric.endswith("_stderr") or not _is_number(value):
            continue
        stderr = entry.get(f"{metric}_stderr,{rest}")
        stderr = float(stderr) if _is_number(stderr) else None
        clusters = [of_item[1] for of_item in counted[name]]
        numbers = [of_item[0] for of_item in counted[name] if of_item[0] is not None]
        whole = len(numbers) == len(clusters) > 0
        if cluster is not None and whole and math.isclose(sum(numbers) / len(numbers), value):
            stderr = standard_error(numbers, clusters)
        scores.append(
            EvalScore(
                task=task,
                metric=name,
                value=float(value),
                stderr=stderr,
                n=len(clusters) or None,
                interval=score_interval(
                    value,
                    stderr,
                    numbers if whole else (),
                    clusters,
                    of_log=metric.endswith("perplexity"),
                ),
            )
        )
    return tuple(scores)


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
    runs = store.runs
    is_mine = _belongs(result, runs)
    held = held_sets(store.path, result.source)
    run = run_of_profile(runs, result.info, result.run)
    rows = [_row(result, score, run) for score in result.scores]
    mine = [row for row in rows_of(held) if is_mine(row)]
    if not rows or (_sorted(mine) == _sorted(rows) and _holds_items(originals_of(held), result)):
        return False
    if mine and _values(mine) != _values(rows) and not replace:
        raise ConflictError(
            f"{store.path} has other scores of {result.model} on {result.task} already (source "
            f"{result.source!r}). Replace them with --replace: the run is kept, and no pass is "
            "repeated.",
            kind=ErrorKind.PLAN_DIFFERS,
        )
    keep_scores(store.path, result.source, rows, result.files, is_mine)
    return True


def run_of_profile(runs: Mapping[str, Run], model: ModelInfo, own: str | None) -> str | None:
    """The run whose profile stands beside scores of `model`: the one that captured it on a corpus.

    Where none did, `own`, the run of the evaluation; where several did, None, since a reader of the
    scores says which, by its corpus.
    """
    held = [run for run in runs.values() if _captured(run, model)]
    corpora = [run.id for run in held if run.plan.task is None]
    if not corpora:
        return own
    return corpora[0] if len(corpora) == 1 else None


def _captured(run: Run, model: ModelInfo) -> bool:
    """Whether `run` captured `model`; no, where its plan cannot be read."""
    try:
        captured = run.plan.model
    except FormatError:
        return False  # `lpp-analyze verify` reports it
    return (captured.weights, captured.untrained_seed) == (model.weights, model.untrained_seed)


def _belongs(result: TaskResult, runs: Mapping[str, Run]) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a row is a score of the model and task of `result`.

    Earlier releases filed the probes of a folder under its name alone, which several folders may
    have: such a row is of this model where its run has the same weights.
    """

    def belongs(row: Mapping[str, Any]) -> bool:
        if row["benchmark"] != result.task:
            return False
        if row["model"] == result.model:
            return True
        run = runs.get(row["run"])
        return row["model"] == result.info.id and run is not None and _captured(run, result.info)

    return belongs


def _holds_items(held: Mapping[str, bytes], result: TaskResult) -> bool:
    items = {name: data for name, data in result.files.items() if name.endswith(ITEMS_FILE)}
    return all(held.get(name) == data for name, data in items.items())


def _values(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    return {(row["benchmark"], row["metric"]): row["value"] for row in rows}


def _row(result: TaskResult, score: EvalScore, run: str | None) -> dict[str, Any]:
    return {
        "model": result.model,
        "run": run,
        "benchmark": score.task,
        "metric": score.metric,
        "value": score.value,
        "stderr": score.stderr,
        "n": score.n,
        "source": result.source,
        "kind": result.kind,
    }


def _sorted(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["benchmark"], row["metric"]))
