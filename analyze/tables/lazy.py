"""Lazy tables that compute only the rows and columns that a query needs.

Only this module uses `polars.io.plugins.register_io_source`, which upstream marks unstable. Polars
passes three things, and each saves work:

- a predicate: its conjuncts that use key columns only are applied to a small frame of keys before
  anything is read, so a filter on run, site, context or prefix decides what is computed;
- the needed columns, including those of the predicate: no others are computed;
- a number of rows, which applies before the predicate: `head(3).filter(...)` passes both.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import polars as pl
from polars.io.plugins import register_io_source

Opened = TypeVar("Opened")


@dataclass(frozen=True, kw_only=True)
class LazySource(Generic[Opened]):
    """A table that is computed on demand."""

    name: str
    """Name in a query plan."""
    schema: pl.Schema
    opened: Callable[[], Opened]
    """Opens the data that the table is computed from; called once per collect."""
    keys: Callable[[Opened], pl.DataFrame]
    """One row per row of the table, in its order; with a column `ROWS`, one per so many rows."""
    compute: Callable[[Opened, pl.DataFrame, frozenset[str]], Iterator[pl.DataFrame]]
    """Frames with the rows of some keys, with at least the given columns."""


ROWS = "__rows"
"""Key column: number of rows of the table per key."""


def scan(source: LazySource[Any]) -> pl.LazyFrame:
    """`source` as a LazyFrame. Every collect reads the store again."""

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
    """(keys of the first `n_rows` rows, number of rows to which frames must still be cut)."""
    if n_rows is None:
        return keys, None
    if ROWS not in keys.columns:
        return keys.head(n_rows), None
    before = pl.col(ROWS).cum_sum() - pl.col(ROWS)
    return keys.filter(before < n_rows), n_rows


def prune(keys: pl.DataFrame, predicate: pl.Expr) -> pl.DataFrame:
    """The keys that satisfy those conjuncts of `predicate` that use key columns only."""
    for part in conjuncts(predicate):
        roots = part.meta.root_names()
        if roots and set(roots) <= set(keys.columns):
            keys = keys.filter(part)
    return keys


def conjuncts(predicate: pl.Expr) -> list[pl.Expr]:
    """The operands of nested `&`, in any order; `[predicate]` if it is no conjunction.

    >>> [part.meta.root_names() for part in conjuncts((pl.col("a") > 1) & (pl.col("b") == 2))]
    [['b'], ['a']]
    """
    inputs = predicate.meta.pop()
    # `pop` gives operands without the operator, so combine them with `&` and compare
    if len(inputs) == 2:
        a, b = inputs
        if (b & a).meta.eq(predicate) or (a & b).meta.eq(predicate):
            return [*conjuncts(a), *conjuncts(b)]
    return [predicate]
