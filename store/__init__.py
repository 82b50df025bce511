"""The store: its format on disk, written in whole shards and read in blocks.

SPEC.md beside this file is the authority. Names load on first use, so that importing
`lpp.store.errors` costs no zarr and no pyarrow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if __name__ != "lpp.store":
    raise ImportError(f"import this package as lpp.store, not as {__name__}")

if TYPE_CHECKING:
    from lpp.store.committed.compare import Problem as Problem
    from lpp.store.format.plan import Plan as Plan
    from lpp.store.root import write_index as write_index
    from lpp.store.row_sink import RowSink as RowSink
    from lpp.store.row_sink import sink as sink
    from lpp.store.runs.read import Block as Block
    from lpp.store.runs.read import Run as Run
    from lpp.store.runs.shards import Shard as Shard
    from lpp.store.runs.write import RunWriter as RunWriter
    from lpp.store.scores.scores import add_scores as add_scores
    from lpp.store.scores.scores import read_scores as read_scores
    from lpp.store.scores.scores import remove_scores as remove_scores
    from lpp.store.shared.authors import trusting_kept as trusting_kept
    from lpp.store.shared.logits import Head as Head
    from lpp.store.store import Store as Store
    from lpp.store.store import create_store as create_store
    from lpp.store.store import open_store as open_store

_HOME = {
    "Block": "runs.read",
    "Head": "shared.heads",
    "Plan": "format.plan",
    "Problem": "committed.compare",
    "RowSink": "row_sink",
    "Run": "runs.read",
    "RunWriter": "runs.write",
    "Shard": "runs.shards",
    "Store": "store",
    "add_scores": "scores.scores",
    "create_store": "store",
    "open_store": "store",
    "read_scores": "scores.scores",
    "remove_scores": "scores.scores",
    "sink": "row_sink",
    "trusting_kept": "shared.authors",
    "write_index": "root",
}
__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"lpp.store.{_HOME[name]}"), name)
    raise AttributeError(f"module 'lpp.store' has no attribute {name!r}")
