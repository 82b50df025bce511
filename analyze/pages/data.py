"""A page for programs: JSON of its tables, and CSV of the first of them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import polars as pl
import polars.selectors as cs

from lpp.analyze.pages.page import Page


def as_json(page: Page) -> str:
    """One object, alike for every page: `store`, `runs` (names by id), `settings` (all of
    them by the keyword of Python), `tables` (rows by the table's name) and `flags` (each flag of
    these rows, with its meaning). Numbers that are not finite are null.
    """
    document = {
        "store": page.store,
        "runs": {run: page.runs.name(run) for run in page.runs.order},
        "settings": asdict(page.settings) if is_dataclass(page.settings) else {},  # type: ignore[arg-type]
        "tables": {name: _rows(frame) for name, frame in page.data.items()},
        "flags": page.flags_of_data,
    }
    return json.dumps(document, indent=2, allow_nan=False, default=str) + "\n"


def as_csv(frame: pl.DataFrame, *, parted_by: str = " ") -> str:
    """One line per row; `parted_by` parts the members of a list."""
    lists = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.List)]
    texts = pl.col(lists).cast(pl.List(pl.String)).list.join(parted_by)
    return frame.with_columns(texts).write_csv()


def with_names(frame: pl.DataFrame, names: Mapping[str, str]) -> pl.DataFrame:
    """`frame`, which has a column `run`, with the run's name as its last column, `name`."""
    name = pl.col("run").replace_strict(names, default=None, return_dtype=pl.String)
    return frame.with_columns(name.alias("name"))


def _rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    lists = cs.by_dtype(pl.List(pl.Float64), pl.List(pl.Float32))
    finite = pl.when(pl.element().is_finite()).then(pl.element())
    return frame.with_columns(
        pl.when(cs.float().is_finite()).then(cs.float()), lists.list.eval(finite)
    ).to_dicts()
