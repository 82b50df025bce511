"""What drift is summed of, prompt by prompt: for the drift of any drawn prompts, without a model.

A draw says how often each of P prompts takes part: weights w, (P,). A mean over tokens is a ratio
of two weighted sums. CKA and participation ratio need squared norms of weighted scatters,
C = sum_i w_i C_i with C_i = A_i^T B_i, centred:

    |C - a b^T / N|^2 = sum_ij w_i w_j <C_i, C_j> - 2/N a^T C b + |a|^2 |b|^2 / N^2

a and b being weighted sums of rows. All of it is made of numbers between prompts, so a draw costs
P^3 / 2 multiply-adds instead of products of rows. An effective rank needs the scatter itself.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from lpp.analyze.drift.pair import Pair
from lpp.analyze.drift.predictions import token_drift
from lpp.analyze.drift.summaries import token_value
from lpp.analyze.numerics.cka import BLOCK_ROWS
from lpp.analyze.numerics.distance import row_drift
from lpp.analyze.numerics.moments import Moments
from lpp.analyze.numerics.spectrum import effective_rank, eigenvalues
from lpp.analyze.quantities.drift import PREDICTIONS
from lpp.analyze.runs.rows.side_by_side import in_step

Floats = npt.NDArray[np.float64]

AT_ONCE: Final = 1_000
"""Draws whose forms are in memory together: 40 MB for 100 prompts."""


@dataclass(frozen=True, kw_only=True)
class Means:
    """Numbers that are means over tokens: each is a sum and a count of tokens, (P,) by name."""

    sums: Mapping[str, Floats]
    tokens: Mapping[str, Floats]

    def of(self, weights: Floats) -> dict[str, Floats]:
        """Each number of (n, P) draws, (n,)."""
        return {
            name: weights @ some / (weights @ self.tokens[name]) for name, some in self.sums.items()
        }


def prediction_means(pair: Pair, only: Collection[str]) -> Means:
    """Numbers `only` of the predictions, of those of `PREDICTIONS`."""
    values = {name: token_value(PREDICTIONS[name]) for name in only}
    frame = (
        token_drift(pair)
        .group_by("prompt_id", maintain_order=True)
        .agg(
            *(value.sum().alias(name) for name, value in values.items()),
            *(value.count().alias(f"{name}_tokens") for name, value in values.items()),
        )
        .cast(pl.Float64)
    )
    return Means(
        sums={name: frame[name].to_numpy() for name in only},
        tokens={name: frame[f"{name}_tokens"].to_numpy() for name in only},
    )


Prompts = tuple[list[Floats], list[Floats]]
"""(t, d) rows of each prompt, of both runs, about the mean of each run's rows: then what is
subtracted for the mean of a draw is small."""


def rows_of_prompts(pair: Pair, site: str) -> tuple[Prompts, Means]:
    """The rows of one site, and the means over its tokens."""
    sources = [(view.run, site) for view in (pair.a, pair.b)]
    steps = list(in_step(sources, range(pair.n_prompts), block_rows=BLOCK_ROWS))
    ends = np.flatnonzero(np.diff(np.concatenate([step.prompt_id for step in steps]))) + 1
    a, b = (np.concatenate([step.rows[k] for step in steps]) for k in range(2))
    drift = row_drift(a, b)
    moved = {"relative_distance": drift.relative_distance, "cosine": drift.cosine}
    sums = {name: np.add.reduceat(some, [0, *ends]) for name, some in moved.items()}
    tokens = np.diff([0, *ends, len(a)]).astype(np.float64)
    centred = (some.astype(np.float64) for some in (a, b))
    before, after = (np.split(some - some.mean(axis=0), ends) for some in centred)
    return (before, after), Means(sums=sums, tokens=dict.fromkeys(sums, tokens))


class SiteSums:
    """One site of both runs: CKA and the difference of participation ratios of any draw."""

    def __init__(self, rows: Prompts) -> None:
        a, b = rows
        self._tokens = np.array([len(one) for one in a], np.float64)
        self._products = Products(a, a), Products(b, b), Products(a, b)

    def of(self, weights: Floats) -> dict[str, Floats]:
        """Each number of (n, P) draws, (n,)."""
        a, b, cross = (one.squares(weights, self._tokens) for one in self._products)
        traces = (one.traces(weights, self._tokens) for one in self._products)
        before, after, _ = (trace**2 / s for trace, s in zip(traces, (a, b, cross), strict=True))
        return {"cka": cross / np.sqrt(a * b), "participation_ratio": after - before}


class Products:
    """Scatters A_i^T B_i of each of P prompts, (d, d), as numbers between prompts."""

    def __init__(self, a: Sequence[Floats], b: Sequence[Floats]) -> None:
        scatters = np.stack([(x.T @ y).ravel() for x, y in zip(a, b, strict=True)])
        sums, others = (np.stack([x.sum(axis=0) for x in some]) for some in (a, b))
        self._square = scatters @ scatters.T
        self._sums, self._others = sums @ sums.T, others @ others.T
        self._trace = np.array([np.vdot(x, y) for x, y in zip(a, b, strict=True)])
        width = sums.shape[1]
        thrice = np.stack([sums @ one.reshape(width, -1) @ others.T for one in scatters])
        i, k = self._pairs = np.triu_indices(len(sums))
        both = (thrice[:, i, k] + thrice[:, k, i]) / np.where(i == k, 2, 1)
        self._thrice = both.astype(np.float32)  # of a correction: its rounding is of no account

    def squares(self, weights: Floats, tokens: Floats) -> Floats:
        """(n,) squared norms of the centred scatters of (n, P) draws; tokens: (P,)."""
        starts = range(AT_ONCE, len(weights), AT_ONCE)
        return np.concatenate([self._squares(some, tokens) for some in np.split(weights, starts)])

    def _squares(self, weights: Floats, tokens: Floats) -> Floats:
        n, narrow = weights @ tokens, weights.astype(np.float32)
        i, k = self._pairs
        thrice = np.vecdot(narrow @ self._thrice, narrow[:, i] * narrow[:, k])
        of_sums = _quadratic(weights, self._sums) * _quadratic(weights, self._others)
        found: Floats = _quadratic(weights, self._square) - 2 * thrice / n + of_sums / n**2
        return found

    def traces(self, weights: Floats, tokens: Floats) -> Floats:
        """(n,) traces of the centred scatters, where A and B are the same rows."""
        found: Floats = weights @ self._trace - _quadratic(weights, self._sums) / (weights @ tokens)
        return found


def rank_changes(rows: Prompts, weights: Floats) -> Floats:
    """(n,) differences of effective rank, B less A, of (n, P) draws: two solves each."""
    before, after = (_ranks(some, weights) for some in rows)
    return after - before


def _ranks(rows: Sequence[Floats], weights: Floats) -> Floats:
    tokens = np.array([len(one) for one in rows])
    scatters = np.stack([(one.T @ one).ravel() for one in rows])
    sums = np.stack([one.sum(axis=0) for one in rows])
    found = []
    for draw in weights:
        n, total = int(draw @ tokens), draw @ sums
        scatter = (draw @ scatters).reshape(len(total), -1) - np.outer(total, total) / n
        found.append(effective_rank(eigenvalues(Moments(n, total / n, scatter))))
    return np.array(found)


def _quadratic(weights: Floats, form: Floats) -> Floats:
    """(n,) w^T F w of (n, P) weights and a form (P, P)."""
    found: Floats = np.vecdot(weights @ form, weights)
    return found
