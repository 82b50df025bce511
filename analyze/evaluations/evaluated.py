"""The items of one evaluation: which were right, which prompt shows each, what is left out."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Final

import numpy as np
import polars as pl

from lpp.analyze.numerics.statistics.auroc import Codes
from lpp.analyze.numerics.statistics.clusters import cluster_codes
from lpp.analyze.questions import ItemsSettings
from lpp.analyze.runs.keys import RunView, Url
from lpp.analyze.runs.prompt_clusters import prompt_values
from lpp.analyze.runs.select import nearest
from lpp.store import open_store
from lpp.store.errors import ErrorKind, FormatError, InputError, NotFoundError
from lpp.store.format.prompt_columns import FIELD_PREFIX
from lpp.store.format.run_names import Plans, find_run, run_lines
from lpp.store.objects.place import absolute
from lpp.store.scores.items import field_text, logged_documents, read_items

N_CONTEXT: Final = f"{FIELD_PREFIX}n_context"
N_BEFORE: Final = f"{FIELD_PREFIX}n_before_question"

TWICE_ASKED: Final = "acc_mutual_info"
"""The metric of lm-eval that also asks for each answer without the question: those values are the
second half of an item's log-likelihoods."""

EVALUATED: Final = pl.Schema(
    {
        "item": pl.Int32(),
        "doc_sha256": pl.String(),
        "item_group": pl.String(),
        "item_cluster": pl.String(),
        "right": pl.Boolean(),
        "prompt_id": pl.Int32(),
        "question": pl.Int32(),
        "answer": pl.Int32(),
        "length": pl.Int32(),
        "chosen": pl.Int32(),
        "gold": pl.Int32(),
        "gold_length": pl.Int32(),
        "first_tokens": pl.List(pl.Int32()),
        "logprobs": pl.List(pl.Float64()),
    }
)
"""One row for each item. prompt_id: the prompt that holds the question, and perhaps the chosen
answer after it. question: position of the question's first token. answer: position that predicts
the answer's first token, the last position before it. item_cluster: items with equal values are not
independent; null: independent of all others. length, gold_length: tokens of the chosen and of the
gold answer; of what the model wrote, those before the stop string. first_tokens: the first token of
each answer, null if its prompt was set aside. logprobs: ln p of each answer, in nats. doc_sha256:
hash of the item's document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedItems:
    """One task as one run answered it."""

    task: str
    model: str
    settings: ItemsSettings
    """These settings select the same items again. `source` and `filter` are the ones that were
    found: lm-eval's filter cuts a response before it is scored, and is mostly `none`. Items with
    equal values of the field `cluster` are one cluster; None: items are taken as independent."""
    view: RunView
    table: pl.DataFrame
    """(n,) `EVALUATED`: items that are right or wrong and whose prompt can be analysed."""
    left_out: dict[str, int]
    """Numbers of items that are not in `table`, by reason."""
    written: bool
    """Whether the model wrote the answers. Items with one answer that it did not write have the
    right answer as the chosen one."""
    uncut: bool
    """Whether answers that the model wrote include what it wrote after the stop string, because an
    earlier release stored them."""

    @property
    def clusters(self) -> Codes | None:
        """(n,) number of the cluster of each item; None: items are taken as independent."""
        if self.settings.cluster is None:
            return None
        return cluster_codes(self.table["item_cluster"].to_list())

    @property
    def n_clusters(self) -> int:
        """Number of clusters; 0: items are taken as independent."""
        return 0 if self.clusters is None else len(np.unique(self.clusters))

    @property
    def asks_for_gold(self) -> bool:
        """Whether each item has one answer, the right one, that the model was asked about."""
        return not self.written and bool((self.table["logprobs"].list.len() == 1).all())


def evaluated_items(
    store: Url,
    task: str,
    run: str | None = None,
    settings: ItemsSettings = ItemsSettings(),
) -> EvaluatedItems:
    """The items of `task` in the store.

    run: id or name, the beginning of either, or a pattern. The cluster of `settings` is a
    field of the items' documents, or of the run's prompts. The field `correct` says whether an item
    is right. Items without it, such as those that only have a score between 0 and 1, are left out:
    no threshold on such a score is the right one.

    Raises InputError if there are no items, no such task or no such field, or if there are several
    runs, sources or filters and none is named; FormatError for altered bytes.
    """
    items = pl.DataFrame(pl.from_arrow(read_items(absolute(store))))
    if items.is_empty():
        raise InputError(
            f"{store} holds no items of an evaluation. `lpp-capture eval --model ... --tasks "
            f"{task or '...'} --store {store}` makes them.",
            kind=ErrorKind.NOT_FOUND,
        )
    tasks = sorted(items["task"].unique())
    if task not in tasks:
        why = f"--task {task}: no items of it" if task else "--task is missing"
        raise InputError(
            f"{why}; {nearest(task, tasks)}",
            kind=ErrorKind.NOT_FOUND,
        )
    items = items.filter(task=task)
    runs = sorted(items["run"].drop_nulls().unique())
    if not runs:
        raise InputError(
            f"--task {task}: every answer was set aside, so no prompt shows its items. Evaluate "
            "again with a larger --context.",
            kind=ErrorKind.INCOMPLETE,
        )
    opened = open_store(absolute(store))
    plans = opened.plans
    name = _run_id(run, {run: plans.get(run) for run in runs}, task)
    items = items.filter((pl.col("run") == name) | pl.col("run").is_null())
    sources = sorted(items.filter(run=name)["source"].unique())
    items = items.filter(source=_selected("--source", settings.source, sources, task))
    items = items.filter(model=items.filter(run=name)["model"][0])
    filters = sorted(items["filter"].unique())
    items = items.filter(filter=_selected("--filter", settings.filter, filters, task))
    if name not in opened.runs:
        raise InputError(
            f"{store}: run {name} of --task {task} is not there any more. Evaluate again: "
            f"lpp-capture eval --tasks {task} --store {store}",
            kind=ErrorKind.NOT_FOUND,
        )
    view = RunView(opened.runs[name])
    items, named = _in_clusters(items.sort("item"), view, settings.cluster)
    table, left_out = _table(items, view)
    written = view.run.plan.continuation is not None or bool(
        (items["log_likelihoods"].list.drop_nulls().list.len() == 0).any()
    )
    return EvaluatedItems(
        task=task,
        model=items["model"][0],
        settings=replace(
            settings, source=items["source"][0], filter=items["filter"][0], cluster=named
        ),
        view=view,
        table=table,
        left_out=left_out,
        written=written,
        uncut=view.run.plan.continuation is not None and bool(items["n_answer"].is_null().all()),
    )


def _in_clusters(
    items: pl.DataFrame, view: RunView, requested: str | None
) -> tuple[pl.DataFrame, str | None]:
    """The items with the clusters of the field `requested`, or of the field of the task; and
    the name of the field, None where there is none.

    Stores of earlier releases have documents and declaration in the files of lm-eval alone.
    """
    first = items.row(0, named=True)
    documents, declared = logged_documents(
        view.run.directory.root, first["source"], first["model"], first["task"]
    )
    field = requested or declared
    if requested is None and items["item_cluster"].is_not_null().any():
        return items, field or "item_cluster"
    if field is None:
        return items, None
    values = [field_text(documents.get(item, {}), field) for item in items["item"].to_list()]
    if requested is not None and not any(value is not None for value in values):
        known = {name for document in documents.values() for name in document}
        values = _of_prompts(items, view, requested, known)
    return items.with_columns(item_cluster=pl.Series(values, dtype=pl.String)), field


def _of_prompts(
    items: pl.DataFrame, view: RunView, field: str, known: Collection[str]
) -> list[str | None]:
    """The field of the prompt of each item's first answer that has one."""
    try:
        carried = prompt_values(view.run, field)
    except InputError:
        if not known:
            raise
        raise InputError(
            f"--cluster {field}: no document of --task {items['task'][0]} has this field; "
            f"{nearest(field, sorted(known))}",
            kind=ErrorKind.NOT_FOUND,
        ) from None
    first = (next((k for k in ids if k is not None), None) for ids in items["prompt_ids"].to_list())
    return [field_text({field: None if k is None else carried[k]}, field) for k in first]


