"""Two items of an evaluation, without a run."""

from pathlib import Path

import pyarrow as pa

from lpp.store import add_scores
from lpp.store.format.tables import ITEMS_SCHEMA, SCORES_SCHEMA
from lpp.store.scores.items import items_file


def add_items(root: Path) -> None:
    score = {"model": "m", "benchmark": "t", "metric": "acc", "value": 0.5, "source": "s"}
    table = pa.Table.from_pylist([{**score, "kind": "lm-eval"}], schema=SCORES_SCHEMA)
    rows = [
        {
            **{"source": "s", "model": "m", "run": None, "task": "t", "item": item},
            **{"filter": "none", "item_group": None, "prompt_ids": [2 * item, None]},
            **{"log_likelihoods": [-1.0, float("-inf")], "greedy": [False, True]},
            **{"gold": 0, "chosen": item, "correct": item == 0, "metrics": '{"acc": 0.25}'},
            "doc_sha256": "",
        }
        for item in range(2)
    ]
    items = items_file(pa.Table.from_pylist(rows, schema=ITEMS_SCHEMA))
    add_scores(root, "s", table, {"m/items.arrow": items})
