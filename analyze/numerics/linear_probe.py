"""Linear probes of rows: ridge logistic or ridge linear regression, and the difference of means.

Every score of an item comes from a probe that saw other folds alone: columns are standardised,
the strength is chosen and the probe is fitted without the item's fold. The strength is chosen among
`STRENGTHS` by nested folds, which are the other folds, each left out once.

The rows of all folds but one have one eigendecomposition, of their products in min(m, d)
dimensions. In its basis the penalty is that of the weights, and the curvature is about diagonal, so
every fit on those rows (each nested fold and strength, each shuffle of the labels) is a column of
one system, solved together by conjugate gradients in a few products of matrices. Cost, for each
fold of m rows: m d k multiply-adds and an eigendecomposition of size k = min(m, d), then about 15
times 2 m k f for f fits. Fits that only choose a strength, or are of shuffled labels, are in
float32.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from lpp.analyze.numerics.moments import Floats
from lpp.analyze.numerics.statistics.auroc import Codes, Flags

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

_MOST_STEPS: Final = 500
_AGAIN: Final = 8
"""Steps after which logistic fits take the curvature where they are: at the start it is 1/4, and
with separable classes far less at the end (332 steps became 17)."""
_LINE_STEPS: Final = 5
_TURNED: Final = 256
"""Rows that are turned into a basis at once, in place."""

Rows = npt.NDArray[np.floating[Any]]


class Probe(NamedTuple):
    """A fitted probe: a row x has the score x @ weights + intercept."""

    weights: Floats
    """(d,), of rows as they are."""
    intercept: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossFit:
    """Scores of items by probes that saw other folds alone."""

    scores: Floats
    """(n,) log odds of the label 1, or the predicted number; (n, c) of c columns of labels."""
    mean_difference: Floats
    """(n,) or (n, c) product of the row with the difference of the two classes' means; of a number,
    with its covariance."""
    shuffled: Floats
    """(n, s) or (n, s, c) scores of probes of shuffled labels."""
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

    Memory: a copy of the rows in float64, and one in float32; more if there are fewer than columns.
    """
    n, d = rows.shape
    codes = np.unique(fold)
    if len(codes) < 3:
        raise ValueError(f"{len(codes)} folds: nested folds need 3 or more")
    columns = labels.reshape(n, -1)
    others = np.empty((n, 0)) if shuffled is None else shuffled
    others = others.reshape(n, -1, columns.shape[1])
    directions = np.random.default_rng(seed).standard_normal((d, RANDOM_DIRECTIONS))
    scores, mean_difference = np.empty((2, *columns.shape))
    of_shuffled, random = np.empty(others.shape), np.empty((n, RANDOM_DIRECTIONS, len(columns.T)))
    strengths = []
    for code in codes:
        out = fold == code
        standard, design = _Standard.of(rows[~out])
        drawn, basis = design[:, :-1] @ directions, _Basis.of(design)
        del design
        outside = standard(rows[out])
        left, ahead = outside @ basis.columns, outside @ directions
        for k, y in enumerate(columns[~out].T):
            strength = _chosen(basis, y, fold[~out], d, classes=classes)
            strengths.append(strength)
            penalty = np.array([strength * d])
            scores[out, k] = _scores(left, basis.fit(y[:, None], penalty, classes=classes))[:, 0]
            away = y - y.mean()
            mean_difference[out, k] = left @ (basis.rows.T @ away)
            if others.size:
                fits = basis.fit(others[~out, :, k], penalty, classes=classes, exact=False)
                of_shuffled[out, :, k] = _scores(left, fits)
            random[out, :, k] = ahead * np.where(away @ drawn < 0, -1.0, 1.0)
    return CrossFit(
        scores=scores.reshape(labels.shape),
        mean_difference=mean_difference.reshape(labels.shape),
        shuffled=of_shuffled.reshape(n, -1, *labels.shape[1:]),
        random=random.reshape(n, -1, *labels.shape[1:]),
        strengths=tuple(strengths),
    )


