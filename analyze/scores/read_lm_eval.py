"""Scores and items from the files of lm-eval (EleutherAI lm-evaluation-harness, 0.4 and later).

`results` of a result file holds every task, subtask and group; a key such as `acc_norm,none` is the
metric and the filter that the answer went through, and `acc_norm_stderr,none` its standard error, a
number or "N/A". The filter stays in the metric's name: two filters score one answer differently.
How a task was run goes with its scores: `n-shot`, `versions`, `config.limit`, and what its prompts
stood in.

A log of items, `samples_<task>_<time>.jsonl`, lies beside the result file `results_<time>.json` of
the same evaluation, which names the model. It has a JSON object a line.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from lpp.analyze.runs.capture_command import part
from lpp.analyze.scores.item_table import ITEMS, item_row
from lpp.analyze.scores.score_table import MAX_ITEMS, as_number, refuse, score_table
from lpp.store.errors import InputError
from lpp.store.scores.items import answered_correctly, field_text

LM_EVAL: Final = "lm-eval"

_NAMES: Final = ("peft", "delta", "pretrained", "model", "path", "engine")
"""Arguments of a model that can name it, the most specific first."""

_FRACTIONS: Final = ("acc", "exact_match")
"""Metrics that lm-eval gives as fractions, by a part of their name."""

_LOG_NAME: Final = re.compile(r"samples_(?P<task>.+)_(?P<time>\d{4}-\d\d-\d\dT[^_]+)\.jsonl")

_BROKEN: Final = (
    *(ValueError, LookupError, TypeError, AttributeError, RecursionError),
    OverflowError,  # an index that is infinite, a number beyond any float
)
"""What a line may raise that is no item."""


def read_lm_eval(
    data: bytes, where: str, wanted: Callable[[str], bool] = lambda _: True
) -> pl.DataFrame:
    """`SCORES` of a `results_*.json`: every metric of each `wanted` task. InputError for another
    file.
    """
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
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for task in sorted(filter(wanted, results)):
        entry, of_task = results[task], _of_task(document, task)
        for key, given in sorted(entry.items()):
            metric, comma, rest = key.partition(",")
            if not comma or not metric or metric.endswith("_stderr"):
                continue
            value, location = as_number(given), f"{where}, {task}, {key}"
            if value is None:
                problems.append(f"{location}: {given!r} is not a score")
            elif any(part in metric for part in _FRACTIONS) and not 0 <= value <= 1:
                problems.append(
                    f"{location}: {value:g} is not a fraction, as every other score there is"
                )
            stderr = as_number(entry.get(f"{metric}_stderr,{rest}"))
            scored = {"metric": key, "value": value, "stderr": stderr, "where": location}
            rows.append({"model": model, "benchmark": task, **scored, **of_task})
    refuse(problems, "Correct the file, or take other benchmarks from it: --benchmark NAME,...")
    return score_table(LM_EVAL, rows)


def _model(document: Mapping[str, Any]) -> str | None:
    """The model's name: what the file says outright, or the argument that loaded it."""
    name = document.get("model_name")
    if isinstance(name, str) and name.strip():
        return name
    arguments = part(document, "config").get("model_args")
    if isinstance(arguments, str):
        pairs = (part.partition("=") for part in arguments.split(","))
        arguments = {name.strip(): value.strip() for name, _, value in pairs}
    if isinstance(arguments, dict):
        return next((str(arguments[name]) for name in _NAMES if arguments.get(name)), None)
    return None


def _of_task(document: Mapping[str, Any], task: str) -> dict[str, Any]:
    """`n` items that `task` scored, and its `setup`. What the file does not say is not there."""
    setup = {}
    tasks = _tasks(document, task)
    for name, key in (("shots", "n-shot"), ("version", "versions")):
        values = (part(document, key).get(t) for t in tasks)
        if ways := sorted({str(value) for value in values if value is not None}):
            setup[name] = ", ".join(ways)
    config = part(document, "config")
    if "limit" in config:
        limit = as_number(config["limit"])
        setup["items"] = "all" if limit is None else f"limited to {limit:g}"
    if "chat_template" in document:  # each model has its own: whether there is one tells
        setup["chat template"] = "applied" if document["chat_template"] else "none"
    if "fewshot_as_multiturn" in document:
        setup["shots as turns"] = "yes" if document["fewshot_as_multiturn"] else "no"
    if "system_instruction_sha" in document:
        setup["system prompt"] = str(document["system_instruction_sha"] or "none")[:8]
    samples = part(document, "n-samples")
    counts = [part(samples, t).get("effective") for t in tasks]
    known = bool(counts) and all(type(count) is int for count in counts)
    return {"n": sum(counts) if known else None, "setup": setup}


