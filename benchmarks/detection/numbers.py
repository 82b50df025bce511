"""Numbers of a pair of runs as functions of weights of prompts, so that prompts can be drawn.

`Mean` and `Floor` are sums over prompts. CKA and participation ratio need the squared norm of a
centred cross-scatter of the chosen rows. It is quadratic in the weights: with X_i and Z_i the rows
of prompt i, about fixed points, S(w) = sum w_i X_i^T Z_i, T and U the sums of the chosen rows and n
their count,

    ||S - T U^T / n||^2 = w^T K w - 2 T^T S U / n + |T|^2 |U|^2 / n^2

with K_ij = <X_i^T Z_i, X_j^T Z_j>. So no d x d matrix is made for a draw: K takes P^2 d^2
multiply-adds once, and the middle term N P for each row of weights. The effective rank needs
eigenvalues: one solve for each draw, and for the groups left out its first order in the covariance
(`rank_without`).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from benchmarks.detection.draws import Floats, Integers
from lpp.analyze.numerics.spectrum import effective_rank

CHUNK: Final = 256
"""Weights whose sums of rows are multiplied with the rows at once."""

LEAST: Final = 1e-12
"""Of the largest eigenvalue: smaller ones count as this where a logarithm is taken."""


@dataclass(frozen=True)
class Mean:
    """Mean over tokens, from (P,) sums and counts of each prompt."""

    sums: Floats
    counts: Integers

    def __call__(self, weights: Floats) -> Floats:
        """(m,) of (m, P) weights."""
        found: Floats = (weights @ self.sums) / (weights @ self.counts)
        return found


@dataclass(frozen=True)
class Floor:
    """Entropy floor, B less A: the least mean over prompts, over prefixes (P, L) of both."""

    a: Floats
    b: Floats

    def __call__(self, weights: Floats) -> Floats:
        """(m,) of (m, P) weights."""
        n = weights.sum(axis=1, keepdims=True)
        first, second = ((weights @ one / n).min(axis=1) for one in (self.a, self.b))
        found: Floats = second - first
        return found


@dataclass(frozen=True)
class Rows:
    """The rows of one site of one run, (N, d) about their mean, prompt after prompt."""

    values: Floats
    mean: Floats
    """(d,) of all rows, taken off `values`."""
    starts: Integers
    """(P,) the first row of each prompt."""

    @classmethod
    def about_mean(cls, rows: Floats, starts: Integers) -> "Rows":
        """Of (N, d) rows as they are."""
        mean = rows.mean(axis=0)
        return cls(rows - mean, mean, starts)

    @property
    def counts(self) -> Integers:
        """(P,) rows of each prompt."""
        return np.diff(self.starts, append=len(self.values))

    @cached_property
    def totals(self) -> Floats:
        """(P, d) sum of the rows of each prompt."""
        found: Floats = np.add.reduceat(self.values, self.starts)
        return found

    @cached_property
    def squares(self) -> Floats:
        """(P,) summed squared lengths of the rows of each prompt."""
        found: Floats = np.add.reduceat(np.vecdot(self.values, self.values), self.starts)
        return found

    def products(self, other: "Rows") -> Floats:
        """(P, d, e) X_i^T Z_i of each prompt: 8 P d e bytes."""
        ends = [*self.starts[1:], len(self.values)]
        spans = [slice(a, b) for a, b in zip(self.starts, ends, strict=True)]
        return np.stack([self.values[one].T @ other.values[one] for one in spans])

    def traces(self, weights: Floats) -> Floats:
        """(m,) trace of the centred scatter."""
        sums = weights @ self.totals
        found: Floats = weights @ self.squares - np.vecdot(sums, sums) / (weights @ self.counts)
        return found


class SquaredNorm:
    """||X^T Z||_F^2 of centred rows, a function of weights, which keeps what it has computed."""

    def __init__(self, x: Rows, z: Rows, products: Floats) -> None:
        self._x, self._z = x, z
        flat = products.reshape(len(products), -1)
        self._pairs = flat @ flat.T
        self._along_x = x.values @ x.totals.T  # (N, P): a row times the sum of a prompt's rows
        self._along_z = self._along_x if z is x else z.values @ z.totals.T
        self._known: list[tuple[Floats, Floats]] = []

    def __call__(self, weights: Floats) -> Floats:
        """(m,) of (m, P) weights."""
        for known, found in self._known:
            if np.array_equal(known, weights):
                return found
        self._known.append((weights, self._computed(weights)))
        return self._known[-1][1]

    def _computed(self, weights: Floats) -> Floats:
        x, z = self._x, self._z
        found: Floats = np.vecdot(weights @ self._pairs, weights)
        n = weights @ x.counts
        for start in range(0, len(weights), CHUNK):
            some = slice(start, start + CHUNK)
            chosen = weights[some]
            t = chosen @ x.totals
            u = t if z is x else chosen @ z.totals
            along = self._along_x @ chosen.T
            along *= along if z is x else self._along_z @ chosen.T
            middle = np.vecdot(chosen, np.add.reduceat(along, x.starts).T)
            found[some] -= 2 * middle / n[some]
            found[some] += np.vecdot(t, t) * np.vecdot(u, u) / n[some] ** 2
        return found


def participation_ratios(rows: Rows, norm: SquaredNorm, weights: Floats) -> Floats:
    """(m,) participation ratios of (m, P) weights; norm: of the rows with themselves."""
    found: Floats = rows.traces(weights) ** 2 / norm(weights)
    return found


def rank_without(totals: Floats, products: Floats, counts: Integers) -> Floats:
    """(1 + G,) effective rank of rows in G groups: of all, then without each group.

    totals, products, counts: (G, d), (G, d, d) and (G,) of each group. Without a group the
    covariance is another matrix. To first order in it the entropy H of the eigenvalues is
    H + <U diag(-ln p_i - H) U^T, C'> over the trace of C', p their shares and U the eigenvectors of
    all: one solve in place of 1 + G.
    """
    total, product, count = totals.sum(axis=0), products.sum(axis=0), int(counts.sum())
    values, vectors = np.linalg.eigh(product - np.outer(total, total) / count)
    values = np.clip(values, 0, None)
    rank = effective_rank(values[::-1])
    share = np.maximum(values, LEAST * values[-1]) / values.sum()
    entropy = np.log(rank)
    slope = (vectors * (-np.log(share) - entropy)) @ vectors.T
    found = [rank]
    for t, p, n in zip(totals, products, counts, strict=True):
        rest, size = total - t, count - n
        other = product - p
        trace = np.trace(other) - rest @ rest / size
        moved = np.vdot(slope, other) - rest @ slope @ rest / size
        found.append(float(np.exp(entropy + moved / trace)))
    return np.array(found)
