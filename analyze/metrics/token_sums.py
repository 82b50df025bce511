"""Token metrics from sums, so that memory does not grow with the number of tokens.

A metric says which sums it is made of, `RowSums` or `LeastMeans`; one collector keeps the sums of
all cells while the shards of a run go by. A metric that says nothing is given every row.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import polars as pl

from lpp.analyze.metrics.row_measures.prompt_parts import Parts, mean_over_prompts
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.runs.cells import Cell, Integers

HAS_NEXT: Final = ~pl.col("prompt_id").is_last_distinct()
"""Whether the next token is in the rows too; rows in prompt and position order."""

LEAST_PERCENT: Final = 20
"""`LeastMeans` use floor(n / 5) of a prompt's n values, at least 1."""

CHUNK_ROWS: Final = 1 << 16
"""Rows whose terms are held at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSums:
    """A metric of the sums of some terms over rows."""

    terms: Sequence[pl.Expr]
    """A number for each row, each computed from that row; null where a statistic is missing."""
    value: Callable[[float, Floats], float]
    """The metric, of the number of rows, 1 or more, and the (T,) sums; NaN where a term is null."""
    of_next: bool
    """Whether the terms are about the next token: only rows whose next one is there count."""

    @property
    def columns(self) -> list[str]:
        """Columns of the token statistics that the terms are computed from."""
        return [name for term in self.terms for name in term.meta.root_names()]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastMeans:
    """A metric that is the mean over prompts of the mean of each one's least values."""

    value: pl.Expr
    """Value of each row whose next token is there; null: the row has none and is not counted."""
    needed: Sequence[pl.Expr]
    """What must not be null in any such row, else there is no number."""

    @property
    def columns(self) -> list[str]:
        """Columns of the token statistics that the values are computed from."""
        return [name for term in (self.value, *self.needed) for name in term.meta.root_names()]


class TokenCollector(Protocol):
    """Collects what metrics need while the token statistics are read."""

    def add(self, tokens: pl.DataFrame) -> None:
        """Take in the rows of some more prompts, each whole, in prompt and position order."""

    def value(self, cell: Cell, name: str) -> float:
        """The metric of that name; NaN for no number."""


class RowSumCollector:
    """Sums by part of positions and prompts; 8 bytes for each part and term."""

    def __init__(
        self, cells: Sequence[Cell], metrics: Mapping[str, RowSums], of_next: bool
    ) -> None:
        self._metrics = {name: m for name, m in metrics.items() if m.of_next == of_next}
        self._terms = [term for m in self._metrics.values() for term in m.terms]
        # A row about the next token counts where that one is: a position further on.
        self._shift = int(of_next)
        self._parts = Parts([self._shifted(cell) for cell in cells])
        self._counts = np.zeros(self._parts.count + 1)  # the last part is of no cell
        self._sums = np.zeros((len(self._terms), self._parts.count + 1))
        self._missing = np.zeros_like(self._sums)

    def _shifted(self, cell: Cell) -> Cell:
        return cell._replace(first_position=cell.first_position + self._shift)

    def add(self, tokens: pl.DataFrame) -> None:
        """Take in the rows of some more prompts."""
        if not self._terms:
            return
        rows = tokens.filter(HAS_NEXT) if self._shift else tokens
        for chunk in rows.iter_slices(CHUNK_ROWS):
            prompt, position = (chunk[name].to_numpy() for name in ("prompt_id", "position"))
            part = self._parts.of(prompt, position + self._shift)
            size = len(self._counts)
            self._counts += np.bincount(part, minlength=size)
            terms = chunk.select(
                term.cast(pl.Float64).alias(str(k)) for k, term in enumerate(self._terms)
            )
            for k, term in enumerate(terms):
                values = term.to_numpy()
                missing = np.isnan(values)
                self._sums[k] += np.bincount(part, np.where(missing, 0.0, values), minlength=size)
                self._missing[k] += np.bincount(part[missing], minlength=size)

    def value(self, cell: Cell, name: str) -> float:
        """The metric of that name; NaN for no number."""
        inside = np.flatnonzero(self._parts.inside(self._shifted(cell)))
        n = float(self._counts[inside].sum())
        first = 0
        for other, metric in self._metrics.items():
            of_metric = slice(first, first := first + len(metric.terms))
            if other == name and n and not self._missing[of_metric, inside].any():
                return metric.value(n, self._sums[of_metric, inside].sum(axis=1))
        return float("nan")


