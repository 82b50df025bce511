"""Ridge logistic or ridge linear fits to parts of the same rows, as one system.

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

from lpp.analyze.numerics.moments import Floats, Rows
from lpp.analyze.numerics.statistics.auroc import Codes, Flags
from lpp.store.arrays.reader import to_float32

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

NONE: Final = -1
"""The fold that fits of all rows leave out."""

_MOST_STEPS: Final = 500
BLOCK_ROWS: Final = 256
"""Rows that are widened at once, so that they and their scores stay in the cache."""


class Frame(NamedTuple):
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

    def part(self, kept: Flags) -> "Frame":
        """That of the fits that are kept."""
        return Frame(self.centre[kept], self.shrink[kept])


@dataclass(frozen=True, slots=True)
class Design:
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
    frame: Frame
    """Of the rows outside each fold, then of all rows."""
    spread: Rows
    """(r,) sums of squares of the rows along each direction of `basis`."""
    basis: Rows
    """(d, r) float32."""

    @classmethod
    def of(cls, rows: Rows, fold: Codes) -> "Design":
        """The design of (n, d) rows. fold: (n,) from 0."""
        n, d = rows.shape
        sizes, order = np.bincount(fold), np.argsort(fold, kind="stable")
        nothing, edges = np.empty(0), np.append(0, np.cumsum(sizes))
        frame = Frame(nothing, nothing)
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
        frame = Frame((mean - mean[-1]) * inverse[-1], inverse * (scale[-1] * (inverse[-1] > 0)))
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
            for start in range(first, end, BLOCK_ROWS):
                here = slice(start, min(start + BLOCK_ROWS, end))
                block = widened(self.rows[self.order[here]], dtype)
                block -= mean
                block *= inverse
                yield k, here, block

    def framed(self, out: Codes, dtype: npt.DTypeLike) -> Frame:
        """That of the rows outside each of these folds, (f,)."""
        return Frame(*(part[out].astype(dtype) for part in self.frame))

    def score(self, fold: int, weights: Rows, into: Rows) -> None:
        """Write the scores of the rows of `fold`, by (m, d + 1) weights of the rows outside it,
        into (m, n).
        """
        turned, intercept = self.framed(np.array([fold]), weights.dtype).turned(weights)
        for _, here, block in self.blocks(weights.dtype, [fold]):
            into[:, here] = turned @ block.T + intercept[:, None]


@dataclass(frozen=True, slots=True)
class Fits:
    """Fits that are solved together: rows of one system. Scores have the design's order."""

    design: Design
    labels: Rows
    """(c, n) in the same order."""
    classes: bool
    out: Codes
    """(f,) fold that each leaves out; `NONE`."""
    label: Codes
    """(f,) row of its labels."""
    penalty: Floats
    """(f,)"""
    nested: Codes | None = None
    """(f,) another fold that it leaves out."""

    def part(self, kept: Flags) -> "Fits":
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

    def of_training(self, weights: Rows) -> Floats:
        """(n,) twice the sum, over the fits that see a row, of the product of its error with what
        the slope of the squared errors outside the fit, through the fit, gives the row.

        weights: (f, d + 1) of fits of a number. By so much the squared errors of the rows that a
        fit leaves out fall, in slope, where a row of the fit counts more: the infinitesimal
        jackknife of Jaeckel 1972, with the scales of columns taken as given.
        """
        frame = self.design.framed(self.out, weights.dtype)
        turned, intercept = frame.turned(weights)
        away, pull = np.empty((len(weights), self.labels.shape[1])), np.zeros_like(weights)
        for k, here, block in self.design.blocks(weights.dtype):
            away[:, here] = self.labels[self.label, here] - turned @ block.T - intercept[:, None]
            left = self.out == k
            pull[left, :-1] += away[left, here] @ block
            pull[left, -1] += away[left, here].sum(axis=1)
        pull[:, :-1] -= frame.centre * pull[:, -1:]
        pull[:, :-1] *= frame.shrink
        curve = np.ones(away.shape, np.float32)
        step = self._newton(pull, self._steep(pull, curve), curve, np.zeros(len(pull)))
        turned, intercept = frame.turned(-step)
        total = np.zeros(away.shape[1])
        for k, here, block in self.design.blocks(step.dtype):
            use = self.out != k
            through = turned[use] @ block.T + intercept[use, None]
            total[here] += 2 * (through * away[use, here]).sum(axis=0)
        return total

    def _back(
        self,
        weights: Rows,
        change: Callable[[Codes, slice, Rows], Rows],
        frame: Frame | None = None,
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


def widened(rows: Rows, dtype: npt.DTypeLike) -> Rows:
    """A copy of the rows as numbers."""
    return (to_float32(rows) if rows.dtype == np.uint16 else rows).astype(dtype)
