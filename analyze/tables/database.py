"""Tables of one command put into the database of a store, beside those of the others."""

from collections.abc import Mapping

import polars as pl

from lpp.analyze.runs.keys import Url
from lpp.analyze.tables.scored import store_tables
from lpp.sql import build
from lpp.sql.schema import TABLES, arrow_schema
from lpp.store import open_store
from lpp.store.objects.place import Place


def frame_schema(table: str) -> pl.Schema:
    """The declared columns of `table`, as a frame has them."""
    return pl.DataFrame(pl.from_arrow(arrow_schema(table).empty_table())).schema


def put(url: Url, frames: Mapping[str, pl.DataFrame]) -> Place:
    """Replace the tables in `frames`, keep the rows of every other; return the database's path.

    Runs, prompts and scores are those of the store as it is now.
    """
    root = open_store(url).path
    tables = {
        name: frame.select(arrow_schema(name).names).to_arrow().cast(arrow_schema(name))
        for name, frame in frames.items()
    }
    return build(root, store_tables(root) | tables, keep=TABLES)
