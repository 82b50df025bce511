"""Scores and correlations into a database that is there already, its other tables kept."""

from pathlib import Path

import polars as pl
import pyarrow as pa

from lpp.analyze.benchmarks import benchmarks_table
from lpp.analyze.published import published_table
from lpp.sql import TABLES, build, connect
from lpp.sql.current import outdated_tables
from lpp.sql.schema import arrow_schema
from lpp.store.keys import DATABASE_KEY


def scored_tables(root: Path, runs: pl.DataFrame) -> dict[str, pa.Table]:
    """The tables that scores make, whatever is profiled: `benchmarks` and `published`."""
    return {"benchmarks": benchmarks_table(root, runs), "published": published_table()}


def refresh_database(root: Path, correlations: pl.DataFrame | None = None) -> bool:
    """Bring the scores in the database of the store at `root` up to date, if there is one.

    correlations: the new ones; without, there are none: those of other scores would be stale.
    False where nothing was done: no database, or one of another release, which
    `lpp-analyze profile` builds again with its scores.
    """
    if not (root / DATABASE_KEY).is_file() or outdated_tables(root):
        return False
    with connect(root, token_stats=False) as connection:
        runs = connection.sql("SELECT run, model, untrained_seed FROM runs").to_arrow_table()
    tables = scored_tables(root, pl.DataFrame(runs))
    if correlations is not None:
        schema = arrow_schema("correlations")
        found = correlations.select(schema.names).to_arrow().cast(schema)
        tables = {**tables, "correlations": found}
    keep = [name for name in TABLES if name not in (*tables, "correlations")]
    build(root, tables, keep=keep)
    return True