def _run_id(requested: str | None, plans: Plans, task: str) -> str:
    """The id of the run that `requested` selects; by default of the only run."""
    if requested is not None:
        return find_run(requested, plans, f"--task {task}")
    if len(plans) > 1:
        raise InputError(
            f"--task {task} has items of {len(plans)} runs:{run_lines([*plans], plans)}\n"
            "Name one after STORE."
        )
    return next(iter(plans))


def _selected(option: str, requested: str | None, names: Sequence[str], task: str) -> str:
    """The name that `requested` selects, or the only one of `names`."""
    fitting = [name for name in names if requested in (None, name)]
    fitting = fitting or [
        n for n in names if n.startswith(requested or "") or fnmatchcase(n, requested or "")
    ]
    if not fitting:
        raise InputError(
            f"{option} {requested}: no items of {task} have it; {nearest(str(requested), names)}",
            kind=ErrorKind.NOT_FOUND,
        )
    if len(fitting) > 1:
        raise InputError(
            f"--task {task} has items of several: {', '.join(fitting)}. Choose one with {option}."
        )
    return fitting[0]


def _table(items: pl.DataFrame, view: RunView) -> tuple[pl.DataFrame, dict[str, int]]:
    answers = _answers(view)
    rows: list[dict[str, Any]] = []
    n_left_out: dict[str, int] = {}
    for item in items.iter_rows(named=True):
        row, why = _row(item, answers, view.run.n_prompts)
        if row is not None:
            rows.append(row)
        else:
            n_left_out[why] = n_left_out.get(why, 0) + 1
    return pl.DataFrame(rows, schema=EVALUATED, orient="row"), n_left_out


