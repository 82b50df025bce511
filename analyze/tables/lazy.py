"""Lazy tables whose filters and choice of columns reach the computation.

The one place that touches `polars.io.plugins.register_io_source`, which upstream marks unstable.
Polars hands down three things, and each saves work:

- a predicate: its conjuncts on key columns alone run over a small frame of keys before anything
  is read, so a filter on run, site, context or prefix decides what is computed;
- the wanted columns (those of the predicate included): nothing else is computed;
- a number of rows, which counts before the predicate: `head(3).filter(...)` arrives as both.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import polars as pl
from polars.io.plugins import register_io_source

Opened = TypeVar("Opened")


@dataclass(frozen=True, kw_only=True)
class Source(Generic[Opened]):
    """A table that is computed on demand."""

    name: str
    """What a query plan calls it."""
    schema: pl.Schema
    opened: Callable[[], Opened]
    """What the table is of, as it lies there now; once for each collect."""
    keys: Callable[[Opened], pl.DataFrame]
    """One row per row of the table, or, with a column `ROWS`, per that many; in table order."""
    compute: Callable[[Opened, pl.DataFrame, frozenset[str]], Iterator[pl.DataFrame]]
    """Rows for the keys given, with at least the columns named, a frame at a time."""


ROWS = "__rows"
"""Key column: how many rows of the table one key stands for."""


def scan(source: Source[Any]) -> pl.LazyFrame:
    """`source` as a LazyFrame. Every collect computes anew from what is then on disk."""

    def frames(
        columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _batch: int | None
    ) -> Iterator[pl.DataFrame]:
        wanted = columns if columns is not None else source.schema.names()
        roots = predicate.meta.root_names() if predicate is not None else []
        opened = source.opened()
        keys, left = _head(source.keys(opened), n_rows)
        if predicate is not None and left is None:
            keys = prune(keys, predicate)
        empty = True
        for whole in source.compute(opened, keys, frozenset([*wanted, *roots])):
            frame = whole if left is None else whole.head(left)
            left = None if left is None else left - len(frame)
            if predicate is not None:
                frame = frame.filter(predicate)
            yield frame.select(wanted)
            empty = False
            if left == 0:
                return
        if empty:
            yield pl.DataFrame(schema=source.schema).select(wanted)

    return register_io_source(frames, schema=source.schema, explain_name=source.name)


def _head(keys: pl.DataFrame, n_rows: int | None) -> tuple[pl.DataFrame, int | None]:
    """Keys of the first `n_rows` rows, and how many rows are still to be counted off."""
    if n_rows is None:
        return keys, None
    if ROWS not in keys.columns:
        return keys.head(n_rows), None
    before = pl.col(ROWS).cum_sum() - pl.col(ROWS)
    return keys.filter(before < n_rows), n_rows


def prune(keys: pl.DataFrame, predicate: pl.Expr) -> pl.DataFrame:
    """The keys that can satisfy `predicate`: its conjuncts on key columns alone are applied."""
    for part in conjuncts(predicate):
        roots = part.meta.root_names()
        if roots and set(roots) <= set(keys.columns):
            keys = keys.filter(part)
    return keys


def conjuncts(predicate: pl.Expr) -> list[pl.Expr]:
    """The operands of nested `&`, in no particular order; `[predicate]` when it is none.

    >>> [part.meta.root_names() for part in conjuncts((pl.col("a") > 1) & (pl.col("b") == 2))]
    [['b'], ['a']]
    """
    inputs = predicate.meta.pop()
    # `pop` gives the operands without the operator: putting them together again tells.
    if len(inputs) == 2:
        a, b = inputs
        if (b & a).meta.eq(predicate) or (a & b).meta.eq(predicate):
            return [*conjuncts(a), *conjuncts(b)]
    return [predicate]
