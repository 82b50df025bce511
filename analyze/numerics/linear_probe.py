"""Linear probes of rows: ridge logistic or ridge linear regression, and the difference of means.

Every score of an item comes from a probe that saw other folds alone: columns are standardised,
the strength is chosen and the probe is fitted without the item's fold. The strength is chosen among
`STRENGTHS` by nested folds, which are the other folds, each left out once.

Rows stay as they are stored, and no fold has a copy of them: each pass widens a block of rows at a
time. Standardising within a fold is arithmetic on the weights, and the rows that a fit does not use
are masked, so the fits of all folds (each nested fold and strength, each shuffle of the labels) are
columns of one system. Newton's steps solve it; conjugate gradients find each step, preconditioned
by one eigendecomposition of the products of all rows, of size k = min(n, d). Cost: n d k
multiply-adds and the eigendecomposition, then for f fits about 20 times 2 (n + k) d f, in float32.
Probes end with slopes in float64; fits that only choose a strength, or are of shuffled labels, do
not need them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from lpp.analyze.numerics.moments import Floats
from lpp.analyze.numerics.statistics.auroc import Codes, Flags
from lpp.store.arrays.reader import to_float32

STRENGTHS: Final = (100.0, 10.0, 1.0, 0.1, 0.01)
"""Strengths that are tried. The penalty of weights w of standardised columns is
strength * d / 2 * |w|^2 beside the sum of the losses, so that one strength means about the same
whatever d: scikit-learn's C is 1 / (strength d), its alpha of Ridge is strength d."""

RANDOM_DIRECTIONS: Final = 19
"""Random directions of a control: 1 in 20 probes without information is beyond the best of 19."""

_FITTED: Final = 1e-9
_CHOSEN: Final = 1e-3
"""Size of the gradient at which a fit ends, over that at its start: of probes, and of fits that
only choose a strength or are of shuffled labels."""

_CLASSES_STEP: Final = 0.1
_LEAST_STEP: Final = 1e-4
"""What a step of Newton's multiplies the slope by, at least, of classes and in float32."""

_LEAST_SPREAD: Final = 0.004
"""Sum of squares along a direction, over d, up to which the penalty is ten times the curvature at
the least strength: the preconditioner takes it for all."""

_TINY: Final = np.finfo(np.float32).tiny

_NONE: Final = -1
"""The fold that fits of all rows leave out."""

_MOST_STEPS: Final = 500
_BLOCK_ROWS: Final = 256
"""Rows that are widened at once, so that they and their scores stay in the cache."""
_AT_ONCE: Final = 1 << 19
"""Rows times fits of one system, which folds share as far as they fit: 2 MiB of curvatures."""

Rows = npt.NDArray[Any]
"""(n, d) numbers; uint16 is bfloat16, as stored."""


class Probe(NamedTuple):
    """A fitted probe: a row x has the score x @ weights + intercept."""

    weights: Floats
    """(d,), of rows as they are."""
    intercept: float

    def scores(self, rows: Rows) -> Floats:
        """(n,) scores of (n, d) rows."""
        starts = range(0, len(rows), _BLOCK_ROWS)
        blocks = [_widened(rows[k : k + _BLOCK_ROWS], np.float64) @ self.weights for k in starts]
        return np.concatenate([np.empty(0), *blocks]) + self.intercept


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossFit:
    """Scores of items by probes that saw other folds alone."""

    scores: Floats
    """(n,) log odds of the label 1, or the predicted number; (n, c) of c columns of labels."""
    mean_difference: Floats
    """(n,) or (n, c) product of the row with the difference of the two classes' means; of a number,
    with its covariance."""
    shuffled: Rows
    """(n, s) or (n, s, c) float32 scores of probes of shuffled labels."""
    random: Floats
    """(n, `RANDOM_DIRECTIONS`), with c columns another axis: products with random directions, whose
    sign the other folds give."""
    strengths: tuple[float, ...]
    """The strength of each fold's probe, of c columns of each fold's c probes."""


