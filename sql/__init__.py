"""The profile database: declared tables, building it, connecting to it, `lpp-sql`.

It takes finished Arrow tables and is independent of how they were computed.
"""

if __name__ != "lpp.sql":
    raise ImportError(
        f"import this package as lpp.sql, not as {__name__}: two copies would not share types"
    )

from lpp.sql.database.build import build
from lpp.sql.database.connect import connect
from lpp.sql.queries.saved import Query, saved_queries, saved_query
from lpp.sql.schema import TABLES, TOKEN_STATS, VOCABULARY, Column, Table, arrow_schema

__all__ = [
    "TABLES",
    "TOKEN_STATS",
    "VOCABULARY",
    "Column",
    "Query",
    "Table",
    "arrow_schema",
    "build",
    "connect",
    "saved_queries",
    "saved_query",
]
