"""Rows of the tables about the store: `runs`, `prompts` and `evaluations`."""

from collections.abc import Mapping, Sequence

import polars as pl

from lpp.analyze.engine.cache import KERNEL_VERSION
from lpp.analyze.runs.keys import RunView
from lpp.sql.database import captured
from lpp.sql.schema.evaluations import EVALUATION_KEY
from lpp.store.format.commit_record import checksum
from lpp.store.format.tables import encode_table
from lpp.store.objects.place import Place
from lpp.store.scores.items import ITEMS_SCHEMA, read_items


def run_row(view: RunView) -> dict[str, object]:
    """The row of one run in the table `runs`."""
    return captured.run_row(view.run, str(KERNEL_VERSION))


def prompts_frame(views: Sequence[RunView]) -> pl.DataFrame:
    """The prompts table of some runs."""
    return captured.prompts_frame([view.run for view in views])


def evaluation_rows(root: Place) -> list[dict[str, object]]:
    """The rows of the table `evaluations` of the store at `root`, sorted by its key.

    Raises FormatError for damaged items: without them, analyses of items would count as outdated.
    """
    items = pl.DataFrame(pl.from_arrow(read_items(root)))
    named = items.drop_nulls("run").unique(EVALUATION_KEY, keep="first", maintain_order=True)
    return [
        _evaluation(items, name)
        for name in named.sort(EVALUATION_KEY)
        .select(*EVALUATION_KEY, "model")
        .iter_rows(named=True)
    ]


def _evaluation(items: pl.DataFrame, name: Mapping[str, str]) -> dict[str, object]:
    """The row of one evaluation. Its items that were set aside name no run."""
    of_run = (pl.col("run") == name["run"]) | pl.col("run").is_null()
    others = {column: value for column, value in name.items() if column != "run"}
    of_evaluation = items.filter(of_run, **others).sort("item")
    right = of_evaluation["correct"].drop_nulls()
    return {
        **name,
        "n_items": len(of_evaluation),
        "n_right": right.sum(),
        "n_wrong": len(right) - right.sum(),
        "items": checksum(encode_table(of_evaluation.to_arrow().cast(ITEMS_SCHEMA)))[:16],
    }
