"""Scores and items from the logs of inspect_ai.

A log is one task. Its scorers play the part of lm-eval's filters: a metric is called
`accuracy,match`, and `stderr` of the same scorer is the standard error of its mean. An item is a
sample by one scorer. If its document has choices, it has an entry for each; the model wrote one
answer, so that choice alone has a prompt. inspect logs no ln p.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import polars as pl

from lpp.analyze.scores.inspect_log import InspectLog
from lpp.analyze.scores.item_table import ITEMS, item_row
from lpp.analyze.scores.score_table import as_number, score_table
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.documents import document_hash
from lpp.store.scores.items import field_text

INSPECT: Final = "inspect"

BETWEEN: Final = "\n\n"
"""Between two messages of one text."""

_STDERR: Final = "stderr"
_MEANS: Final = ("accuracy", "mean")
"""Metrics whose standard error `stderr` is."""

_GENERATION: Final = ("temperature", "top_p", "top_k", "max_tokens", "stop_seqs", "system_message")
"""Settings of generation that change a score."""

_WORDS: Final = {
    **{"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0},
    **{"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0},
}
"""inspect's `value_to_float`: correct, incorrect, partly correct, no answer."""

_MARKS: Final = (0.0, 0.5, 1.0)
"""Values of a scorer that says what is right; 0.5 is neither."""


def read_inspect(log: InspectLog, wanted: Callable[[str], bool] = lambda _: True) -> pl.DataFrame:
    """`SCORES` of `log`: every metric of each scorer; nothing where its task is not `wanted`.

    Raises InputError for a log without results.
    """
    if log.header["results"] is None:
        raise InputError(
            f"{log.where}: the log has no scores. `inspect score {log.path}` adds them."
        )
    rows = list(_scores(log)) if wanted(task_of(log.header)) else []
    return score_table(INSPECT, rows)


def task_of(header: Mapping[str, Any]) -> str:
    """The task's name."""
    return str(header["eval"]["task"])


def model_of(header: Mapping[str, Any]) -> str:
    """The model's name without the provider before it; a local model's folder, where it has one.

    >>> model_of({"eval": {"model": "hf/Qwen/Qwen2.5-3B", "model_args": {}}})
    'Qwen/Qwen2.5-3B'
    """
    spec = header["eval"]
    path = spec.get("model_args", {}).get("model_path")
    if isinstance(path, str) and path:
        return path
    provider, _, name = str(spec["model"]).partition("/")
    return name or provider


def _scores(log: InspectLog) -> Iterator[dict[str, Any]]:
    """Every metric; one that is no number has no value."""
    task, model, setup = task_of(log.header), model_of(log.header), _setup(log.header)
    for entry in log.header["results"]["scores"]:
        scorer, reducer, n = entry["name"], entry["reducer"], entry["scored_samples"]
        stderr = as_number(entry["metrics"].get(_STDERR, {}).get("value"))
        for name, metric in sorted(entry["metrics"].items()):
            if name == _STDERR:
                continue
            key = ",".join([name, scorer, *([reducer] if reducer not in (None, "mean") else [])])
            yield {
                "model": model,
                "benchmark": task,
                "metric": key,
                "value": as_number(metric["value"]),
                "stderr": stderr if name in _MEANS else None,
                "n": n,
                "where": f"{log.where}, {key}",
                "setup": setup,
            }


def _setup(header: Mapping[str, Any]) -> dict[str, str]:
    """How the task was run: what scores of one source have in common."""
    spec, plan = header["eval"], header["plan"]
    generation, limit = plan["config"], spec["config"]["limit"]
    return {
        "version": str(spec["task_version"]),
        "arguments": _json(spec["task_args"]),
        "items": "all" if limit is None else f"limited to {_json(limit)}",
        "epochs": str(spec["config"]["epochs"] or 1),
        "solvers": _json([[step["solver"], step["params"]] for step in plan["steps"]]),
        "generation": _json(
            {k: generation[k] for k in _GENERATION if generation.get(k) is not None}
        ),
    }


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def read_inspect_items(log: InspectLog, group: str | None = None) -> pl.DataFrame:
    """`ITEMS` of the first epoch of `log`, by scorer and sample.

    group: name of the metadata that groups samples. Raises InputError for a log without samples,
    one whose samples have no scores, and one with half a surrogate pair in a name.
    """
    samples = log.samples()
    scorers = dict.fromkeys(name for sample in samples for name in sample["scores"] or {})
    task = task_of(log.header)
    try:
        rows = [row for scorer in scorers for row in _items(samples, scorer, task, group)]
        items = pl.DataFrame(rows, schema=ITEMS)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{log.where}: not the samples of inspect ({type(error).__name__}: {error}). "
            "`inspect log dump` shows what they are."
        ) from None
    if items.is_empty():
        raise InputError(
            f"{log.where}: its samples have no scores. `inspect score {log.path}` adds them.",
            kind=ErrorKind.NOT_FOUND,
        )
    return items


