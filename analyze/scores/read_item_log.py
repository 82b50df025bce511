"""Items from the logs that lm-eval writes with `--log_samples`, a JSON object a line.

A log `samples_<task>_<time>.jsonl` lies beside the result file `results_<time>.json` of the same
evaluation, which names the model.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lpp.analyze.scores.score_rows import number
from lpp.store.errors import ErrorKind, InputError
from lpp.store.items import answered_correctly, field_text

_NAME: Final = re.compile(r"samples_(?P<task>.+)_(?P<time>\d{4}-\d\d-\d\dT[^_]+)\.jsonl")

_BROKEN: Final = (
    *(ValueError, LookupError, TypeError, AttributeError, RecursionError),
    OverflowError,  # an index that is infinite, a number beyond any float
)
"""What a line may raise that is no item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFile:
    """A file of scores that has items, inside it or beside it."""

    name: str
    """Inside its source."""
    path: Path
    model: str
    kind: str
    """lm-eval, inspect"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedItem:
    """One item of a log."""

    texts: Sequence[tuple[str, ...]]
    """Of each answer: the texts that a prompt of it may have; none where no text is known."""
    row: Mapping[str, Any]
    """`lpp.store.items.ITEMS_SCHEMA`, without source, model, run and prompts. ValueError where a
    text is none: half a surrogate pair.
    """

    def __post_init__(self) -> None:
        for value in self.row.values():
            if isinstance(value, str):
                value.encode()


def log_name(name: str) -> tuple[str, str] | None:
    """(task, time) of a log, by the name of its file; None for another file.

    >>> log_name("samples_arc_easy_2026-11-26T18-12-56.395206.jsonl")
    ('arc_easy', '2026-11-26T18-12-56.395206')
    """
    found = _NAME.fullmatch(name)
    return None if found is None else (found["task"], found["time"])


def read_item_log(
    data: bytes, where: str, task: str, group: str | None = None, cluster: str | None = None
) -> list[LoggedItem]:
    """The items of a log of `task`. InputError, with the line, for another file.

    group, cluster: fields of the documents that name the group and the cluster of an item.
    """
    found = []
    for index, line in enumerate(data.splitlines(), start=1):
        try:
            found.append(_item(json.loads(line), task, group, cluster))
        except _BROKEN as error:
            raise InputError(
                f"{where}, line {index}: not an item of lm-eval's log ({type(error).__name__}: "
                f"{error}). `lm_eval --log_samples --output_path DIR ...` writes one.",
                kind=ErrorKind.INVALID_VALUE,
            ) from None
    return found


def _item(line: Mapping[str, Any], task: str, group: str | None, cluster: str | None) -> LoggedItem:
    asked = [[entry[name] for name in sorted(entry)] for entry in _in_order(line["arguments"])]
    given = [answers[0] for answers in line["resps"]]
    if len(asked) != len(given):
        raise ValueError(f"{len(asked)} arguments and {len(given)} resps")
    if not 0 <= (item := int(line["doc_id"])) < 1 << 31:
        raise ValueError(f"doc_id {item}")
    values = {name: number(line[name]) for name in line["metrics"]}
    metrics = {name: value for name, value in values.items() if value is not None}
    likelihoods = [
        None if _is_generation(one) else _log_likelihood(answer)
        for one, answer in zip(asked, given, strict=True)
    ]
    gold, chosen = _choices(line, asked, likelihoods)
    return LoggedItem(
        texts=[_texts(*pair) for pair in zip(asked, given, strict=True)],
        row={
            "task": task,
            "item": item,
            "filter": str(line["filter"]),
            "item_group": field_text(line["doc"], group) if group else None,
            "item_cluster": field_text(line["doc"], cluster) if cluster else None,
            "log_likelihoods": likelihoods,
            "greedy": [_greedy(one) for one in given],
            "gold": gold,
            "chosen": chosen,
            "correct": answered_correctly(metrics, gold, chosen),
            "metrics": json.dumps(metrics, sort_keys=True),
            "doc_sha256": str(line["doc_hash"]),
        },
    )


def _in_order(arguments: Any) -> Iterator[Mapping[str, Any]]:
    """`gen_args_0` ... `gen_args_n`, each with `arg_0` and what follows it."""
    for index in range(len(arguments)):
        yield arguments[f"gen_args_{index}"]


def _texts(asked: Sequence[Any], given: Any) -> tuple[str, ...]:
    """Context and answer; of a whole text, the text; of a generation, what was written too."""
    if _is_generation(asked):
        return (asked[0] + given, asked[0])
    return ("".join(asked),)


def _is_generation(asked: Sequence[Any]) -> bool:
    """Whether settings of a generation follow the context."""
    return isinstance(asked[-1], dict)


def _log_likelihood(given: Any) -> float | None:
    """The first of (ln p, greedy), or ln p alone. lm-eval writes numbers as strings."""
    value = given[0] if isinstance(given, list) else given
    found = float(value)
    return None if math.isnan(found) else found


def _greedy(given: Any) -> bool | None:
    return str(given[1]) == "True" if isinstance(given, list) and len(given) > 1 else None


def _choices(
    line: Mapping[str, Any], asked: Sequence[Sequence[Any]], likelihoods: Sequence[float | None]
) -> tuple[int | None, int | None]:
    """(index of the right answer, of the most likely one) of a multiple-choice item."""
    n = len(asked) // 2 if "acc_mutual_info" in line["metrics"] else len(asked)
    known = [value for value in likelihoods[:n] if value is not None]
    if n < 2 or len(known) < n or not all(isinstance(one[-1], str) for one in asked):
        return None, None
    target, answers = str(line["target"]).strip(), [one[-1].strip() for one in asked[:n]]
    gold = answers.index(target) if answers.count(target) == 1 else None
    if gold is None and target.isdecimal() and int(target) < n:
        gold = int(target)
    return gold, max(range(n), key=known.__getitem__)
