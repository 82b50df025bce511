"""What a database says of its store, whatever is profiled; brought up to date by every build."""

import polars as pl
import pyarrow as pa

from lpp.analyze.benchmarks.benchmarks import benchmarks_table
from lpp.analyze.benchmarks.published import published_table
from lpp.analyze.runs.keys import RunView, views
from lpp.analyze.tables.run_rows import prompt_rows, run_row
from lpp.sql import TABLES, build
from lpp.sql.database.catalogue import outdated_tables
from lpp.sql.schema import arrow_schema
from lpp.store.format.keys import DATABASE_KEY
from lpp.store.objects.locate import objects_at
from lpp.store.objects.place import Place


def store_tables(root: Place) -> dict[str, pa.Table]:
    """The tables `runs`, `prompts`, `benchmarks` and `published` of the store at `root`.

    They are of every run, so that whatever the last command chose, rows of each table that speak
    of a run join with it, and a score fits the same run that `benchmarks add` named.
    """
    every = list(views(root))
    frames = {
        "runs": _concatenated("runs", [_run_frame(view) for view in every]),
        "prompts": _concatenated("prompts", [prompt_rows(view) for view in every]),
    }
    tables = {name: frame.to_arrow().cast(arrow_schema(name)) for name, frame in frames.items()}
    scores = {"benchmarks": benchmarks_table(root), "published": published_table()}
    return tables | scores


def _run_frame(view: RunView) -> pl.DataFrame:
    return pl.DataFrame([run_row(view)], schema=_schema("runs"))


def _concatenated(table: str, frames: list[pl.DataFrame]) -> pl.DataFrame:
    schema = _schema(table)
    return pl.concat([pl.DataFrame(schema=schema), *(f.cast(schema) for f in frames)])


def _schema(table: str) -> pl.Schema:
    return pl.DataFrame(pl.from_arrow(arrow_schema(table).empty_table())).schema


def refresh_database(root: Place, correlations: pl.DataFrame | None = None) -> bool:
    """Bring runs and scores in the database of the store at `root` up to date, if there is one.

    correlations: the new ones; without, there are none: those of other scores would be stale.
    False where nothing was done: no database, or one of another release, which
    `lpp-analyze profile` builds again with its scores.
    """
    if not objects_at(root).exists(DATABASE_KEY) or outdated_tables(root):
        return False
    tables = store_tables(root)
    if correlations is not None:
        schema = arrow_schema("correlations")
        found = correlations.select(schema.names).to_arrow().cast(schema)
        tables = {**tables, "correlations": found}
    keep = [name for name in TABLES if name not in (*tables, "correlations")]
    build(root, tables, keep=keep)
    return True
