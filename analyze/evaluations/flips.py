"""Two runs of one task: which items are right in one run and wrong in the other."""

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa

from lpp.analyze.evaluations.evaluated import EvaluatedItems, evaluated_items
from lpp.analyze.evaluations.features import answer_gap, answer_share
from lpp.analyze.evaluations.tables import CHANGES, GAINED, ITEM_FLIPS, LOST, MOVED
from lpp.analyze.numerics.statistics.clusters import cluster_codes
from lpp.analyze.numerics.statistics.paired import paired_difference
from lpp.analyze.quantities.tables import estimated
from lpp.analyze.questions import ItemsSettings
from lpp.analyze.runs.keys import RunView, Url
from lpp.analyze.runs.named import store_and_run
from lpp.analyze.runs.words import Words
from lpp.store.errors import ErrorKind, InputError, LppError
from lpp.store.objects.place import absolute
from lpp.store.scores.items import read_items

TEXT_TOKENS: Final = 60
"""Number of a question's last tokens that are shown."""

FLIPPED: Final = pl.Schema(
    {
        "item": pl.Int32(),
        "item_group": pl.String(),
        "item_cluster": pl.String(),
        "change": pl.String(),
        "right_a": pl.Boolean(),
        "right_b": pl.Boolean(),
        "gold": pl.Int32(),
        "chosen_a": pl.Int32(),
        "chosen_b": pl.Int32(),
        "gap_a": pl.Float64(),
        "share_a": pl.Float64(),
        "share_b": pl.Float64(),
        "logprobs_a": pl.List(pl.Float64()),
        "logprobs_b": pl.List(pl.Float64()),
    }
)
"""One row for each item that is right or wrong in both runs, in order. change: one of `CHANGES`;
null if the answer is right or wrong as before and, among several, the same. gap_a: ln p of the most
likely answer minus that of the second in run A, in nats. share_: probability of the chosen answer
among the answers, in each run; null for a single answer. logprobs_: ln p of each answer, nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flips:
    """One task as two runs answered it."""

    settings: ItemsSettings
    """Those that ask the same again: of A, and the source that was named for both."""
    a: EvaluatedItems
    """Its clusters, or those of `b` where it has none, are those of the items."""
    b: EvaluatedItems
    table: pl.DataFrame
    """(n,) `FLIPPED`."""


def flips(
    store: Url,
    task: str,
    a: str,
    b: str,
    settings: ItemsSettings = ItemsSettings(),
) -> Flips:
    """The items of `task` in run `a` beside those in run `b`.

    a, b: run ids or names, their beginnings, or patterns; `STORE::RUN` for another store.
    settings: as in `evaluated_items`, for both runs.

    Raises InputError for a run against itself, for runs that share no item, and if items with the
    same number have different documents or filters; and what `evaluated_items` raises.
    """
    of_a, of_b = (
        evaluated_items(url, task, name, settings)
        for url, name in (store_and_run(store, name) for name in (a, b))
    )
    return compared(of_a, of_b, source=settings.source)


def flip_tables(flips: Flips) -> dict[str, pl.DataFrame]:
    """Tables `item_flips`, one row, and `item_changes`."""
    return {
        "item_flips": pl.DataFrame([flip_row(flips)], schema=ITEM_FLIPS),
        "item_changes": changed_items(flips),
    }


def flip_row(flips: Flips) -> dict[str, Any]:
    """A row of `ITEM_FLIPS`, without what an analysis of features adds."""
    right_a, right_b = (flips.table[name].to_numpy() for name in ("right_a", "right_b"))
    values, clusters = flips.table["item_cluster"].to_list(), None
    if flips.settings.cluster is not None:
        clusters = cluster_codes(values)
    accuracy = paired_difference(right_a, right_b, clusters)
    row: dict[str, Any] = {
        "task": flips.a.task,
        "filter": flips.settings.filter,
        "n_items": accuracy.n,
        "cluster": flips.settings.cluster,
        "n_clusters": 0 if clusters is None else int(clusters.max()) + 1,
        "right_in_both": int((right_a & right_b).sum()),
        "right_to_wrong": int((right_a & ~right_b).sum()),
        "wrong_to_right": int((~right_a & right_b).sum()),
        "wrong_in_both": int((~right_a & ~right_b).sum()),
        "other_wrong_answer": flips.table.filter(change=MOVED).height,
        "accuracy_a": accuracy.first,
        "accuracy_b": accuracy.second,
        **estimated("difference", accuracy.difference, accuracy.interval),
        "mcnemar_p": accuracy.p_value,
        "left_out": [],
    }
    for letter, side in (("a", flips.a), ("b", flips.b)):
        n_alone = len(side.table) - accuracy.n
        row |= {
            f"run_{letter}": side.view.run.id,
            f"source_{letter}": side.settings.source,
            f"model_{letter}": side.model,
            f"n_left_out_{letter}": sum(side.left_out.values()),
            f"n_alone_{letter}": n_alone,
        }
        name = letter.upper()
        for why, count in side.left_out.items():
            row["left_out"].append(f"{count:,} items of {name} are left out: {why}.")
        if n_alone:
            row["left_out"].append(f"{n_alone:,} items are in {name} alone.")
    return row


def changed_items(flips: Flips) -> pl.DataFrame:
    """Items whose answer changed, in the order of `CHANGES`; within each the largest `gap_a` first.

    Columns `FLIPPED`, and `text`: the end of the question as run A read it; null if the store has
    no vocabulary of the run's tokenizer.
    """
    rank = pl.col("change").replace_strict(list(CHANGES), range(len(CHANGES)))
    rows = flips.table.filter(pl.col("change").is_not_null()).sort(
        rank, "gap_a", "item", descending=[False, True, False], nulls_last=True
    )
    return rows.with_columns(pl.Series("text", _texts(flips.a, rows["item"]), dtype=pl.String))


def flips_of_runs(a: RunView, b: RunView) -> list[dict[str, pl.DataFrame] | str]:
    """`flip_tables` of every task that both runs were asked, by name; empty if there is none.

    A task that cannot be read or compared gives a line with the reason: this is no error in a
    comparison of tokens.
    """
    if a.run.path == b.run.path:
        return []
    try:
        roots = {view: absolute(view.run.directory.root) for view in (a, b)}
        items = {root: read_items(root) for root in {*roots.values()}}
        of_a, of_b = (_tasks(items[root], view) for view, root in roots.items())
        tasks = sorted(of_a & of_b)
    except LppError as error:
        return [str(error)]
    results: list[dict[str, pl.DataFrame] | str] = []
    for task in tasks:
        try:
            both = [evaluated_items(view.run.directory.root, task, view.run.id) for view in (a, b)]
            results.append(flip_tables(compared(both[0], both[1])))
        except LppError as error:
            results.append(str(error))
    return results


def compared(a: EvaluatedItems, b: EvaluatedItems, source: str | None = None) -> Flips:
    """The items of `a` beside those of `b`. source: that was named for both. Raises what `flips`
    raises.
    """
    if a.view.run.path == b.view.run.path:
        raise InputError(
            f"{a.view.run.id} against itself: no item flips. Name two runs that were asked "
            f"{a.task}."
        )
    where = f"{a.task} in {a.view.run.id} (A) and {b.view.run.id} (B)"
    ours, theirs = a.settings, b.settings
    if ours.filter != theirs.filter:
        raise InputError(
            f"{where} was scored after two filters: {ours.filter} in A, {theirs.filter} in B. "
            "Evaluate both with one version of the task."
        )
    if ours.cluster is None and theirs.cluster is not None:
        of_b = b.table.select("item", "item_cluster")
        table = a.table.drop("item_cluster").join(of_b, "item", "left", maintain_order="left")
        ours = replace(ours, cluster=theirs.cluster)
        a = replace(a, settings=ours, table=table.select(a.table.columns))
    both = a.table.join(b.table, on="item", suffix="_b", maintain_order="left")
    if both.is_empty():
        raise InputError(
            f"{where} have no item in common. Evaluate both with the same --limit.",
            kind=ErrorKind.INCOMPLETE,
        )
    other = both.filter(pl.col("doc_sha256") != pl.col("doc_sha256_b"))["item"].to_list()
    if other:
        few = ", ".join(map(str, other[:3])) + (", ..." if len(other) > 3 else "")
        raise InputError(
            f"{where}: of {len(both)} items with the same number {len(other)} are of other "
            f"documents ({few}; sources {ours.source} and {theirs.source}). Evaluate both with one "
            "version of the task."
        )
    return Flips(settings=replace(ours, source=source), a=a, b=b, table=_table(both))


def _table(both: pl.DataFrame) -> pl.DataFrame:
    """`FLIPPED` of items with columns of A, and of B with the suffix _b."""
    right_a, right_b = pl.col("right"), pl.col("right_b")
    moved = ~right_a & ~right_b & (pl.col("chosen") != pl.col("chosen_b"))
    change = (
        pl.when(right_a & ~right_b)
        .then(pl.lit(LOST))
        .when(~right_a & right_b)
        .then(pl.lit(GAINED))
        .when(moved)
        .then(pl.lit(MOVED))
    )
    of_a, of_b = (
        [np.array(p, dtype=np.float64) for p in both[name].to_list()]
        for name in ("logprobs", "logprobs_b")
    )
    names = {"right": "right_a", "chosen": "chosen_a", "logprobs": "logprobs_a"}
    return (
        both.with_columns(
            pl.Series("gap_a", [answer_gap(p) for p in of_a], dtype=pl.Float64),
            pl.Series("share_a", [answer_share(p) for p in of_a], dtype=pl.Float64),
            pl.Series("share_b", [answer_share(p) for p in of_b], dtype=pl.Float64),
            change=change,
        )
        .rename(names)
        .select(FLIPPED.names())
        .with_columns(pl.col("gap_a", "share_a", "share_b").fill_nan(None))
        .cast(FLIPPED)
    )


def _texts(evaluated: EvaluatedItems, items: pl.Series) -> list[str | None]:
    """The text of the last tokens of the question of each of `items`."""
    vocabulary = evaluated.view.run.vocabulary()
    if vocabulary is None or items.is_empty():
        return [None] * len(items)
    words, ids = Words(vocabulary), evaluated.view.prompts["token_ids"]
    spans = pl.DataFrame({"item": items}).join(
        evaluated.table.select("item", "prompt_id", "question", "answer"),
        on="item",
        maintain_order="left",
    )
    return [
        words.text(ids[prompt][first : answer + 1].to_list()[-TEXT_TOKENS:])
        for _, prompt, first, answer in spans.iter_rows()
    ]


def _tasks(items: pa.Table, view: RunView) -> set[str]:
    """Tasks of the run's items, among those of its store."""
    return set(pl.DataFrame(pl.from_arrow(items)).filter(run=view.run.id)["task"])
