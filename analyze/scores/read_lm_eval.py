"""Scores from the result files of lm-eval (EleutherAI lm-evaluation-harness, 0.4 and later).

`results` holds every task, subtask and group; a key such as `acc_norm,none` is the metric and the
filter that the answer went through, and `acc_norm_stderr,none` its standard error, a number or
"N/A". The filter stays in the metric's name: two filters score one answer differently. How a task
was run goes with its scores: `n-shot`, `versions`, `config.limit`, and what its prompts stood in.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from lpp.analyze.scores.score_rows import Score, ScoreFile, number, refuse
from lpp.store.errors import ErrorKind, InputError

KIND: Final = "lm-eval"

_NAMES: Final = ("peft", "delta", "pretrained", "model", "path", "engine")
"""Arguments of a model that can name it, the most specific first."""

_FRACTIONS: Final = ("acc", "exact_match")
"""Metrics that lm-eval gives as fractions, by a part of their name."""


def read_lm_eval(
    data: bytes, where: str, wanted: Callable[[str], bool] = lambda _: True
) -> ScoreFile:
    """Every metric of each `wanted` task of a `results_*.json`. InputError for another file."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _not_results(where, f"not a JSON document ({error})") from None
    results = document.get("results") if isinstance(document, dict) else None
    if not isinstance(results, dict) or not all(isinstance(v, dict) for v in results.values()):
        raise _not_results(where, "it has no object `results` with an object for each task")
    model = _model(document)
    if model is None:
        raise _not_results(where, "it names no model (`model_name`, `config.model_args`)")
    scores: list[Score] = []
    problems: list[str] = []
    for task in sorted(filter(wanted, results)):
        scores += _scores(document, model, task, where=where, problems=problems)
    refuse(problems, "Correct the file, or take other benchmarks from it: --benchmark NAME,...")
    return ScoreFile(kind=KIND, scores=scores)


def _scores(
    document: Mapping[str, Any], model: str, task: str, *, where: str, problems: list[str]
) -> Iterator[Score]:
    entry, n = document["results"][task], _n_items(document, task)
    setup = _setup(document, task)
    for key, given in sorted(entry.items()):
        metric, comma, rest = key.partition(",")
        if not comma or not metric or metric.endswith("_stderr"):
            continue
        value = number(given)
        place = f"{where}, {task}, {key}"
        if value is None:
            problems.append(f"{place}: {given!r} is not a score")
        elif any(part in metric for part in _FRACTIONS) and not 0 <= value <= 1:
            problems.append(f"{place}: {value:g} is not a fraction, as every other score there is")
        else:
            yield Score(
                model=model,
                benchmark=task,
                metric=key,
                value=value,
                stderr=number(entry.get(f"{metric}_stderr,{rest}")),
                n=n,
                where=place,
                setup=setup,
            )


def _model(document: Mapping[str, Any]) -> str | None:
    """The model's name: what the file says outright, or the argument that loaded it."""
    name = document.get("model_name")
    if isinstance(name, str) and name.strip():
        return name
    config = document.get("config")
    arguments = config.get("model_args") if isinstance(config, dict) else None
    if isinstance(arguments, str):
        pairs = (part.partition("=") for part in arguments.split(","))
        arguments = {name.strip(): value.strip() for name, _, value in pairs}
    if isinstance(arguments, dict):
        return next((str(arguments[name]) for name in _NAMES if arguments.get(name)), None)
    return None


def _setup(document: Mapping[str, Any], task: str) -> dict[str, str]:
    """How `task` was run. What the file does not say is not there."""
    found = {}
    for name, key in (("shots", "n-shot"), ("version", "versions")):
        told = sorted({str(value) for value in _told(document, key, task)})
        if told:
            found[name] = ", ".join(told)
    config = document.get("config")
    if isinstance(config, dict) and "limit" in config:
        limit = number(config["limit"])
        found["items"] = "all" if limit is None else f"limited to {limit:g}"
    if "chat_template" in document:  # each model has its own: whether there is one tells
        found["chat template"] = "applied" if document["chat_template"] else "none"
    if "fewshot_as_multiturn" in document:
        found["shots as turns"] = "yes" if document["fewshot_as_multiturn"] else "no"
    if "system_instruction_sha" in document:
        found["system prompt"] = str(document["system_instruction_sha"] or "none")[:8]
    return found


def _told(document: Mapping[str, Any], key: str, task: str) -> Iterator[Any]:
    """What `key` says of `task`; of a group, of all its tasks."""
    parts = [part for part in _children(document, task) if part != task]
    for part in parts:
        yield from _told(document, key, part)
    told = document.get(key)
    if not parts and isinstance(told, dict) and told.get(task) is not None:
        yield told[task]


def _n_items(document: Mapping[str, Any], task: str) -> int | None:
    """Items that `task` scored; of a group, those of all its tasks, where each is known."""
    parts = _children(document, task)
    if parts:
        counts = [_n_items(document, part) for part in parts if part != task]
        return sum(c for c in counts if c) if counts and all(counts) else None
    samples = document.get("n-samples")
    entry = samples.get(task) if isinstance(samples, dict) else None
    effective = entry.get("effective") if isinstance(entry, dict) else None
    return effective if type(effective) is int else None


def _children(document: Mapping[str, Any], task: str) -> list[str]:
    groups = document.get("group_subtasks")
    found = groups.get(task) if isinstance(groups, dict) else None
    return [str(name) for name in found] if isinstance(found, list) else []


def _not_results(where: str, why: str) -> InputError:
    return InputError(
        f"{where}: not a result file of lm-eval: {why}. "
        "`lm_eval --output_path DIR ...` writes one, DIR/<model>/results_<time>.json.",
        kind=ErrorKind.INVALID_VALUE,
    )
