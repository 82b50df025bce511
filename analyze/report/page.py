"""What pages of one analysis share: answers from its tables alone, shown without a database."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import polars as pl

from lpp.analyze.report.answers import Answer, answer, empty_tables
from lpp.analyze.report.queries import Query
from lpp.analyze.tables.database import as_tables


def answers_of(tables: Mapping[str, pl.DataFrame], queries: Iterable[Query]) -> dict[str, Answer]:
    """What the report asks its database, of these tables alone; by the name of the query."""
    with empty_tables() as connection:
        for name, rows in as_tables(tables).items():
            connection.register("incoming", rows)
            connection.execute(f"INSERT INTO {name} FROM incoming")
            connection.unregister("incoming")
        return {query.name: answer(connection, query) for query in queries}


def without(one: Answer, same: Iterable[str], python: str) -> Answer:
    """An answer without the columns `same`, which are equal in every row of the page, and with the
    Python that gives its rows in place of its SQL.
    """
    key = tuple(name for name in one.query.key if name not in same)
    return Answer(
        replace(one.query, key=key, sql=python, language="Python"),
        one.frame.drop(same, strict=False),
    )