def cross_fit(
    rows: Rows,
    labels: Floats,
    fold: Codes,
    /,
    *,
    classes: bool,
    shuffled: Floats | None = None,
    seed: int = 0,
) -> CrossFit:
    """Scores of the rows, each by a probe of the other folds.

    rows: (n, d), finite. labels: (n,) 0 or 1 if `classes`, else numbers; or (n, c), a probe for
    each column, which share all that does not depend on labels. fold: (n,) at least three, of
    `label_folds`. shuffled: (n, s) or (n, s, c) shuffled labels, whose probes have the strength of
    the probe's. seed: of the random directions. ValueError for fewer than three folds.

    Memory: the basis, and 4 bytes for each row and fit of some folds (`_AT_ONCE`).
    """
    n, d = rows.shape
    codes, place = np.unique(fold, return_inverse=True)
    if len(codes) < 3:
        raise ValueError(f"{len(codes)} folds: nested folds need 3 or more")
    design = _Design.of(rows, place)
    columns = labels.reshape(n, -1).T[:, design.order]
    c, others = len(columns), np.empty((n, 0)) if shuffled is None else shuffled.reshape(n, -1)
    together = np.vstack([columns, others.T[:, design.order]], dtype=np.float32)
    directions = np.random.default_rng(seed).standard_normal((d, RANDOM_DIRECTIONS))
    strengths, each = np.empty((len(codes), c)), np.arange(len(together))
    of_rows, scored = np.empty((2 * c + RANDOM_DIRECTIONS, n)), np.empty_like(together)
    signs = np.empty((len(codes), RANDOM_DIRECTIONS, c))
    most = len(codes) * n * max(len(each), c * len(codes) * len(STRENGTHS))
    for folds in np.array_split(np.arange(len(codes)), min(len(codes), -(-most // _AT_ONCE))):
        strengths[folds] = _chosen(design, columns, folds, classes=classes)
        out, of = (axis.ravel() for axis in np.meshgrid(folds, each, indexing="ij"))
        penalty = strengths[out, of % c] * d
        fits = _Fits(design, together, classes=classes, out=out, label=of, penalty=penalty)
        weights, own = fits.solve(), of < c
        probes = replace(fits.part(own), labels=columns)
        exact, means = probes.solve(weights[own]), -probes.slope(np.zeros((own.sum(), d + 1)))[0]
        means[:, -1] = 0
        for k in folds.tolist():
            mine = probes.out == k
            signs[k] = np.where(means[mine, :-1] @ directions < 0, -1.0, 1.0).T
            drawn = np.pad(directions.T, ((0, 0), (0, 1)))
            design.score(k, np.vstack([exact[mine], means[mine], drawn]), of_rows)
            design.score(k, weights[out == k], scored)
    back = np.argsort(design.order)
    of_rows, scored = of_rows.T[back], scored.T[back]
    random = of_rows[:, 2 * c :, None] * signs[place]
    return CrossFit(
        scores=of_rows[:, :c].reshape(labels.shape).copy(),
        mean_difference=of_rows[:, c : 2 * c].reshape(labels.shape).copy(),
        shuffled=scored[:, c:].reshape(n, -1, *labels.shape[1:]),
        random=random.reshape(n, -1, *labels.shape[1:]),
        strengths=tuple(strengths.ravel().tolist()),
    )


def fit(rows: Rows, labels: Floats, strength: float, /, *, classes: bool) -> Probe:
    """The probe of all rows, (n, d), which are standardised; labels as of `cross_fit`.

    >>> rows, labels = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0.0, 0.0, 1.0, 1.0])
    >>> probe = fit(rows, labels, 1e-9, classes=False)
    >>> [round(score, 6) for score in (rows @ probe.weights + probe.intercept).tolist()]
    [-0.1, 0.2, 0.8, 1.1]
    """
    design, none = _Design.of(rows, np.zeros(len(rows), np.int64)), np.array([_NONE])
    penalty, columns = np.array([strength * rows.shape[1]]), labels[None].astype(np.float64)
    fits = _Fits(design, columns, classes=classes, out=none, label=none, penalty=penalty)
    (fitted,) = fits.solve(fits.solve())
    weights = fitted[:-1] * design.inverse
    return Probe(weights, float(fitted[-1] - design.mean @ weights))


def label_folds(labels: Codes, units: Codes, count: int, /, *, seed: int = 0) -> Codes:
    """(n,) fold of each item, 0 to count - 1: whole units, with labels about evenly divided.

    labels: (n,) from 0, such as classes, or bins of a number. units: (n,) from 0: clusters or
    groups, which no fold divides. Units come in a seeded order, those with most items first; each
    goes into the fold that has the fewest items of its labels, as scikit-learn's
    StratifiedGroupKFold does.

    >>> label_folds(np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), 2).tolist()
    [0, 0, 1, 1]
    """
    counts = np.zeros((int(units.max()) + 1, int(labels.max()) + 1))
    np.add.at(counts, (units, labels), 1)
    shares = counts / counts.sum(axis=0).clip(1)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    filled, fold = np.zeros((count, counts.shape[1])), np.empty(len(counts), np.int64)
    for unit in order:
        # sum of squares of what the folds hold of each label: least where they are even
        cost = (filled + shares[unit] / 2) @ shares[unit]
        fold[unit] = np.lexsort((filled.sum(axis=1), cost.round(12)))[0]
        filled[fold[unit]] += shares[unit]
    of_items: Codes = fold[units]
    return of_items


def shuffled_labels(labels: Floats, units: Codes, draws: int, /, *, seed: int = 0) -> Floats:
    """(n, draws) the labels in other orders: units get each other's labels.

    labels: (n,), or (n, c) for (n, draws, c). units: (n,) clusters from 0. Items that are units of
    their own are permuted. Where units differ in size, a unit gets another's labels as far as they
    reach, and then those of the next one.
    """
    generator = np.random.default_rng(seed)
    order = np.argsort(units, kind="stable")
    drawn = np.empty((len(labels), draws, *labels.shape[1:]))
    for k in range(draws):
        turns, inside = generator.random(int(units.max()) + 1), generator.random(len(labels))
        drawn[order, k] = labels[np.lexsort((inside, turns[units]))]
    return drawn


class _Frame(NamedTuple):
    """How rows of some folds are standardised, for each of f fits: (rows of the design - centre) *
    shrink.
    """

    centre: Rows
    """(f, d)"""
    shrink: Rows
    """(f, d) 0 where a column does not vary."""

    def turned(self, weights: Rows) -> tuple[Rows, Rows]:
        """(f, d) weights and (f,) intercepts of rows of the design, which give the scores that
        `weights`, (f, d + 1), give of these folds' standardised rows.
        """
        shrunk = self.shrink * weights[:, :-1]
        return shrunk, weights[:, -1] - np.einsum("fd,fd->f", self.centre, shrunk)

    def part(self, kept: Flags) -> "_Frame":
        """That of the fits that are kept."""
        return _Frame(self.centre[kept], self.shrink[kept])


@dataclass(frozen=True, slots=True)
class _Design:
    """Standardised rows, fold after fold, and the directions in which they vary."""

    rows: Rows
    """(n, d) as they came."""
    order: Codes
    """(n,) places in `rows` of those of fold 0, of fold 1, and so on."""
    edges: Codes
    """(folds + 1,) where each fold begins in `order`, and the end."""
    mean: Floats
    """(d,) of all rows."""
    inverse: Floats
    """(d,) of their standard deviation; 0 where a column does not vary."""
    frame: _Frame
    """Of the rows outside each fold, then of all rows."""
    spread: Rows
    """(r,) sums of squares of the rows along each direction of `basis`."""
    basis: Rows
    """(d, r) float32."""

    @classmethod
    def of(cls, rows: Rows, fold: Codes) -> "_Design":
        """The design of (n, d) rows. fold: (n,) from 0."""
        n, d = rows.shape
        sizes, order = np.bincount(fold), np.argsort(fold, kind="stable")
        nothing, edges = np.empty(0), np.append(0, np.cumsum(sizes))
        frame = _Frame(nothing, nothing)
        design = cls(rows, order, edges, np.zeros(d), np.ones(d), frame, nothing, nothing)
        means, squares = np.zeros((2, len(sizes), d))
        for k, _, block in design.blocks(np.float64):
            means[k] += block.sum(axis=0) / sizes[k]
        for k, _, block in design.blocks(np.float64):
            away = block - means[k]
            squares[k] += np.einsum("nd,nd->d", away, away)
        outside = 1 - np.eye(len(sizes)) if len(sizes) > 1 else np.empty((0, 1))
        seen = np.vstack([outside, np.ones(len(sizes))])
        count = (seen @ sizes)[:, None]
        mean = (seen * sizes) @ means / count
        apart = np.einsum("ik,ikd->id", seen * sizes, (means - mean[:, None]) ** 2)
        scale = np.sqrt((apart + seen @ squares) / count)
        # a constant column deviates by rounding alone
        inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 1e-12 * np.abs(mean))
        frame = _Frame((mean - mean[-1]) * inverse[-1], inverse * (scale[-1] * (inverse[-1] > 0)))
        design = replace(design, mean=mean[-1], inverse=inverse[-1], frame=frame)
        blocks = (block for _, _, block in design.blocks(np.float32))
        whole = np.vstack([*blocks]) if d > n else None
        products = np.zeros((d, d), np.float32) if whole is None else whole @ whole.T
        for block in blocks:
            products += block.T @ block
        spread, vectors = np.linalg.eigh(products)
        varies = spread > max(_LEAST_SPREAD * d, 1e-6 * spread[-1])
        spread, vectors = spread[varies], vectors[:, varies]
        basis = vectors if whole is None else whole.T @ (vectors / np.sqrt(spread))
        return replace(design, spread=spread, basis=basis)

    def blocks(
        self, dtype: npt.DTypeLike, folds: Iterable[int] | None = None
    ) -> Iterator[tuple[int, slice, Rows]]:
        """Rows of one fold: it, their places in `order`, and they, standardised like all rows.

        folds: all by default.
        """
        mean, inverse = self.mean.astype(dtype), self.inverse.astype(dtype)
        for k in range(len(self.edges) - 1) if folds is None else folds:
            first, end = self.edges[k : k + 2].tolist()
            for start in range(first, end, _BLOCK_ROWS):
                here = slice(start, min(start + _BLOCK_ROWS, end))
                block = _widened(self.rows[self.order[here]], dtype)
                block -= mean
                block *= inverse
                yield k, here, block

    def framed(self, out: Codes, dtype: npt.DTypeLike) -> _Frame:
        """That of the rows outside each of these folds, (f,)."""
        return _Frame(*(part[out].astype(dtype) for part in self.frame))

    def score(self, fold: int, weights: Rows, into: Rows) -> None:
        """Write the scores of the rows of `fold`, by (m, d + 1) weights of the rows outside it,
        into (m, n).
        """
        turned, intercept = self.framed(np.array([fold]), weights.dtype).turned(weights)
        for _, here, block in self.blocks(weights.dtype, [fold]):
            into[:, here] = turned @ block.T + intercept[:, None]


@dataclass(frozen=True, slots=True)
class _Fits:
    """Fits that are solved together: rows of one system. Scores have the design's order."""

    design: _Design
    labels: Rows
    """(c, n) in the same order."""
    classes: bool
    out: Codes
    """(f,) fold that each leaves out; `_NONE`."""
    label: Codes
    """(f,) row of its labels."""
    penalty: Floats
    """(f,)"""
    nested: Codes | None = None
    """(f,) another fold that it leaves out."""

    def part(self, kept: Flags) -> "_Fits":
        """Those that are kept."""
        nested = None if self.nested is None else self.nested[kept]
        out, label, penalty = self.out[kept], self.label[kept], self.penalty[kept]
        return replace(self, out=out, label=label, penalty=penalty, nested=nested)

    def solve(self, start: Rows | None = None) -> Rows:
        """(f, d + 1) weights of rows as `out` standardises them, then the intercept.

        start: weights of fits in float32, from which those in float64 go on, to `_FITTED`.
        """
        dtype: np.dtype[Any] = np.dtype(np.float32 if start is None else np.float64)
        until, rounding = _CHOSEN if start is None else _FITTED, np.finfo(dtype).eps
        weights = np.zeros((len(self.out), len(self.design.mean) + 1), dtype)
        slope, curve, squares = self.slope(weights)
        size = np.vecdot(slope, self._steep(slope, curve))
        # about twice what the loss can still lose: below rounding of the loss, steps lead nowhere
        end = np.maximum(until**2 * size, rounding * squares).astype(dtype)
        if start is not None:
            weights[:] = start
            slope, curve, _ = self.slope(weights)
        fits, going, solved = self, np.arange(len(end)), weights
        step, fall = np.zeros_like(weights), np.zeros_like(end)
        for _ in range(_MOST_STEPS):
            solved[going] = weights
            steep = fits._steep(slope, curve)
            more = np.vecdot(slope, steep) > end
            if not more.any():
                break
            fits, going, end, weights, slope, steep, curve, step, fall = (
                fits.part(more),
                *(part[more] for part in (going, end, weights, slope, steep, curve, step, fall)),
            )
            rise = np.vecdot(slope, step)
            # a step that went too far goes back to where the slope along it is about 0
            back = -step * (rise / np.maximum(rise + fall, np.finfo(dtype).tiny))[:, None]
            newton = fits._newton(slope, steep, curve, end)
            step = np.where((rise > fall / 2)[:, None], back, newton)
            fall = -np.vecdot(slope, step)
            weights = weights + step
            slope, curve, _ = fits.slope(weights)
        return solved

    def slope(self, weights: Rows) -> tuple[Rows, Rows, Floats]:
        """(f, d + 1) slope of the loss, (f, n) its curvature by score in float32, and (f,) the sum
        of squares of its slopes by score.
        """
        curve = np.zeros((len(weights), self.labels.shape[1]), np.float32)
        squares = np.zeros(len(weights))

        def excess(use: Codes, here: slice, score: Rows) -> Rows:
            predicted = expit(score) if self.classes else score
            curve[use, here] = predicted * (1 - predicted) if self.classes else 1
            away: Rows = predicted - self.labels[self.label[use], here]
            squares[use] += np.vecdot(away, away)
            return away

        return self._back(weights, excess), curve, squares

    def _back(
        self,
        weights: Rows,
        change: Callable[[Codes, slice, Rows], Rows],
        frame: _Frame | None = None,
    ) -> Rows:
        """(f, d + 1) sums of rows times what `change` makes of their scores, and the penalty's
        part: a slope, or the change of one. change: of the scores of some fits at some rows.
        """
        frame = frame or self.design.framed(self.out, weights.dtype)
        turned, intercept = frame.turned(weights)
        back = np.zeros_like(weights)
        for k, here, block in self.design.blocks(weights.dtype):
            use = self.out != k if self.nested is None else (self.out != k) & (self.nested != k)
            use = np.flatnonzero(use)
            changed = change(use, here, turned[use] @ block.T + intercept[use, None])
            back[use, :-1] += changed @ block
            back[use, -1] += changed.sum(axis=1)
        back[:, :-1] -= frame.centre * back[:, -1:]
        back[:, :-1] *= frame.shrink
        back[:, :-1] += self.penalty.astype(back.dtype)[:, None] * weights[:, :-1]
        return back

    def _steep(self, slope: Rows, curve: Rows) -> Rows:
        """(f, d + 1) steepest direction: the slope over a curvature that is one number for all rows
        of a fit.
        """
        basis, penalty = self.design.basis, self.penalty.astype(np.float32)[:, None]
        slope, share = slope.astype(np.float32), curve.mean(axis=1, keepdims=True)
        inside, steep = slope[:, :-1] @ basis, np.empty_like(slope)
        steep[:, :-1] = (inside / (share * self.design.spread + penalty)) @ basis.T
        if len(basis) > basis.shape[1]:
            steep[:, :-1] += (slope[:, :-1] - inside @ basis.T) / penalty
        steep[:, -1] = slope[:, -1] / np.maximum(share[:, 0] * curve.shape[1], _TINY)
        return steep

    def _newton(self, slope: Rows, steep: Rows, curve: Rows, end: Floats) -> Rows:
        """(f, d + 1) Newton's step, by conjugate gradients. steep: of the slope. end: (f,) product
        of the two at which a fit ends.
        """
        fits, going, step = self, np.arange(len(end)), np.zeros_like(steep)
        rest, direction = -slope.astype(np.float32), -steep
        size = np.vecdot(rest, direction)
        least = _CLASSES_STEP if self.classes else _LEAST_STEP
        end = np.maximum(end / 4, least**2 * size)
        frame = self.design.framed(self.out, np.float32)
        for _ in range(_MOST_STEPS):
            bent = fits._back(direction, partial(_bent, curve), frame)
            along = (size / np.maximum(np.vecdot(direction, bent), _TINY))[:, None]
            step[going] += along * direction
            rest -= along * bent
            steep, last = fits._steep(rest, curve), size
            size = np.vecdot(rest, steep)
            direction = steep + (size / np.maximum(last, _TINY))[:, None] * direction
            more = size > end
            if not more.any():
                break
            if not more.all():
                fits, frame, going, end, size = (
                    fits.part(more),
                    frame.part(more),
                    *(part[more] for part in (going, end, size)),
                )
                rest, direction, curve = rest[more], direction[more], curve[more]
        return step


def _bent(curve: Rows, use: Codes, here: slice, score: Rows) -> Rows:
    """The change of slopes by score, of some fits at some rows."""
    changed: Rows = score * curve[use, here]
    return changed


def _widened(rows: Rows, dtype: npt.DTypeLike) -> Rows:
    """A copy of the rows as numbers."""
    return (to_float32(rows) if rows.dtype == np.uint16 else rows).astype(dtype)


def _chosen(design: _Design, labels: Floats, folds: Codes, *, classes: bool) -> Floats:
    """(folds, c) strengths with the least loss of rows that fits did not see: each fold besides
    that of `folds` left out.
    """
    d, n_folds, c = len(design.mean), len(design.edges) - 1, len(labels)
    axes = np.meshgrid(folds, range(n_folds), range(len(STRENGTHS)), range(c), indexing="ij")
    out, nested, strength, label = np.array([axis[axes[0] != axes[1]] for axis in axes])
    penalty = np.array(STRENGTHS)[strength] * d
    fits = _Fits(design, labels, classes, out, label, penalty, nested)
    turned, intercept = design.framed(out, np.float32).turned(fits.solve())
    loss = np.zeros(len(out))
    for k, here, block in design.blocks(np.float32):
        left = nested == k
        score, y = turned[left] @ block.T + intercept[left, None], labels[label[left], here]
        each = np.logaddexp(0, score) - y * score if classes else (score - y) ** 2
        loss[left] += each.sum(axis=1)
    of_strengths = loss.reshape(len(folds), n_folds - 1, len(STRENGTHS), c).sum(axis=1)
    chosen: Floats = np.array(STRENGTHS)[of_strengths.argmin(axis=1)]
    return chosen
