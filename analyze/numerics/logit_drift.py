"""How far the next-token distributions of two models are apart, from the logits of both.

p and q are the softmax of the logits of a token over all V tokens of the vocabulary. With
d = ln p - ln q, in nats:

    KL(p || q)        sum p d                      Kullback and Leibler 1951; 0 to infinity
    KL(q || p)        sum q (-d)
    Jensen-Shannon    (KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2     Lin 1991; 0 to ln 2
    total variation   sum |p - q| / 2              0 to 1
    flip              whether the most likely token differs
    top ten           share of the ten most likely tokens that both have in common

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

Cost. A few rows at a time pass, so that they stay in the cache: memory beside the logits is 5 V
float64 values, or 5 `PIECE`.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Columns = dict[str, npt.NDArray[Any]]

DIVERGENCES: Final = ("kl", "kl_reverse", "js", "tv")
"""Of a token, in nats; tv: a share of the probability."""

EVERYTHING: Final = frozenset({*DIVERGENCES, "flip", "top10"})

TOP: Final = 10
"""Most likely tokens that `top10` compares."""

PIECE: Final = 1 << 16
"""Logits of one model that are taken together: 512 KiB in float64."""

FLOOR: Final = -1e100
"""What stands for -inf below the largest logit: its exponential is 0, and it times 0 is 0."""

LANES: Final = 512
"""Columns that are summed, or whose maxima are taken, side by side."""

UNSHIFTED: Final = 600.0
"""Where no largest logit is further from 0, float64 holds the exponentials and their sums as they
are: nothing need be taken from the logits."""


def logit_drift(p: Float32, q: Float32, only: Collection[str] = EVERYTHING) -> Columns:
    """What changed between two distributions of each token, from logits (n, V) of both models.

    only: names of `EVERYTHING`. Returns (n,) arrays by name: float64, `flip` bool. The most likely
    of several equal logits is that of the lowest id, here and among the ten; with fewer than ten
    tokens `top10` is the share of V. ValueError for different shapes, no column or another name.

    >>> uniform, certain = np.zeros((1, 2), np.float32), np.array([[100, 0]], np.float32)
    >>> found = logit_drift(certain, uniform)
    >>> round(float(found["kl"][0]), 6), float(found["tv"][0]), bool(found["flip"][0])
    (0.693147, 0.5, False)
    """
    if p.ndim != 2 or p.shape != q.shape or not p.shape[1]:
        raise ValueError(f"logits of {p.shape} and {q.shape}, should both be (n, V)")
    reduction = Reduction(p.shape[1], only)
    starts = range(0, max(1, len(p)), reduction.rows)  # once where there is no token, for the types
    rows = [slice(start, start + reduction.rows) for start in starts]
    return joined([reduction.drift(p[some], q[some]) for some in rows])


def joined(parts: Sequence[Columns]) -> Columns:
    """The columns of one or more parts, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class Reduction:
    """`logit_drift` of a few rows at a time, in memory that is allocated once."""

    def __init__(self, vocabulary: int, only: Collection[str]) -> None:
        if unknown := set(only) - EVERYTHING:
            raise ValueError(
                f"no {', '.join(sorted(unknown))}; there are {', '.join(sorted(EVERYTHING))}"
            )
        self._only = frozenset(only)
        self.rows = max(1, PIECE // vocabulary)
        """Rows that a call takes, at most."""
        more = not self._only.isdisjoint(("js", "tv"))
        self._memory = np.empty((5 if more else 3, self.rows, vocabulary))

    def drift(self, z_p: Float32, z_q: Float32) -> Columns:
        """Of (n, V) logits of both models."""
        found: Columns = {}
        each = np.arange(len(z_p))
        id_p, id_q = z_p.argmax(axis=1), z_q.argmax(axis=1)
        if "flip" in self._only:
            found["flip"] = id_p != id_q
        if "top10" in self._only:
            found["top10"] = np.array(
                [_common(*pair) for pair in zip(z_p, z_q, strict=True)], np.float64
            )
        if not self._only.isdisjoint(DIVERGENCES):
            top = z_p[each, id_p][:, None], z_q[each, id_q][:, None]
            with np.errstate(invalid="ignore", over="ignore"):
                found |= self._divergences(z_p, z_q, *top)
        return found

    def _divergences(self, z_p: Float32, z_q: Float32, max_p: Float32, max_q: Float32) -> Columns:
        only = self._only
        p, q, d, *more = self._memory[:, : len(z_p)]
        lowest = min(z_p.min(initial=0), z_q.min(initial=0))
        if lowest > -np.inf and all((np.abs(top) < UNSHIFTED).all() for top in (max_p, max_q)):
            np.copyto(p, z_p)
            np.copyto(q, z_q)
        else:
            for z, top, values in ((z_p, max_p, p), (z_q, max_q, q)):
                np.subtract(z, top, out=values, dtype=np.float64)
                np.maximum(values, FLOOR, out=values)
        np.subtract(p, q, out=d)
        np.exp(p, out=p)
        np.exp(q, out=q)
        sum_p, sum_q = _sum(p), _sum(q)
        shift = np.log(sum_p) - np.log(sum_q)  # ln p - ln q = d - shift
        found: Columns = {}
        if "kl" in only:
            found["kl"] = np.maximum(np.vecdot(p, d) / sum_p - shift, 0)
        if "kl_reverse" in only:
            found["kl_reverse"] = np.maximum(shift - np.vecdot(q, d) / sum_q, 0)
        if lowest == -np.inf:
            _infinite(found, np.isneginf(z_p), np.isneginf(z_q))
        if more:
            p /= sum_p[:, None]
            q /= sum_q[:, None]
            smaller, larger = more
            np.minimum(p, q, out=smaller)
            if "tv" in only:
                np.maximum(p, q, out=larger)
                found["tv"] = np.clip((_sum(larger) - _sum(smaller)) / 2, 0, 1)
            if "js" in only:
                d -= shift[:, None]
                found["js"] = _jensen_shannon(p, q, d, smaller)
        return found


def _sum(values: Float64) -> Float64:
    """(n,) sums of (n, V) rows: column by column first, which takes half as long as a row at a time
    and depends on no alignment.
    """
    n, columns = values.shape
    height = columns // LANES
    folded = values[:, : height * LANES].reshape(n, height, LANES).sum(axis=1)
    total: Float64 = folded.sum(axis=1) + values[:, height * LANES :].sum(axis=1)
    return total


def _jensen_shannon(p: Float64, q: Float64, d: Float64, smaller: Float64) -> Float64:
    """(n,) of (n, V) distributions, d = ln p - ln q and min(p, q); overwrites d.

    With r = min(p, q) / max(p, q) = e^-|d| the logarithm of max(p, q) / m is -ln((1 + r) / 2), and
    that of min(p, q) / m is the same less |d|. No quotient of two vanishing numbers is taken.
    """
    np.abs(d, out=d)
    other = np.vecdot(smaller, d)
    np.negative(d, out=d)
    np.exp(d, out=d)
    d += 1
    d *= 0.5
    np.log(d, out=d)
    total: Float64 = np.vecdot(p, d) + np.vecdot(q, d) + other
    return (-total / 2).clip(0, math.log(2))


def _infinite(found: Columns, none_p: npt.NDArray[np.bool_], none_q: npt.NDArray[np.bool_]) -> None:
    """Make a divergence infinite where one model excludes a token that the other does not."""
    for name, excluded, allowed in (("kl", none_q, none_p), ("kl_reverse", none_p, none_q)):
        if name in found:
            found[name][(excluded & ~allowed).any(axis=1)] = np.inf


def _common(p: Float32, q: Float32) -> float:
    """Share of the most likely tokens of two rows of logits, (V,), that are the same ones."""
    ten = min(TOP, len(p))
    return len({*_most_likely(p, ten).tolist()} & {*_most_likely(q, ten).tolist()}) / ten


def _most_likely(z: Float32, count: int) -> npt.NDArray[np.intp]:
    """The `count` largest of (V,) logits, by id where several are equal: (count,) ids.

    The columns are dealt into `LANES` groups. The maxima of as many groups are at least the
    `count`-th largest maximum, so no logit below it is among the largest, and few others are left.
    """
    height = len(z) // LANES
    some = np.arange(len(z))
    if height:
        maxima = z[: height * LANES].reshape(height, LANES).max(axis=0)
        some = np.flatnonzero(z >= np.partition(maxima, LANES - count)[LANES - count])
    return some[np.argsort(-z[some], kind="stable")[:count]]