def epochs_of(log: InspectLog) -> int:
    """How often each sample was asked."""
    return int(log.header["eval"]["config"]["epochs"] or 1)


def _items(
    samples: Sequence[Mapping[str, Any]], scorer: str, task: str, group: str | None
) -> Iterator[dict[str, Any]]:
    scores = [(sample["scores"] or {}).get(scorer) or {} for sample in samples]
    values = [value_of(score.get("value")) for score in scores]
    marks = all(value in _MARKS for value in values if value is not None)
    for index, (sample, score, value) in enumerate(zip(samples, scores, values, strict=True)):
        choices = [str(choice) for choice in sample["choices"] or ()]
        n = max(1, len(choices))
        chosen = _choice(score.get("answer"), choices)
        texts: list[tuple[str, ...]] = [()] * n
        if not choices or chosen is not None:
            texts[chosen or 0] = _texts(sample)
        document = {
            "choices": choices,
            "input": _input(sample),
            "target": _several(sample["target"]),
        }
        yield item_row(
            texts,
            task=task,
            item=index,
            filter=scorer,
            item_group=field_text(sample["metadata"], group),
            log_likelihoods=[None] * n,
            greedy=[None] * n,
            gold=_choice(sample["target"], choices),
            chosen=chosen,
            correct=value == 1 if marks and value in (0, 1) else None,
            metrics=json.dumps(_metrics(scorer, score.get("value")), sort_keys=True),
            doc_sha256=document_hash(document),
        )


def value_of(value: object) -> float | None:
    """A scorer's value as a number, as inspect's metrics take it; None where it is not one.

    >>> [value_of(value) for value in ("C", "N", "P", True, "0.25", {"a": 1}, "maybe")]
    [1.0, 0.0, 0.5, 1.0, 0.25, None, None]
    """
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and (value in _WORDS or value.lower() in _WORDS):
        return _WORDS[value if value in _WORDS else value.lower()]
    return as_number(value)


def _metrics(scorer: str, value: object) -> dict[str, float]:
    """A value by the scorer's name, several by their own."""
    parts = value if isinstance(value, dict) else {scorer: value}
    known = {str(name): value_of(part) for name, part in parts.items()}
    return {name: part for name, part in known.items() if part is not None}


def _choice(answer: object, choices: Sequence[str]) -> int | None:
    """Index of the one choice that `answer` names, by its letter or its text."""
    given = _several(answer)
    if len(given) != 1 or not choices:
        return None
    name = given[0].strip()
    letter = _index(name)
    if letter is not None and letter < len(choices):
        return letter
    return choices.index(name) if choices.count(name) == 1 else None


def _index(name: str) -> int | None:
    """A to Z, then 1, 2, ... for the choices after the 26th: inspect's `answer_index`."""
    if len(name) == 1 and name.isascii() and name.isalpha():
        return ord(name.upper()) - ord("A")
    return 25 + int(name) if name.isascii() and name.isdecimal() and int(name) > 0 else None


def _several(given: object) -> list[str]:
    """A target or an answer as a list."""
    if given is None:
        return []
    return [str(value) for value in given] if isinstance(given, list) else [str(given)]


def _texts(sample: Mapping[str, Any]) -> tuple[str, ...]:
    """Three texts that a prompt of the sample may have: question and answer, the question alone,
    and the sample's input. An empty line stands between two messages.
    """
    messages = list(sample["messages"])
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()  # what followed the last answer, such as the result of a tool
    words = [_words(message["content"]) for message in messages]
    texts = (BETWEEN.join(words), BETWEEN.join(words[:-1]), _input(sample))
    return tuple(text for text in dict.fromkeys(texts) if text.strip())


def _input(sample: Mapping[str, Any]) -> str:
    """The sample's input as one text."""
    given = sample["input"]
    if isinstance(given, str):
        return given
    return BETWEEN.join(_words(message["content"]) for message in given)


def _words(content: str | Sequence[Mapping[str, Any]]) -> str:
    """The text of a message; its parts that are text, a line each."""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")
