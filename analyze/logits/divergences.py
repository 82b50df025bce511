"""How far the next-token distributions of two models are apart, from the logits of both.

p and q are the softmax of the logits of a token over all V tokens of the vocabulary. With
d = ln p - ln q, in nats:

    KL(p || q)        sum p d                      Kullback and Leibler 1951; 0 to infinity
    KL(q || p)        sum q (-d)
    Jensen-Shannon    (KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2     Lin 1991; 0 to ln 2
    total variation   sum |p - q| / 2              0 to 1
    flip              whether the most likely token differs
    top ten           share of the ten most likely tokens that both have in common

Logits of few digits tie. Of equal logits, the one of the lowest id counts as the most likely, so
where the first two tie, or the tenth and the eleventh, flip and top ten say which ids are lower.
`TIES` say where: in bfloat16, at 4 to 6 % and at 32 to 37 % of the tokens of a small model.

Numbers. Logits arrive as float32, rounded as their model rounds them; everything after is float64.
In float32 a divergence could not be summed: sum p d of nearly equal distributions cancels to 1e-6
from terms of 1, each wrong by 6e-8. With the unit of float64, u = 1.1e-16, every e^(z - max) is
right to (|z - max| + 4) u of itself, and a sum over V terms adds some 20 u. So KL is right to the
mean over p of (|d| + 2) (|z - max| + 20) u: 1e-14 where d is small, which is 1e-8 of a KL of 1e-6.
A result that rounding took below 0 is 0. Equal logits give exactly 0: every z_p - z_q is 0, the two
sums of exponentials are of the same numbers in the same order, and the Jensen-Shannon divergence is
summed in the form that is 0 term by term.

-inf in both, as some models give columns that are no token, contributes nothing. Where only q is
-inf, KL(p || q) is infinite. A row with NaN or +inf gives NaN.

Cost. A few rows at a time pass, so that they stay in the cache: memory beside the logits is 4 V
float64 values, or 4 `PIECE`.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lpp.analyze.numerics.moments import Floats
from lpp.store.shared.logits import Float32

Columns = dict[str, npt.NDArray[Any]]

DIVERGENCES: Final = ("kl", "kl_reverse", "js", "tv")
"""Divergences of a token, in nats; tv: a share of the probability."""

TIES: Final = ("flip_tie", "top10_tie")
"""Whether, in p or in q, the two largest logits are equal, and the tenth and the eleventh."""

EVERYTHING: Final = frozenset({*DIVERGENCES, "flip", "top10", *TIES})

TOP: Final = 10
"""Most likely tokens that `top10` compares."""

GROUP: Final = 1 << 19
"""Logits of one model that a `Reduction` is given together: 2 MiB, so that what a call of NumPy
costs is shared by rows."""

PIECE: Final = 1 << 16
"""Bytes of them that are widened to float64 at a time: 512 KiB."""

FLOOR: Final = -1e100
"""Stands for -inf below the largest logit: its exponential is 0, and its product with 0 is 0."""

LANES: Final = 512
"""Groups of columns whose maxima bound the tenth largest logit from below."""

UNSHIFTED: Final = 600.0
"""Where no largest logit is further from 0, float64 holds the exponentials and their sums as they
are: nothing need be taken from the logits."""


def logit_drift(p: Float32, q: Float32, only: Collection[str] = EVERYTHING) -> Columns:
    """What changed between two distributions of each token, from logits (n, V) of both models.

    only: names of `EVERYTHING`. Returns (n,) arrays by name: float64, `flip` and `TIES` bool. The
    most likely of several equal logits is that of the lowest id, here and among the ten; with fewer
    than ten tokens `top10` is the share of V. ValueError for different shapes, no column or another
    name.

    >>> uniform, certain = np.zeros((1, 2), np.float32), np.array([[100, 0]], np.float32)
    >>> drift = logit_drift(certain, uniform)
    >>> round(float(drift["kl"][0]), 6), float(drift["tv"][0]), bool(drift["flip"][0])
    (0.693147, 0.5, False)
    """
    if p.ndim != 2 or p.shape != q.shape or not p.shape[1]:
        raise ValueError(f"logits of {p.shape} and {q.shape}, should both be (n, V)")
    reduction = Reduction(p.shape[1], only)
    starts = range(0, max(1, len(p)), reduction.rows)  # once where there is no token, for the types
    rows = [slice(start, start + reduction.rows) for start in starts]
    return joined_columns([reduction.drift(p[tile], q[tile]) for tile in rows])


def joined_columns(parts: Sequence[Columns]) -> Columns:
    """The columns of one or more parts, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class Reduction:
    """`logit_drift` of a group of rows at a time, in memory that is allocated once."""

    def __init__(self, vocabulary: int, only: Collection[str]) -> None:
        if unknown := set(only) - EVERYTHING:
            raise ValueError(
                f"no {', '.join(sorted(unknown))}; there are {', '.join(sorted(EVERYTHING))}"
            )
        self._only = frozenset(only)
        self.rows = max(1, GROUP // vocabulary)
        """Rows that a call takes, at most."""
        self._memory = np.empty((4, max(1, PIECE // vocabulary), vocabulary))

    def drift(self, z_p: Float32, z_q: Float32) -> Columns:
        """Columns for (n, V) logits of both models."""
        columns: Columns = {}
        each = np.arange(len(z_p))
        id_p, id_q = z_p.argmax(axis=1), z_q.argmax(axis=1)
        if "flip" in self._only:
            columns["flip"] = id_p != id_q
        if not self._only.isdisjoint(("top10", *TIES)):
            of_ten = _of_ten(z_p, z_q)
            columns |= {name: of_ten[name] for name in of_ten if name in self._only}
        if not self._only.isdisjoint(DIVERGENCES):
            top = z_p[each, id_p][:, None], z_q[each, id_q][:, None]
            with np.errstate(invalid="ignore", over="ignore"):
                columns |= self._divergences(z_p, z_q, *top)
        return columns

    def _divergences(self, z_p: Float32, z_q: Float32, max_p: Float32, max_q: Float32) -> Columns:
        """The `DIVERGENCES` that are wanted; max_*: (n, 1), the largest logits."""
        masked = min(z_p.min(initial=0), z_q.min(initial=0)) == -np.inf
        far = masked or not (np.abs([max_p, max_q]) < UNSHIFTED).all()
        columns: Columns = {}
        for name in self._only.intersection(DIVERGENCES):
            columns[name] = np.empty(len(z_p))
        step = self._memory.shape[1]
        for start in range(0, len(z_p), step):
            part = slice(start, min(start + step, len(z_p)))
            p, q, d, free = self._memory[:, : part.stop - start]
            if far:
                for z, top, values in ((z_p, max_p, p), (z_q, max_q, q)):
                    np.subtract(z[part], top[part], out=values, dtype=np.float64)
                    np.maximum(values, FLOOR, out=values)
            else:
                np.copyto(p, z_p[part])
                np.copyto(q, z_q[part])
            for name, values in self._piece(p, q, d, free).items():
                columns[name][part] = values
        if masked:
            _infinite(columns, np.isneginf(z_p), np.isneginf(z_q))
        return columns

    def _piece(self, p: Floats, q: Floats, d: Floats, free: Floats) -> Columns:
        """Columns for (m, V) float64 logits, each pair shifted or not; overwrites both arrays."""
        only = self._only
        columns: Columns = {}
        np.subtract(p, q, out=d)
        np.exp(p, out=p)
        sum_p = p.sum(axis=1)
        kl = np.vecdot(p, d) / sum_p if "kl" in only else None
        np.exp(q, out=q)
        sum_q = q.sum(axis=1)
        shift = np.log(sum_p) - np.log(sum_q)  # ln p - ln q = d - shift
        if kl is not None:
            columns["kl"] = np.maximum(kl - shift, 0)
        if "kl_reverse" in only:
            columns["kl_reverse"] = np.maximum(shift - np.vecdot(q, d) / sum_q, 0)
        if only.isdisjoint(("js", "tv")):
            return columns
        p *= (1 / sum_p)[:, None]
        q *= (1 / sum_q)[:, None]
        if "tv" in only:
            np.subtract(p, q, out=free)
            np.abs(free, out=free)
            columns["tv"] = (free.sum(axis=1) / 2).clip(0, 1)
        if "js" in only:
            d -= shift[:, None]
            columns["js"] = _jensen_shannon(p, q, d, free)
        return columns


def _jensen_shannon(p: Floats, q: Floats, d: Floats, free: Floats) -> Floats:
    """(n,) of (n, V) distributions and d = ln p - ln q; overwrites d and the memory `free`.

    With r = min(p, q) / max(p, q) = e^-|d| the logarithm of max(p, q) / m is -ln((1 + r) / 2), and
    that of min(p, q) / m is the same less |d|. No quotient of two vanishing numbers is taken.
    """
    np.abs(d, out=d)
    np.minimum(p, q, out=free)
    other = np.vecdot(free, d)
    np.negative(d, out=d)
    np.exp(d, out=d)
    d += 1
    d *= 0.5
    np.log(d, out=d)
    total: Floats = np.vecdot(p, d) + np.vecdot(q, d) + other
    return (0 - total / 2).clip(0, math.log(2))  # not -total: that of equal ones would be -0


def _infinite(
    columns: Columns, none_p: npt.NDArray[np.bool_], none_q: npt.NDArray[np.bool_]
) -> None:
    """Make a divergence infinite where one model excludes a token that the other does not."""
    for name, excluded, allowed in (("kl", none_q, none_p), ("kl_reverse", none_p, none_q)):
        if name in columns:
            columns[name][(excluded & ~allowed).any(axis=1)] = np.inf


def _of_ten(p: Float32, q: Float32) -> Columns:
    """`top10` and `TIES`, (n,) each, of (n, V) logits."""
    ten = min(TOP, p.shape[1])
    (of_p, ties_p), (of_q, ties_q) = _most_likely(p, ten), _most_likely(q, ten)
    shares = [len(a & b) / ten for a, b in zip(of_p, of_q, strict=True)]
    ties = (ties_p | ties_q).T
    return {"top10": np.array(shares, np.float64), **dict(zip(TIES, ties, strict=True))}


def _most_likely(z: Float32, count: int) -> tuple[list[set[int]], npt.NDArray[np.bool_]]:
    """Ids of the `count` largest of each row of (n, V) logits, by id where several are equal; and
    (n, 2) whether the first two are equal, and the last of them and the next one.

    The columns are dealt into `LANES` groups. The maxima of `count` groups are at least the
    `count`-th largest maximum, so no logit below that is among the largest; few others are left.
    """
    n, vocabulary = z.shape
    height = vocabulary // LANES
    least = np.full(n, -np.inf, np.float32)
    if height:
        maxima = z[:, : height * LANES].reshape(n, height, LANES).max(axis=1)
        maxima.partition(LANES - count, axis=1)
        least = maxima[:, LANES - count]
    largest, ties = [], np.zeros((n, 2), bool)
    for i, (row, bound) in enumerate(zip(z, least, strict=True)):
        ids = np.flatnonzero(row >= bound)
        ids = ids[np.argsort(-row[ids], kind="stable")]
        ordered = row[ids]
        ties[i] = [(ordered[k - 1 : k] == ordered[k : k + 1]).any() for k in (1, count)]
        largest.append({*ids[:count].tolist()})
    return largest, ties
