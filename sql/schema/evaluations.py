"""Evaluated tasks of the store."""

from typing import Final

from lpp.sql.schema.columns import RUN, Column, Table

EVALUATION: Final = (
    Column("source", "VARCHAR", "as in the view items"),
    Column("task", "VARCHAR", "task of lm-eval"),
    RUN,
    Column("filter", "VARCHAR", "filter applied to the answers before scoring"),
)
EVALUATION_KEY: Final = tuple(column.name for column in EVALUATION)

EVALUATIONS: Final = Table(
    "evaluations",
    "evaluated task of a run whose items the store has",
    "lpp-capture eval --tasks TASK --store STORE",
    EVALUATION_KEY,
    (
        *EVALUATION,
        Column("model", "VARCHAR", "as in the view items"),
        Column("n_items", "INTEGER", "items of the task, scored or not", "items"),
        Column("n_right", "INTEGER", "items that were answered correctly", "items"),
        Column("n_wrong", "INTEGER", "items that were answered wrongly", "items"),
        Column("items", "VARCHAR", "fingerprint of the items and their scores"),
    ),
)
