"""Numbers of a pair of runs as functions of weights of prompts, so that prompts can be drawn.

`Mean` and `Floor` are sums over prompts. CKA and participation ratio need the squared norm of a
centred cross-scatter of the chosen rows. It is quadratic in the weights: with X_i and Z_i the rows
of prompt i, about fixed points, S(w) = sum w_i X_i^T Z_i, T and U the sums of the chosen rows and n
their count,

    ||S - T U^T / n||^2 = w^T K w - 2 T^T S U / n + |T|^2 |U|^2 / n^2

with K_ij = <X_i^T Z_i, X_j^T Z_j>. So no d x d matrix is made for a draw: K takes P^2 d^2
multiply-adds once, and the middle term N P for each row of weights. The effective rank needs
eigenvalues: a d x d matrix and a solve for each draw.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from benchmarks.detection.draws import Floats, Integers
from lpp.analyze.numerics.spectrum import effective_rank


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
    """||X^T Z||_F^2 of centred rows, a function of weights."""

    def __init__(self, x: Rows, z: Rows, products: Floats) -> None:
        self._x, self._z = x, z
        flat = products.reshape(len(products), -1)
        self._pairs = flat @ flat.T
        self._along_x = x.values @ x.totals.T  # (N, P): a row times the sum of a prompt's rows
        self._along_z = self._along_x if z is x else z.values @ z.totals.T

    def __call__(self, weights: Floats) -> Floats:
        """(m,) of (m, P) weights."""
        x, z = self._x, self._z
        n = weights @ x.counts
        t, u = weights @ x.totals, weights @ z.totals
        along = (self._along_x @ weights.T) * (self._along_z @ weights.T)  # (N, m)
        middle = np.vecdot(weights, np.add.reduceat(along, x.starts).T)
        found: Floats = np.vecdot(weights @ self._pairs, weights) - 2 * middle / n
        found += np.vecdot(t, t) * np.vecdot(u, u) / n**2
        return found


def effective_ranks(rows: Rows, products: Floats, weights: Floats) -> Floats:
    """(m,) effective ranks of (m, P) weights; products: of the rows with themselves.

    Takes 8 m d^2 bytes.
    """
    totals, counts = weights @ rows.totals, weights @ rows.counts
    scatters = np.tensordot(weights, products, 1)  # one product: a loop would be bound by memory
    found = []
    for scatter, total, count in zip(scatters, totals, counts, strict=True):
        values = np.linalg.eigvalsh(scatter - np.outer(total, total) / count)
        found.append(effective_rank(np.clip(values[::-1], 0, None)))
    return np.array(found)
