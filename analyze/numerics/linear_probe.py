"""Linear probes of rows: ridge logistic or ridge linear regression, and the difference of means.

Every score of an item comes from a probe that saw other folds alone: columns are standardised,
the strength is chosen and the probe is fitted without the item's fold. The strength is chosen among
`STRENGTHS` by nested folds, which are the other folds, each left out once.
"""

from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from lpp.analyze.numerics.moments import Floats, Rows
from lpp.analyze.numerics.ridge_fits import BLOCK_ROWS, NONE, Design, Fits, widened
from lpp.analyze.numerics.statistics.auroc import Codes

STRENGTHS: Final = (100.0, 10.0, 1.0, 0.1, 0.01)
"""Strengths that are tried. The penalty of weights w of standardised columns is
strength * d / 2 * |w|^2 beside the sum of the losses, so that one strength means about the same
whatever d: scikit-learn's C is 1 / (strength d), its alpha of Ridge is strength d."""

RANDOM_DIRECTIONS: Final = 19
"""Random directions of a control: 1 in 20 probes without information is beyond the best of 19."""

_AT_ONCE: Final = 1 << 19
"""Rows times fits of one system, which folds share as far as they fit: 2 MiB of curvatures."""


class Probe(NamedTuple):
    """A fitted probe: a row x has the score x @ weights + intercept."""

    weights: Floats
    """(d,), of rows as they are."""
    intercept: float

    def scores(self, rows: Rows) -> Floats:
        """(n,) scores of (n, d) rows."""
        starts = range(0, len(rows), BLOCK_ROWS)
        blocks = [widened(rows[k : k + BLOCK_ROWS], np.float64) @ self.weights for k in starts]
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
    training: Floats
    """(n,) of a number: by how much the squared errors of other folds fall if an item that their
    probes are fitted to counts more, as their slope in its weight; of classes zeros."""
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
    design = Design.of(rows, place)
    columns = labels.reshape(n, -1).T[:, design.order]
    c, others = len(columns), np.empty((n, 0)) if shuffled is None else shuffled.reshape(n, -1)
    together = np.vstack([columns, others.T[:, design.order]], dtype=np.float32)
    directions = np.random.default_rng(seed).standard_normal((d, RANDOM_DIRECTIONS))
    strengths, each = np.empty((len(codes), c)), np.arange(len(together))
    of_rows, scored = np.empty((2 * c + RANDOM_DIRECTIONS, n)), np.empty_like(together)
    signs, training = np.empty((len(codes), RANDOM_DIRECTIONS, c)), np.zeros(n)
    most = len(codes) * n * max(len(each), c * len(codes) * len(STRENGTHS))
    for folds in np.array_split(np.arange(len(codes)), min(len(codes), -(-most // _AT_ONCE))):
        strengths[folds] = _chosen(design, columns, folds, classes=classes)
        out, of = (axis.ravel() for axis in np.meshgrid(folds, each, indexing="ij"))
        penalty = strengths[out, of % c] * d
        fits = Fits(design, together, classes=classes, out=out, label=of, penalty=penalty)
        weights, own = fits.solve(), of < c
        probes = replace(fits.part(own), labels=columns)
        exact, means = probes.solve(weights[own]), -probes.slope(np.zeros((own.sum(), d + 1)))[0]
        means[:, -1] = 0
        if not classes:
            training += probes.of_training(exact)
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
        training=training[back],
        strengths=tuple(strengths.ravel().tolist()),
    )


def fit(rows: Rows, labels: Floats, strength: float, /, *, classes: bool) -> Probe:
    """The probe of all rows, (n, d), which are standardised; labels as of `cross_fit`.

    >>> rows, labels = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0.0, 0.0, 1.0, 1.0])
    >>> probe = fit(rows, labels, 1e-9, classes=False)
    >>> [round(score, 6) for score in (rows @ probe.weights + probe.intercept).tolist()]
    [-0.1, 0.2, 0.8, 1.1]
    """
    design, none = Design.of(rows, np.zeros(len(rows), np.int64)), np.array([NONE])
    penalty, columns = np.array([strength * rows.shape[1]]), labels[None].astype(np.float64)
    fits = Fits(design, columns, classes=classes, out=none, label=none, penalty=penalty)
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
    """(n, draws) the labels in other orders: each unit gets those of one other unit, or its own.

    labels: (n,), or (n, c) for (n, draws, c). units: (n,) clusters from 0. Items that are units of
    their own are permuted. The labels of the other unit keep their order and begin at a random one;
    a smaller unit gets some of them, a larger one gets them again, so that no unit mixes the labels
    of two: labels depend on each other within units as much as the real ones do.
    """
    generator = np.random.default_rng(seed)
    sizes, order = np.bincount(units), np.argsort(units, kind="stable")
    first, unit = np.cumsum(sizes) - sizes, units[order]
    drawn = np.empty((len(labels), draws, *labels.shape[1:]))
    for k in range(draws):
        other = generator.permutation(len(sizes))[unit]
        start = generator.integers(0, sizes)[other]
        inside = (start + np.arange(len(unit)) - first[unit]) % sizes[other]
        drawn[order, k] = labels[order[first[other] + inside]]
    return drawn


def _chosen(design: Design, labels: Floats, folds: Codes, *, classes: bool) -> Floats:
    """(folds, c) strengths with the least loss of rows that fits did not see: each fold besides
    that of `folds` left out.
    """
    d, n_folds, c = len(design.mean), len(design.edges) - 1, len(labels)
    axes = np.meshgrid(folds, range(n_folds), range(len(STRENGTHS)), range(c), indexing="ij")
    out, nested, strength, label = np.array([axis[axes[0] != axes[1]] for axis in axes])
    penalty = np.array(STRENGTHS)[strength] * d
    fits = Fits(design, labels, classes, out, label, penalty, nested)
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
