"""Tables of one command put into the database of a store, beside those of the others."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from lpp.analyze.keys import RunView, Url
from lpp.analyze.run_rows import run_row
from lpp.analyze.scored import scored_tables
from lpp.sql import build
from lpp.sql.schema import TABLES, arrow_schema
from lpp.store import open_store
from lpp.store.keys import DATABASE_KEY

if TYPE_CHECKING:
    import pyarrow as pa


def frame_schema(table: str) -> pl.Schema:
    """The declared columns of `table`, as a frame has them."""
    return pl.DataFrame(pl.from_arrow(arrow_schema(table).empty_table())).schema


def put(url: Url, frames: Mapping[str, pl.DataFrame], views: Iterable[RunView]) -> Path:
    """Replace the tables in `frames`, keep the rows of every other; return the database's path.

    views: runs that the tables speak of. A store without a database gets their `runs` as well, so
    that there is something to join, and its benchmark scores.
    """
    root = open_store(url).path
    wanted = dict(frames)
    tables: dict[str, pa.Table] = {}
    if not (root / DATABASE_KEY).exists():
        rows = [run_row(view) for view in views]
        wanted["runs"] = pl.DataFrame(rows, infer_schema_length=None)
        tables |= scored_tables(root, wanted["runs"])
    tables |= {
        name: frame.select([column.name for column in TABLES[name].columns])
        .to_arrow()
        .cast(arrow_schema(name))
        for name, frame in wanted.items()
    }
    return build(root, tables, keep=TABLES)
