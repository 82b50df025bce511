"""Results of saved queries."""

from pathlib import Path
from typing import Any

import polars as pl

from lpp.sql import connect, saved_query


def answer(store: Path, name: str) -> list[dict[str, Any]]:
    """Rows of the saved query `name` on a store."""
    with connect(store) as connection:
        return pl.DataFrame(connection.sql(saved_query(name).text).to_arrow_table()).to_dicts()


def digits(value: float | None, count: int = 4) -> float | None:
    """`value` to `count` significant digits, as the queries round it."""
    return None if value is None else float(f"{value:.{count}g}")