class LeastMeanCollector:
    """A number for each prompt and range of positions: 9 bytes for each."""

    def __init__(self, cells: Sequence[Cell], metrics: Mapping[str, LeastMeans]) -> None:
        self._metrics = metrics
        self._windows = sorted({(cell.first_position, cell.prefix) for cell in cells})
        prompts = max((cell.n_prompts for cell in cells), default=0)
        shape = (len(metrics), len(self._windows), prompts)
        self._values = np.full(shape, np.nan)
        self._exists = np.zeros(shape, dtype=bool)

    def add(self, tokens: pl.DataFrame) -> None:
        """Take in the rows of some more prompts."""
        rows = tokens.filter(HAS_NEXT)
        for m, metric in enumerate(self._metrics.values()):
            there = pl.all_horizontal(column.is_not_null() for column in metric.needed)
            table = rows.select("prompt_id", "position", value=metric.value, there=there)
            ordered = table.filter(pl.col("value").is_not_null()).sort("prompt_id", "value")
            without = table.filter(~pl.col("there"))
            for w, window in enumerate(self._windows):
                self._add_least(m, w, *_inside(ordered, window))
                missing, _ = _inside(without, window)
                self._values[m, w, missing] = np.nan
                self._exists[m, w, missing] = True

    def _add_least(self, m: int, w: int, prompt: Integers, value: Floats) -> None:
        """prompt, value: (n,), in order of prompts, then of values."""
        ids, first, count = np.unique(prompt, return_index=True, return_counts=True)
        least = np.maximum(count * LEAST_PERCENT // 100, 1)
        is_least = np.arange(len(prompt)) - np.repeat(first, count) < np.repeat(least, count)
        which = np.repeat(np.arange(len(ids)), least)
        self._values[m, w, ids] = np.bincount(which, value[is_least], minlength=len(ids)) / least
        self._exists[m, w, ids] = True

    def value(self, cell: Cell, name: str) -> float:
        """The metric of that name; NaN for no number."""
        m = list(self._metrics).index(name)
        w = self._windows.index((cell.first_position, cell.prefix))
        return mean_over_prompts(self._values[m, w], self._exists[m, w], cell)


def _inside(rows: pl.DataFrame, window: tuple[int, int]) -> tuple[Integers, Floats]:
    """Prompt and value of the rows at positions of `window` whose next token is in it too."""
    position = rows["position"].to_numpy()
    inside = (position >= window[0]) & (position + 1 < window[1])
    return rows["prompt_id"].to_numpy()[inside], rows["value"].to_numpy()[inside]


class RowCollector:
    """Every row of the cells, for metrics that are functions of a frame."""

    def __init__(self, computes: Mapping[str, Callable[[Any], float]]) -> None:
        self._computes = computes
        self._frames: list[pl.DataFrame] = []

    def add(self, tokens: pl.DataFrame) -> None:
        """Take in the rows of some more prompts."""
        self._frames.append(tokens)

    def value(self, cell: Cell, name: str) -> float:
        """The metric of that name; NaN for no number."""
        prompt, position = pl.col("prompt_id"), pl.col("position")
        inside = (position >= cell.first_position) & (position < cell.prefix)
        rows = pl.concat(self._frames).filter(inside & (prompt < cell.n_prompts))
        return self._computes[name](rows.filter(cell.stays[rows["prompt_id"].to_numpy()]))