def fit(rows: Rows, labels: Floats, strength: float, /, *, classes: bool) -> Probe:
    """The probe of all rows, (n, d), which are standardised; labels as of `cross_fit`.

    >>> rows, labels = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0.0, 0.0, 1.0, 1.0])
    >>> probe = fit(rows, labels, 1e-9, classes=False)
    >>> [round(score, 6) for score in (rows @ probe.weights + probe.intercept).tolist()]
    [-0.1, 0.2, 0.8, 1.1]
    """
    standard, design = _Standard.of(rows)
    basis = _Basis.of(design)
    penalty = np.array([strength * rows.shape[1]])
    fitted = basis.fit(labels.astype(np.float64)[:, None], penalty, classes=classes)[:, 0]
    weights = basis.columns @ fitted[:-1] / standard.scale
    return Probe(weights, float(fitted[-1] - standard.mean @ weights))


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


class _Standard(NamedTuple):
    """Means and standard deviations of columns; 1 where a column does not vary."""

    mean: Floats
    scale: Floats

    @classmethod
    def of(cls, rows: Rows) -> tuple["_Standard", Floats]:
        """Those of (m, d) rows, and a design, (m, d + 1): the standardised rows, then 1."""
        mean, design = rows.mean(axis=0, dtype=np.float64), np.ones((len(rows), len(rows.T) + 1))
        inside = design[:, :-1]
        inside[:] = rows
        inside -= mean
        scale = np.sqrt(np.einsum("ij,ij->j", inside, inside) / len(rows))
        # a constant column deviates by rounding alone
        scale = np.where(scale > 1e-12 * np.abs(mean), scale, np.inf)
        inside /= scale
        return cls(mean, scale), design

    def __call__(self, rows: Rows) -> Floats:
        return (rows - self.mean) / self.scale


@dataclass(frozen=True, slots=True)
class _Basis:
    """Standardised rows in the directions in which they vary."""

    design: Floats
    """(m, r + 1) coordinates of the rows, then 1 for the intercept."""
    spread: Floats
    """(r,) sums of squares of each coordinate."""
    columns: Floats
    """(d, r) directions."""

    @classmethod
    def of(cls, design: Floats) -> "_Basis":
        """The basis of (m, d + 1) standardised rows with 1 at the end, which are lost if d <= m."""
        inside = design[:, :-1]
        m, d = inside.shape
        spread, vectors = np.linalg.eigh(inside.T @ inside if d <= m else inside @ inside.T)
        varies = spread > max(m, d) * np.finfo(np.float64).eps * spread[-1]
        spread, vectors = spread[varies], vectors[:, varies]
        r = len(spread)
        if d > m:
            root = np.sqrt(spread)
            coordinates = np.column_stack([vectors * root, np.ones(m)])
            return cls(coordinates, spread, inside.T @ (vectors / root))
        for start in range(0, m, _TURNED):
            block = design[start : start + _TURNED]
            block[:, :r] = block[:, :-1] @ vectors
        design[:, r] = 1
        return cls(design[:, : r + 1], spread, vectors)

    @property
    def rows(self) -> Floats:
        """(m, r) coordinates of the rows."""
        return self.design[:, :-1]

    def fit(
        self,
        labels: Rows,
        penalties: Floats,
        used: Flags | None = None,
        *,
        classes: bool,
        exact: bool = True,
    ) -> Rows:
        """(r + 1, f) weights of coordinates, then the intercept, of f fits.

        labels, penalties, used: (m, f) or (m, 1), (f,) or (1,), (m, f) whether a fit uses a row.
        exact: if False, a fit ends at `_CHOSEN` and computes in float32. The loss is convex, so
        each step goes to the least loss along its direction, which needs no product of matrices;
        directions are those of Polak and Ribiere, preconditioned.
        """
        m, r = self.rows.shape
        f = max(labels.shape[1], len(penalties), 1 if used is None else used.shape[1])
        dtype = np.dtype(np.float64 if exact else np.float32)
        until = _FITTED if exact else _CHOSEN
        design, labels = self.design.astype(dtype, copy=False), labels.astype(dtype)
        use = np.ones((m, 1), dtype) if used is None else used.astype(dtype)
        ridge = np.zeros((r + 1, f), dtype)
        ridge[:r] = penalties
        spread = np.append(self.spread, m)[:, None].astype(dtype)
        curvature = (0.25 if classes else 1.0) * use.mean(axis=0)
        scale = 1 / (curvature * spread + ridge)
        weights, score = np.zeros((r + 1, f), dtype), np.zeros((m, f), dtype)

        def excess() -> Rows:
            return use * ((expit(score) if classes else score) - labels)

        slope = design.T @ excess()
        steep = scale * slope
        size = (slope * steep).sum(axis=0)
        # about twice what the loss can still lose: below rounding of the loss, steps lead nowhere
        rounding = 2.0**-52 if exact else 2.0**-23
        end = np.maximum(until**2 * size, rounding * (excess() ** 2).sum(axis=0))
        direction = -steep
        for k in range(1, _MOST_STEPS):
            if (size <= end).all():
                break
            if classes and k % _AGAIN == 0:
                share = expit(score)
                curvature = (use * share * (1 - share)).mean(axis=0)
                scale = 1 / (curvature * spread + ridge)
                steep = scale * slope
                size = (slope * steep).sum(axis=0)
                direction = -steep
            ahead = design @ direction
            penalty = (ridge * np.stack([weights, direction]) * direction).sum(axis=1)
            step = _least(score, ahead, labels, use, penalty, classes=classes)
            weights += step * direction
            score += step * ahead
            before, slope = slope, design.T @ excess() + ridge * weights
            steep = scale * slope
            size, last = (slope * steep).sum(axis=0), size
            turn = size - (steep * before).sum(axis=0)
            turn = np.maximum(np.divide(turn, last, out=np.zeros_like(turn), where=last > 0), 0)
            direction = turn * direction - steep
        return weights


