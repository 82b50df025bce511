"""Scores from the logs of inspect_ai.

A log is one task. Its scorers play the part of lm-eval's filters: a metric is called
`accuracy,match`, and `stderr` of the same scorer is the standard error of its mean.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from lpp.analyze.scores.inspect_log import InspectLog
from lpp.analyze.scores.score_rows import Missing, Score, ScoreFile, number
from lpp.store.errors import ErrorKind, InputError

KIND: Final = "inspect"

_STDERR: Final = "stderr"
_MEANS: Final = ("accuracy", "mean")
"""Metrics whose standard error `stderr` is."""

_ASKED: Final = ("temperature", "top_p", "top_k", "max_tokens", "stop_seqs", "system_message")
"""Settings of generation that change a score."""


def read_inspect(log: InspectLog, wanted: Callable[[str], bool] = lambda _: True) -> ScoreFile:
    """Every metric of each scorer of `log`; nothing where its task is not `wanted`.

    Raises InputError for a log without results.
    """
    try:
        model, task = model_of(log.header), task_of(log.header)
        setup = _setup(log.header)
        results = log.header["results"]["scores"]
        rows = list(_scores(log, results, model, task, setup)) if wanted(task) else []
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{log.where}: the log has no scores ({type(error).__name__}: {error}). `inspect "
            f"score {log.path}` adds them.",
            kind=ErrorKind.INVALID_VALUE,
        ) from None
    return ScoreFile(
        kind=KIND,
        scores=[row for row in rows if isinstance(row, Score)],
        missing=[row for row in rows if isinstance(row, Missing)],
    )


def task_of(header: Mapping[str, Any]) -> str:
    """The task's name."""
    return str(header["eval"]["task"])


def model_of(header: Mapping[str, Any]) -> str:
    """The model's name without the provider before it; a local model's folder, where it has one.

    >>> model_of({"eval": {"model": "hf/Qwen/Qwen2.5-3B", "model_args": {}}})
    'Qwen/Qwen2.5-3B'
    """
    spec = header["eval"]
    path = (spec.get("model_args") or {}).get("model_path")
    if isinstance(path, str) and path:
        return path
    provider, _, name = str(spec["model"]).partition("/")
    return name or provider


def _scores(
    log: InspectLog, results: Any, model: str, task: str, setup: Mapping[str, str]
) -> Iterator[Score | Missing]:
    """Every metric, and those that are no number."""
    for entry in results:
        scorer, reducer = str(entry["name"]), entry.get("reducer")
        n = entry.get("scored_samples")
        stderr = number(entry["metrics"].get(_STDERR, {}).get("value"))
        for name, metric in sorted(entry["metrics"].items()):
            if name == _STDERR:
                continue
            key = ",".join([name, scorer, *([reducer] if reducer not in (None, "mean") else [])])
            where = f"{log.where}, {key}"
            value = number(metric["value"])
            if value is None:
                yield Missing(model=model, benchmark=f"{task} ({key})", where=where)
                continue
            yield Score(
                model=model,
                benchmark=task,
                metric=key,
                value=value,
                stderr=stderr if name in _MEANS else None,
                n=n if type(n) is int else None,
                where=where,
                setup=setup,
            )


def _setup(header: Mapping[str, Any]) -> dict[str, str]:
    """How the task was run: what scores of one source have in common."""
    spec, plan = header["eval"], header.get("plan") or {}
    config, generation = spec.get("config") or {}, plan.get("config") or {}
    limit = config.get("limit")
    return {
        "version": str(spec.get("task_version", 0)),
        "arguments": _told(spec.get("task_args") or {}),
        "items": "all" if limit is None else f"limited to {_told(limit)}",
        "epochs": str(config.get("epochs") or 1),
        "solvers": _told([[one.get("solver"), one.get("params")] for one in plan.get("steps", ())]),
        "generation": _told({k: generation[k] for k in _ASKED if generation.get(k) is not None}),
    }


def _told(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
