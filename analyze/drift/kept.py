"""Stored results of earlier comparisons, under `analysis/` of the store of run A.

    analysis/<run A>/drift-<pair>/<site>/values-<checksum>.arrow
    analysis/<run A>/drift-<pair>/logits-<setting>/tokens-<checksum>.arrow

The files are those of `store.shared.kept_files`. A pair is identified by both runs as they are now:
their ids, their committed shards, and the compared prompts. The stores' paths are not part of it.
New shards of either run lead to another folder.

- Sites: a row for each number of a cell that needs the rows of both runs, and one for each part of
  the cell that leaves a group of prompts out. Under 3 KB a site. What needs the rows of one run is
  kept for that run (`engine.cache`).
- Tokens: the columns that need every logit, a value for each compared token in order: 34 bytes a
  token. Their setting is both heads, the library that multiplies, the rows of a tile, and the draw:
  these decide every bit. Other columns of a token come from the token tables of the runs.

Each row has the version of the arithmetic that computed it; rows of other versions are ignored.
"""

from collections.abc import Collection
from typing import Final

import polars as pl

from lpp.analyze.drift.pair import Pair
from lpp.analyze.engine.cache import ARE_CELLS, VALUES, cell_of, cell_row
from lpp.analyze.engine.row_values import Values
from lpp.analyze.logits.divergences import DIVERGENCES, TIES, Columns

VERSION: Final = 1
"""Version of the arithmetic of drift. Raise it when a change could alter a stored digit."""

_TOKENS: Final = pl.Schema(
    {
        "version": pl.Int32,
        **dict.fromkeys((*DIVERGENCES, "top10"), pl.Float64),
        **dict.fromkeys(("flip", *TIES), pl.Boolean),
    }
)
"""A row for each token; null in columns that were not requested."""


class KeptDrift:
    """The stored numbers of a pair."""

    def __init__(self, pair: Pair) -> None:
        self._files = pair.kept_files
        self.folder = self._files.folder

    def values(self, site: str) -> Values:
        """Stored numbers of `site`. A damaged or foreign file is ignored, with a log line."""
        rows = self._files.rows(site, "values", VALUES).filter(ARE_CELLS, version=VERSION)
        rows = rows.drop_nulls()
        return {(cell_of(row), row["metric"]): row["value"] for row in rows.iter_rows(named=True)}

    def keep_values(self, site: str, values: Values) -> None:
        """Add `values` to the stored numbers of `site`. If the store cannot be written, one log
        line says so.
        """
        rows = [
            (*cell_row(cell), VERSION, name, values[cell, name]) for cell, name in sorted(values)
        ]
        self._files.add(site, "values", pl.DataFrame(rows, schema=VALUES, orient="row"))

    def columns(self, setting: str, names: Collection[str], n_tokens: int) -> Columns:
        """The stored columns of a setting, of those in `names`: (n,) each."""
        columns: Columns = {}
        for frame in self._files.frames(f"logits-{setting}", "tokens", _TOKENS):
            if len(frame) == n_tokens and frame["version"].eq_missing(VERSION).all():
                columns |= {
                    name: frame[name].to_numpy()
                    for name in names
                    if name not in columns and not frame[name].null_count()
                }
        return columns

    def keep_columns(self, setting: str, columns: Columns) -> None:
        """Store columns of every token of a setting."""
        n_tokens = len(next(iter(columns.values())))
        frame = pl.DataFrame(
            [
                pl.Series(name, columns[name] if name in columns else [None] * n_tokens, dtype=kind)
                for name, kind in _TOKENS.items()
                if name != "version"
            ]
        ).select(pl.lit(VERSION, dtype=pl.Int32).alias("version"), pl.all())
        self._files.put(f"logits-{setting}", "tokens", frame)
