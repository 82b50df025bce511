"""Tables made of quantities, and frames made of tables.

A table is declared once, beside the code that computes its numbers: `lpp.sql.schema.Table`. Its
columns of numbers are made from their quantities, and the frames of that code from the table.
"""

from collections.abc import Collection, Iterable
from typing import Any, Final

import polars as pl

from lpp.analyze.quantities.quantity import Quantity
from lpp.sql.schema.columns import (
    CONTEXT,
    FIRST_POSITION,
    N_PROMPTS,
    N_QUARANTINED,
    PREFIX,
    PROMPT_ID,
    RUN,
    SITE,
    Column,
    ColumnPart,
    SqlType,
    number_columns,
)
from lpp.sql.schema.tables import arrow_columns

_SHARED: Final = {
    column.name: column
    for column in (
        *(RUN, SITE, CONTEXT, PREFIX, N_PROMPTS, FIRST_POSITION, PROMPT_ID, N_QUARANTINED),
        Column("run_a", "VARCHAR", "id of the first run, the base"),
        Column("run_b", "VARCHAR", "id of the second run"),
        Column("model", "VARCHAR", "hub id, folder or file of the model"),
        Column("corpus", "VARCHAR", "source of the prompts"),
        Column("prompt_set", "VARCHAR", "equal if runs read the same first n_prompts texts"),
        Column("n_duplicates", "INTEGER", "prompts with the token ids of another", "prompts"),
        Column(
            "depth",
            "INTEGER",
            "0 at embed, k at block.k, B at final; sites of another program: their order, from 1",
            "blocks",
        ),
        Column("n_tokens", "BIGINT", "N: rows in the covariance", "tokens"),
        Column("rank_bound", "INTEGER", "min(N, d)", "dimensions"),
        Column("cluster", "VARCHAR", "field by which errors cluster prompts; null: none"),
        Column("flags", "VARCHAR[]", "why a number may mislead; empty when none"),
    )
}

ADDED: Final = ("flags", "cluster")
"""Columns of tables that lazy frames lack."""

BESIDE: Final = ("context", "n_prompts")
"""Rows of different runs are compared if these columns are equal."""


def shared(names: str) -> tuple[Column, ...]:
    """Columns that several tables have, by their names with spaces between.

    >>> [column.type for column in shared("run context")]
    ['VARCHAR', 'INTEGER']
    """
    return tuple(_SHARED[name] for name in names.split())


def columns_of(
    quantity: Quantity,
    parts: Collection[ColumnPart] = (),
    *,
    meaning: str = "",
    type: SqlType = "DOUBLE",  # noqa: A002
) -> tuple[Column, ...]:
    """The column of `quantity`, and those of its `parts`. meaning: if not its definition."""
    words = meaning or quantity.meaning
    return number_columns(quantity.name, words, quantity.unit, parts, type=type)


def estimated(name: str, value: float, ends: tuple[float, float] | None) -> dict[str, Any]:
    """The values of the columns of a number and its interval; null without one.

    >>> estimated("cka", 0.85, (0.8, 0.9))
    {'cka': 0.85, 'cka_ci_low': 0.8, 'cka_ci_high': 0.9}
    """
    low, high = ends or (None, None)
    return {name: value, f"{name}_ci_low": low, f"{name}_ci_high": high}


def frame_schema(columns: Iterable[Column], *, without: Collection[str] = ()) -> pl.Schema:
    """`columns`, such as those of a table, as a Polars schema. without: columns to leave out."""
    return pl.Schema(arrow_columns(c for c in columns if c.name not in without))