def _row(
    item: dict[str, Any], answers: Mapping[int, "_Answer"], n_prompts: int
) -> tuple[dict[str, Any] | None, str]:
    """A row of `EVALUATED`, or why there is none. n_prompts: of the run, that are there."""
    if item["correct"] is None:
        return None, "neither right nor wrong"
    logprobs, ids = item["log_likelihoods"], item["prompt_ids"]
    if f'"{TWICE_ASKED}"' in item["metrics"]:
        logprobs, ids = (x[: len(x) // 2] for x in (logprobs, ids))
    chosen = item["chosen"]
    if chosen is None and len(logprobs) == 1:
        chosen = 0  # the one answer that was asked about, or that the model wrote
    if chosen is None:
        return None, "no answer was chosen"
    located = [answers.get(prompt) for prompt in ids]
    answer = located[chosen]
    if answer is None and (ids[chosen] or 0) >= n_prompts:
        return None, "the prompt of its answer is in a missing or damaged shard, or behind one"
    if answer is None:
        return None, "the prompt of its answer was set aside"
    gold = None if item["gold"] is None else located[item["gold"]]
    cut = item["n_answer"]
    first_tokens = [None if a is None else a.first_token for a in located]
    if cut and cut[chosen] == 0:  # the stop string came first
        first_tokens[chosen] = None
    return {
        "item": item["item"],
        "doc_sha256": item["doc_sha256"],
        "item_group": item["item_group"],
        "item_cluster": item["item_cluster"],
        "right": item["correct"],
        "prompt_id": answer.prompt_id,
        "question": answer.question,
        "answer": answer.position,
        "length": cut[chosen] if cut and cut[chosen] is not None else answer.length,
        "chosen": chosen,
        "gold": item["gold"],
        "gold_length": None if gold is None else gold.length,
        "first_tokens": first_tokens,
        "logprobs": logprobs,
    }, ""


@dataclass(frozen=True, slots=True)
class _Answer:
    """Location of an answer and its question."""

    prompt_id: int
    """The prompt with the question; for a branch, the prompt that it branches off."""
    question: int
    position: int
    """Position that predicts the answer's first token."""
    length: int
    first_token: int | None
    """None if the answer has no token."""


def _answers(view: RunView) -> dict[int, _Answer]:
    """Prompt -> the answer that ends it; without prompts that were set aside."""
    run = view.run
    if N_CONTEXT not in run.extra_columns.names:
        raise NotFoundError(
            f"run {run.id}: its prompts do not say where an answer begins (n_context). Evaluate "
            "again: lpp-capture eval"
        )
    names = [name for name in (N_CONTEXT, N_BEFORE) if name in run.extra_columns.names]
    table = pl.DataFrame(pl.from_arrow(run.prompts(*names))).head(run.n_prompts)
    before = table[N_BEFORE].to_list() if N_BEFORE in names else [None] * len(table)
    aside, branch_of = {*view.set_aside.tolist()}, run.branch_of.tolist()
    contexts, token_ids = table[N_CONTEXT].to_list(), table["token_ids"]
    answers = {}
    for prompt, context in enumerate(contexts):
        of = branch_of[prompt] if branch_of[prompt] >= 0 else prompt
        if context is None or contexts[of] is None or {prompt, of} & aside:
            continue
        ids = token_ids[prompt]
        length = len(ids)
        if context == 0:
            raise FormatError(
                f"{run.path}: prompt {prompt} has no token before its answer. An earlier release "
                "scored such answers from another prompt, so its scores are wrong too. Evaluate "
                "again: lpp-capture eval --replace says which context of the task has no token.",
                kind=ErrorKind.CORRUPT,
            )
        if not 1 <= context <= length or not 0 <= (before[prompt] or 0) <= context:
            raise FormatError(
                f"{run.path}: prompt {prompt} has {length} tokens, an answer after {context} and a "
                f"question after {before[prompt] or 0}. "
                f"`lpp-analyze verify {run.path.parent.parent}` says what was altered.",
                kind=ErrorKind.CORRUPT,
            )
        position = contexts[of] - 1
        answers[prompt] = _Answer(
            prompt_id=of,
            question=min(before[of] or 0, position),
            position=position,
            length=length - context,
            first_token=int(ids[context]) if context < length else None,
        )
    return answers
