"""Scores of the probes in a store: one source for all models that were asked in the same way.

Correlations never mix sources, so models must share one to be compared; and what changes the
questions (items, shots, chat template) is in its name, so that no two ways of asking share one.
A model is added by replacing the source whole, with the other models' scores and files in it.
"""

import random
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any, Final

import pyarrow as pa

from lpp.capture.probes.items import ITEM_SEED
from lpp.capture.probes.probe import GROUPS, ProbeResult
from lpp.capture.probes.subject import ProbeRequest, Subject
from lpp.store import Run, Store
from lpp.store.errors import ConflictError, ErrorKind, FormatError, InputError
from lpp.store.objects.place import Place
from lpp.store.scores import KEY, SCORES_SCHEMA, ScoreSet, add_scores, score_sets

KIND: Final = "probe"

ITEMS_VERSION: Final = 1
"""Version of the items and of the prompt around them; `version` in the tasks' metadata."""

ATTEMPTS: Final = 8
"""Writers that may meet, one after another, before one gives up."""


def source_name(request: ProbeRequest) -> str:
    """The source that the scores of `request` belong to, whatever the model and the backend."""
    parts = [f"lpp-probes-{ITEMS_VERSION}", f"{request.shots}-shot"]
    parts += ["chat"] if request.chat else []
    parts += [f"first-{request.limit}"] if request.limit is not None else []
    parts += [f"seed-{request.item_seed}"] if request.item_seed != ITEM_SEED else []
    return " ".join(parts)


def refuse_second(root: Place, source: str, model: str, request: ProbeRequest) -> None:
    """ConflictError where `source` has scores of `model` on one of the probes already.

    Asked before the model is, which takes longer.
    """
    there = {(row["model"], _group(row["benchmark"])) for row in _rows(_held(root, source))}
    for probe in request.probes:
        if (model, GROUPS[probe]) in there:
            raise ConflictError(
                f"{root} has scores of {model} on {GROUPS[probe]} already (source {source!r}). "
                "Put new ones in their place with --replace, or keep both with --source NAME.",
                kind=ErrorKind.PLAN_DIFFERS,
            )


def matching_run(store: Store, subject: Subject, said: str | None) -> tuple[str | None, str]:
    """(run of the store that captured this model or None, why none).

    The same weights and configuration, by fingerprint. said: the run to take, of several.
    Raises InputError where `said` is no run of this model.
    """
    runs = [run_id for run_id, run in store.runs.items() if _captured(run, subject)]
    if said is not None:
        if said not in runs:
            raise InputError(
                f"{store.path} has no run {said} of {subject.id}; of this model it has "
                f"{', '.join(runs) or 'none'}. Correct --run, or leave it out.",
                kind=ErrorKind.NOT_FOUND,
            )
        return said, ""
    if len(runs) == 1:
        return runs[0], ""
    if runs:
        return None, f"{len(runs)} runs captured this model; --run says which: {', '.join(runs)}"
    return None, f"no run of this store captured {subject.id}"


def _captured(run: Run, subject: Subject) -> bool:
    """Whether `run` is of this model; a run whose plan cannot be read is of none."""
    try:
        model = run.plan.model
    except FormatError:
        return False  # `lpp-analyze verify` tells of it
    return model.weights == subject.weights and model.untrained_seed is None


def keep(
    store: Store,
    source: str,
    results: Sequence[ProbeResult],
    subject: Subject,
    run: str | None,
) -> None:
    """Add the scores to `source`, in the place of this model's old ones on the same probes.

    Several models may be added at once, as from the jobs of an array: whoever finds afterwards
    that another wrote at the same time puts both together. ConflictError(IN_USE) where they keep
    meeting.
    """
    new = _new_rows(results, subject, run, source)
    for attempt in range(ATTEMPTS):
        time.sleep(random.uniform(0, 0.1) * attempt)
        with suppress(FileNotFoundError):  # another replaced the directory while it was read
            _add(store.path, source, results, subject, new)
            held = _held(store.path, source)
            if len(held) == 1 and all(row in _rows(held) for row in new):
                return
    raise ConflictError(
        f"{store.path}: others are writing to the source {source!r} all the time. Repeat the "
        "command when they are done, or keep these scores under another name: --source NAME.",
        kind=ErrorKind.IN_USE,
    )


def _add(
    root: Place,
    source: str,
    results: Sequence[ProbeResult],
    subject: Subject,
    new: Sequence[dict[str, Any]],
) -> None:
    """Everything that the source holds, but for what `new` takes the place of."""
    held = _held(root, source)
    probes = {GROUPS[result.probe] for result in results}
    folders = {PurePosixPath(result.file).parent for result in results}
    rows = [
        row
        for row in _rows(held)
        if row["model"] != subject.id or _group(row["benchmark"]) not in probes
    ]
    files = {
        name: data
        for name, data in _originals(held).items()
        if PurePosixPath(name).parent not in folders
    }
    files |= {result.file: result.document for result in results}
    table = pa.Table.from_pylist([*rows, *new], schema=SCORES_SCHEMA)
    # just what was read: what another adds meanwhile stays in force, and `keep` sees both
    add_scores(root, source, table, files, replace=held)


def _new_rows(
    results: Sequence[ProbeResult], subject: Subject, run: str | None, source: str
) -> list[dict[str, Any]]:
    return [
        {
            "model": subject.id,
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


def _held(root: Place, source: str) -> list[ScoreSet]:
    """The source as it is in force: one directory, or several where writers met."""
    return [held for held in score_sets(root) if held.record.source == source]


def _rows(held: Sequence[ScoreSet]) -> list[dict[str, Any]]:
    """Each score once: where writers met, both have what was there before."""
    rows = [row for one in held for row in one.scores().to_pylist()]
    return list({tuple(row[name] for name in KEY): row for row in rows}.values())


def _originals(held: Sequence[ScoreSet]) -> dict[str, bytes]:
    """Files of a source, by name."""
    return {name: data for one in held for name, data in one.original().items()}


def _group(task: str) -> str:
    """The probe that a task is part of: `lpp_ar_options` of `lpp_ar`."""
    return next((group for group in GROUPS.values() if task.startswith(group)), task)
