"""Scores of the probes in a store: one source for all models that got the same questions.

Correlations never mix sources, so models must share a source to be compared. The name of a source
holds everything that changes the questions (items, shots, chat template), so different questions
never share a source. Adding a model replaces the whole source, other models' scores included.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from lpp.capture.evaluation.score_source import held_sets, keep_scores, rows_of
from lpp.capture.probes.items import GROUPS, ITEM_SEED
from lpp.capture.probes.model import ProbedModel, ProbeRequest
from lpp.capture.probes.scoring import ProbeResult
from lpp.store import Run, Store
from lpp.store.errors import ConflictError, ErrorKind, FormatError, InputError
from lpp.store.items import corpora_first, is_evaluation
from lpp.store.objects.place import Place

KIND: Final = "probe"

ITEMS_VERSION: Final = 1
"""Version of the items and of the prompt around them; `version` in the tasks' metadata."""


def source_name(request: ProbeRequest) -> str:
    """The source that the scores of `request` belong to; depends on no model and no backend."""
    parts = [f"lpp-probes-{ITEMS_VERSION}", f"{request.shots}-shot"]
    parts += ["chat"] if request.chat else []
    parts += [f"first-{request.limit}"] if request.limit is not None else []
    parts += [f"seed-{request.item_seed}"] if request.item_seed != ITEM_SEED else []
    return " ".join(parts)


def refuse_second(root: Place, source: str, model: str, request: ProbeRequest) -> None:
    """Raise ConflictError where `source` already has scores of `model` on one of the probes.

    Comes before the model is asked, which takes minutes.
    """
    there = {(row["model"], _group(row["benchmark"])) for row in rows_of(held_sets(root, source))}
    for probe in request.probes:
        if (model, GROUPS[probe]) in there:
            raise ConflictError(
                f"{root} has scores of {model} on {GROUPS[probe]} already (source {source!r}). "
                "Replace them with --replace, or keep both with --source NAME.",
                kind=ErrorKind.PLAN_DIFFERS,
            )


def matching_run(
    runs: Mapping[str, Run], model: ProbedModel, said: str | None
) -> tuple[str | None, str]:
    """(id of the run in `runs` that captured this model or None, why none).

    The same weights and configuration, by fingerprint. A run of an evaluation is taken where no run
    of a corpus is there. said: the run to take, of several.
    Raises InputError where `said` is no run of this model.
    """
    found = [run_id for run_id, run in runs.items() if _captured(run, model)]
    if said is not None:
        if said not in found:
            raise InputError(
                f"the store has no run {said} of {model.id}; of this model it has "
                f"{', '.join(found) or 'none'}. Correct --run, or leave it out.",
                kind=ErrorKind.NOT_FOUND,
            )
        return said, ""
    found = corpora_first(found, lambda run_id: is_evaluation(runs[run_id].plan))
    if len(found) == 1:
        return found[0], ""
    if found:
        return None, f"{len(found)} runs captured this model; --run says which: {', '.join(found)}"
    return None, f"no run of this store captured {model.id}"


def _captured(run: Run, model: ProbedModel) -> bool:
    """Whether `run` captured `model`; no, where its plan cannot be read."""
    try:
        captured = run.plan.model
    except FormatError:
        return False  # `lpp-analyze verify` reports it
    return captured.weights == model.weights and captured.untrained_seed is None


def keep(
    store: Store,
    source: str,
    results: Sequence[ProbeResult],
    model: ProbedModel,
    run: str | None,
) -> None:
    """Add the scores to `source`, in the place of this model's old ones on the same probes.

    Raises what `keep_scores` does.
    """
    probes = {GROUPS[result.probe] for result in results}
    keep_scores(
        store.path,
        source,
        _new_rows(results, model, run, source),
        {result.file: result.document for result in results},
        lambda row: row["model"] == model.id and _group(row["benchmark"]) in probes,
    )


def _new_rows(
    results: Sequence[ProbeResult], model: ProbedModel, run: str | None, source: str
) -> list[dict[str, Any]]:
    return [
        {
            "model": model.id,
            "run": run,
            "benchmark": score.task,
            "metric": score.metric,
            "value": score.value,
            "stderr": score.stderr,
            "n": score.n,
            "source": source,
            "kind": KIND,
        }
        for result in results
        for score in result.scores
    ]


def _group(task: str) -> str:
    """The probe that a task is part of: `lpp_ar_options` of `lpp_ar`."""
    return next((group for group in GROUPS.values() if task.startswith(group)), task)
