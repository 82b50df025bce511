"""The declared tables of `profiles.duckdb`: one source for DDL, comments, checks and reference."""

from lpp.sql.schema.captured import TOKEN_STATS, VOCABULARY
from lpp.sql.schema.columns import Column, SqlType, Table
from lpp.sql.schema.tables import EVERY, NUMBERS, TABLES, VIEWS, arrow_schema, reference

__all__ = [
    "EVERY",
    "NUMBERS",
    "TABLES",
    "TOKEN_STATS",
    "VIEWS",
    "VOCABULARY",
    "Column",
    "SqlType",
    "Table",
    "arrow_schema",
    "reference",
]
