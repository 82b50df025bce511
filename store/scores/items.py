"""Items of evaluations in a store, SPEC.md section 7, stored with the scores made from them.

An evaluation keeps a file `items.arrow` among the original files of its scores, one for each model
and, where a source holds several tasks, for each task.
It is replaced with them.
"""

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.store.errors import ErrorKind, FormatError, InputError
from lpp.store.format.plan import REQUESTS_OF
from lpp.store.format.tables import ITEMS_SCHEMA, encode_table, table_of
from lpp.store.objects.place import Url
from lpp.store.scores.scores import PAUSE_SECONDS, READINGS, score_sets

__all__ = [
    "ITEMS_FILE",
    "ITEMS_SCHEMA",
    "answered_correctly",
    "declared_cluster",
    "evaluation_rule",
    "field_text",
    "items_file",
    "logged_documents",
    "read_items",
]

_T = TypeVar("_T")

_RIGHT: Final = ("acc", "exact_match")
"""Metrics that say whether an item is right, the first one first."""

_KEY: Final = ("model", "run", "task", "filter", "item")
"""Columns whose combination occurs once in a source."""

ITEMS_FILE: Final = "items.arrow"
"""Name of the file, in a folder that is named after the model."""


def evaluation_rule(task: str) -> str:
    """`corpus.selection.text` in the plan of an evaluation of `task`: how its texts were made.

    >>> evaluation_rule("arc_easy")
    'lm-eval requests of arc_easy'
    """
    return REQUESTS_OF + task


def answered_correctly(
    metrics: Mapping[str, float], gold: int | None, chosen: int | None
) -> bool | None:
    """Whether an item was answered correctly: by its metrics, or else by whether the chosen answer
    is the right one; None if neither is known.

    >>> answered_correctly({"acc": 0.0}, 1, 1), answered_correctly({"f1": 0.5}, 1, 1)
    (False, True)
    """
    for name in _RIGHT:
        if metrics.get(name) in (0, 1):
            return metrics[name] == 1
    return None if gold is None else gold == chosen


def field_text(document: Mapping[str, Any], field: str | None) -> str | None:
    """What an item's document has in `field`, such as its group or its cluster, as text; None if it
    has no such field, or null in it.

    >>> field_text({"scene": 7}, "scene"), field_text({"scene": 7}, "kind")
    ('7', None)
    """
    value = None if field is None else document.get(field)
    return None if value is None else str(value)


def logged_documents(
    root: Url, source: str, model: str, task: str
) -> tuple[dict[int, dict[str, Any]], str | None]:
    """The documents of the items of a task, by item, and the field of them that the task declares
    as cluster (`metadata.lpp.cluster`), from the log of items and the result file that lm-eval
    writes and an evaluation keeps; empty, and None, where they are not there.

    Raises FormatError for altered bytes, and for such files that are not what lm-eval writes.
    """
    documents: dict[int, dict[str, Any]] = {}
    declared = None
    for score_set in score_sets(root):
        if score_set.record.source != source:
            continue
        files = {PurePosixPath(name): data for name, data in score_set.original().items()}
        folders = {
            name.parent
            for name, data in files.items()
            if name.name == ITEMS_FILE and _is_of(table_of_items(data), model, task)
        }
        for name, data in files.items():
            if name.parent not in folders:
                continue
            try:
                if name.name.startswith(f"samples_{task}_") and name.suffix == ".jsonl":
                    lines = map(json.loads, data.splitlines())
                    documents |= {int(line["doc_id"]): dict(line["doc"]) for line in lines}
                elif name.suffix == ".json":
                    declared = declared_cluster(data, task) or declared
            except (KeyError, TypeError, ValueError, RecursionError) as error:
                why = f"{type(error).__name__}: {error}"
                raise FormatError(
                    f"{score_set.path}: {name} is no file of lm-eval ({why}).",
                    kind=ErrorKind.CORRUPT,
                ) from None
    return documents, declared


def declared_cluster(result: bytes, task: str) -> str | None:
    """The field that `task` declares as cluster, by a result file of lm-eval; None if it declares
    none.

    >>> declared_cluster(b'{"configs": {"t": {"metadata": {"lpp": {"cluster": "scene"}}}}}', "t")
    'scene'
    """
    value: Any = json.loads(result)
    for name in ("configs", task, "metadata", "lpp", "cluster"):
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None


def _is_of(table: pa.Table, model: str, task: str) -> bool:
    rows = zip(table["model"].to_pylist(), table["task"].to_pylist(), strict=True)
    return (model, task) in rows


def table_of_items(data: bytes) -> pa.Table:
    """The table in the bytes of a file of items; ArrowException or ValueError for other bytes."""
    return table_of(pa.py_buffer(data), ITEMS_SCHEMA, extra=None)


def items_file(table: pa.Table) -> bytes:
    """The bytes of the file. table: (n, 17) `ITEMS_SCHEMA`. InputError if no items can be so."""
    if not table.schema.equals(ITEMS_SCHEMA):
        raise ValueError(f"items with columns {table.schema.names}")
    if problem := _problem(table):
        raise InputError(f"no items of an evaluation: {problem}.")
    return encode_table(table)


def _problem(items: pa.Table) -> str:
    """Why these are not the items of one source; empty if they may be. NaN: null, always right."""
    answers = _lengths(items, "prompt_ids")
    for name in ("log_likelihoods", "greedy", "n_answer"):
        lengths = _lengths(items, name)
        if (np.isfinite(lengths) & (lengths != answers)).any():
            return f"{name} should have an entry for each answer"
    for name in ("gold", "chosen"):
        answer = items[name].to_numpy()
        if ((answer < 0) | (answer >= answers)).any():
            return f"{name} should be one of the answers"
    counts = items.group_by(_KEY).aggregate([([], "count_all")])
    twice = np.flatnonzero(counts["count_all"].to_numpy() > 1)
    if twice.size:
        (row,) = counts.slice(twice[0], 1).to_pylist()
        return f"item {row['item']} of {row['task']} is there twice"
    return ""


def _lengths(items: pa.Table, name: str) -> npt.NDArray[np.float64]:
    lists = items[name].combine_chunks()
    return np.asarray(lists.value_lengths().to_numpy(zero_copy_only=False), np.float64)


def read_items(root: Url) -> pa.Table:
    """The items of every source in the store at `root`, (n, 17) `ITEMS_SCHEMA`.

    Raises FormatError for altered bytes and for a file that is no table of items.
    """
    for reading in range(READINGS):
        time.sleep(PAUSE_SECONDS * reading)
        with contextlib.suppress(FileNotFoundError):  # replaced after it was listed
            return _read(root)
    return _read(root)


def _read(root: Url) -> pa.Table:
    tables = [ITEMS_SCHEMA.empty_table()]
    for score_set in score_sets(root):
        before = len(tables)
        for name, data in score_set.original(ITEMS_FILE).items():
            try:
                table = table_of_items(data)
            except (pa.ArrowException, ValueError) as error:
                raise FormatError(
                    f"{score_set.path}: {name} is no table of items ({error}).",
                    kind=ErrorKind.CORRUPT,
                ) from None
            tables.append(table)
        if problem := _problem(pa.concat_tables([tables[0], *tables[before:]])):
            raise FormatError(
                f"{score_set.path}: no items of an evaluation ({problem}). Remove that directory, "
                "then evaluate again, or add the scores again.",
                kind=ErrorKind.CORRUPT,
            )
    return pa.concat_tables(tables)