def _least(
    score: Rows, ahead: Rows, labels: Rows, use: Rows, penalty: Rows, *, classes: bool
) -> Rows:
    """(f,) how far along each direction the loss is least: Newton's steps inside a bracket.

    ahead: (m, f) change of the scores. penalty: (2, f) its slope at 0, and its curvature.
    """
    along, bend = penalty
    nothing = np.zeros_like(bend)
    step: Rows = nothing
    low, high = nothing, np.full_like(bend, np.inf)
    for _ in range(_LINE_STEPS if classes else 1):
        there = score + step * ahead
        predicted = expit(there) if classes else there
        slope = (use * (predicted - labels) * ahead).sum(axis=0) + along + step * bend
        curvature = predicted * (1 - predicted) if classes else 1.0
        curve = (use * curvature * ahead**2).sum(axis=0) + bend
        low, high = np.where(slope < 0, step, low), np.where(slope > 0, step, high)
        newton = step - np.divide(slope, curve, out=nothing.copy(), where=curve > 0)
        beyond = np.where(np.isfinite(high), (low + high) / 2, 2 * low + 1)
        step = np.where((newton >= low) & (newton <= high), newton, beyond)
    return step


def _chosen(basis: _Basis, labels: Floats, fold: Codes, d: int, *, classes: bool) -> float:
    """The strength with the least loss of rows that its fits did not see: each fold left out."""
    codes = np.unique(fold)
    used = np.repeat(fold[:, None] != codes, len(STRENGTHS), axis=1)
    penalties = np.tile(np.array(STRENGTHS) * d, len(codes))
    fits = basis.fit(labels[:, None], penalties, used, classes=classes, exact=False)
    scores, y = _scores(basis.rows, fits), labels[:, None]
    loss = np.logaddexp(0, scores) - y * scores if classes else (scores - y) ** 2
    of_strengths = (loss * ~used).sum(axis=0).reshape(len(codes), -1).sum(axis=0)
    return STRENGTHS[int(of_strengths.argmin())]


def _scores(coordinates: Floats, fits: Rows) -> Floats:
    """(k, f) scores of rows with these coordinates, (k, r), by fits, (r + 1, f)."""
    scores: Floats = coordinates @ fits[:-1] + fits[-1]
    return scores
