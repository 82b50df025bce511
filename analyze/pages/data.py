"""A page for programs: JSON, and CSV of its main table."""

import json
from typing import Any

import polars as pl


def as_json(document: Any) -> str:
    """A document, or a frame as a list of objects, one per row."""
    rows = document.to_dicts() if isinstance(document, pl.DataFrame) else document
    return json.dumps(rows, indent=2, allow_nan=False) + "\n"


def as_csv(frame: pl.DataFrame, *, parted_by: str = " ") -> str:
    """One line per row; `parted_by` parts the members of a list."""
    lists = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.List)]
    texts = pl.col(lists).cast(pl.List(pl.String)).list.join(parted_by)
    return frame.with_columns(texts).write_csv()