def _tasks(document: Mapping[str, Any], task: str) -> list[str]:
    """The tasks of a group and of its groups; a task alone is its own."""
    groups, seen, queue, tasks = part(document, "group_subtasks"), {task}, [task], []
    while queue:
        name = queue.pop()
        listed = groups.get(name)
        parts = (
            {str(subtask) for subtask in listed if subtask != name}
            if isinstance(listed, list)
            else ()
        )
        if not parts:
            tasks.append(name)
        queue += sorted(parts - seen) if parts else ()
        seen.update(parts)
    return tasks


def _not_results(where: str, why: str) -> InputError:
    return InputError(
        f"{where}: not a result file of lm-eval: {why}. "
        "`lm_eval --output_path DIR ...` writes one, DIR/<model>/results_<time>.json."
    )


def item_logs(results: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Path]]:
    """(task, file) of the logs of `wanted` tasks beside a result file."""
    for path in sorted(results.parent.glob("samples_*.jsonl")):
        log = _LOG_NAME.fullmatch(path.name)
        if log and results.name == f"results_{log['time']}.json" and wanted(log["task"]):
            yield log["task"], path


def read_lm_eval_items(
    data: bytes, where: str, task: str, group: str | None = None, cluster: str | None = None
) -> pl.DataFrame:
    """`ITEMS` of a log of `task`. InputError, with the line, for another file.

    group, cluster: fields of the documents that name the group and the cluster of an item.
    """
    rows = []
    for index, line in enumerate(data.splitlines(), start=1):
        try:
            rows.append(_item(json.loads(line), task, group, cluster))
        except _BROKEN as error:
            raise InputError(
                f"{where}, line {index}: not an item of lm-eval's log ({type(error).__name__}: "
                f"{error}). `lm_eval --log_samples --output_path DIR ...` writes one."
            ) from None
    return pl.DataFrame(rows, schema=ITEMS)


def _item(
    line: Mapping[str, Any], task: str, group: str | None, cluster: str | None
) -> dict[str, Any]:
    entries = (line["arguments"][f"gen_args_{k}"] for k in range(len(line["arguments"])))
    requests = [[entry[name] for name in sorted(entry)] for entry in entries]  # arg_0, arg_1
    given = [answers[0] for answers in line["resps"]]
    if len(requests) != len(given):
        raise ValueError(f"{len(requests)} arguments and {len(given)} resps")
    if not 0 <= (item := int(line["doc_id"])) < MAX_ITEMS:
        raise ValueError(f"doc_id {item}")
    values = {name: as_number(line[name]) for name in line["metrics"]}
    metrics = {name: value for name, value in values.items() if value is not None}
    pairs = list(zip(requests, given, strict=True))
    likelihoods = [None if _is_generation(a) else _log_likelihood(g) for a, g in pairs]
    gold, chosen = _choices(line, requests, likelihoods)
    return item_row(
        [_texts(*pair) for pair in pairs],
        task=task,
        item=item,
        filter=str(line["filter"]),
        item_group=field_text(line["doc"], group) if group else None,
        item_cluster=field_text(line["doc"], cluster) if cluster else None,
        log_likelihoods=likelihoods,
        greedy=[_greedy(answer) for answer in given],
        gold=gold,
        chosen=chosen,
        correct=answered_correctly(metrics, gold, chosen),
        metrics=json.dumps(metrics, sort_keys=True),
        doc_sha256=str(line["doc_hash"]),
    )


def _texts(request: Sequence[Any], given: Any) -> tuple[str, ...]:
    """Context and answer; of a whole text, the text; of a generation, what was written too."""
    return (request[0] + given, request[0]) if _is_generation(request) else ("".join(request),)


def _is_generation(request: Sequence[Any]) -> bool:
    """Whether settings of a generation follow the context."""
    return isinstance(request[-1], dict)


def _log_likelihood(given: Any) -> float | None:
    """The first of (ln p, greedy), or ln p alone. lm-eval writes numbers as strings."""
    value = float(given[0] if isinstance(given, list) else given)
    return None if math.isnan(value) else value


def _greedy(given: Any) -> bool | None:
    return str(given[1]) == "True" if isinstance(given, list) and len(given) > 1 else None


def _choices(
    line: Mapping[str, Any], requests: Sequence[Sequence[Any]], likelihoods: Sequence[float | None]
) -> tuple[int | None, int | None]:
    """(index of the right answer, of the most likely one) of a multiple-choice item."""
    n = len(requests) // 2 if "acc_mutual_info" in line["metrics"] else len(requests)
    known = [value for value in likelihoods[:n] if value is not None]
    if n < 2 or len(known) < n or not all(isinstance(request[-1], str) for request in requests):
        return None, None
    target, answers = str(line["target"]).strip(), [request[-1].strip() for request in requests[:n]]
    gold = answers.index(target) if answers.count(target) == 1 else None
    if gold is None and target.isdecimal() and int(target) < n:
        gold = int(target)
    return gold, max(range(n), key=known.__getitem__)
