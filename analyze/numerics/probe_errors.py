"""How well probes predict labels, with errors: AUROC of classes, R2 of a number, and differences.

Scores of all items come from a few probes whose training sets overlap, so that numbers of different
folds go together: errors that take the scores as given are too short. On labels without information
p < .05 came in 14 to 18 % of draws with DeLong's (100 to 200 items, 5 folds). So every number is
also computed of probes of shuffled labels, and p compares it with theirs.

- AUROC: what their variance exceeds DeLong's by is added to the square of the error, on the scale
  of the log odds, since a probe that reads a label well depends less on the sample.
- R2: each item contributes also as training data, by the infinitesimal jackknife of the probes.
  Labels without information depend on the sample far less than those that are predicted.

Intervals are Student's, with degrees of freedom of their errors. How often they miss the mean over
draws is simulated in `benchmarks/probe_null.py`.
"""

import math
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from scipy import stats
from scipy.special import expit

from lpp.analyze.numerics.linear_probe import CrossFit, cross_fit, shuffled_labels
from lpp.analyze.numerics.moments import Floats, Rows
from lpp.analyze.numerics.statistics.auroc import CONFIDENCE, Codes, Flags, Z, log_odds_interval
from lpp.analyze.numerics.statistics.auroc_columns import auroc_columns
from lpp.analyze.numerics.statistics.calibration import Calibration, calibration
from lpp.analyze.numerics.statistics.recall import Recall, recall_at_false_alarms

SHUFFLES: Final = 39
"""Draws of shuffled labels."""

HEAVY: Final = 0.1
"""Clusters of one size that hold the squares of a number, over clusters, below which it has a heavy
tail: a kurtosis of 10. Intervals hold up to there (`benchmarks/probe_null.py`)."""


class Estimate(NamedTuple):
    """A number of a probe, or the difference of the numbers of two."""

    value: float
    stderr: float
    interval: tuple[float, float] | None
    """95 %; None where scores order the classes perfectly."""
    p_value: float
    """Of a number: one-sided, of labels without information, Student's t of the draws. Of a
    difference: two-sided, of none, normal."""
    shuffled: Floats
    """(`SHUFFLES`,) its values for shuffled labels."""


class Measured(NamedTuple):
    """The number of a probe, then that of the probes of shuffled labels."""

    values: Floats
    """(1 + `SHUFFLES`,); NaN where no fold has two clusters of each class."""
    parts: Floats
    """(clusters, 1 + `SHUFFLES`) what each cluster contributes to the error: the sum of their
    squares is the error's square. It takes the scores as given, except for R2 of a label that is
    a number, where the probes are varied too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The labels of some items, their folds and clusters: what is predicted, and how checked."""

    labels: Floats
    """(n,) 0 or 1 if `classes`, else numbers; (n, c) of several classes, 1 in an item's own."""
    fold: Codes
    """(n,) of `label_folds`."""
    clusters: Codes
    """(n,) from 0; items of one cluster are not independent."""
    classes: bool
    seed: int
    shuffled: Floats = field(init=False, repr=False)
    """(n, `SHUFFLES`), of several classes (n, `SHUFFLES`, c)"""

    @property
    def is_heavy(self) -> bool:
        """Whether a few clusters hold most of the squares of a number, so that no error of its R2
        holds.
        """
        if self.classes:
            return False
        squares = np.bincount(self.clusters, (self.labels - self.labels.mean()) ** 2)
        return bool(squares.sum() ** 2 < HEAVY * len(squares) * (squares**2).sum())

    def __post_init__(self) -> None:
        drawn = shuffled_labels(self.labels, self.clusters, SHUFFLES, seed=self.seed)
        object.__setattr__(self, "shuffled", drawn)

    def scored(self, rows: Rows) -> CrossFit:
        """Scores of (n, d) rows by probes of the other folds."""
        return cross_fit(
            rows,
            self.labels,
            self.fold,
            classes=self.classes,
            shuffled=self.shuffled,
            seed=self.seed,
        )

    def number(self, fitted: CrossFit) -> Estimate | None:
        """AUROC of classes, over pairs of one fold, of several the mean over each against the rest;
        R2 of a number: 1 less the squared error over that of the mean of the other folds. None
        where no fold has two clusters of each class.
        """
        return self.estimate(self.measured(fitted))

    def difference(self, fitted: CrossFit, other: CrossFit) -> Estimate | None:
        """How much larger the number of `fitted` is than that of `other`, paired by item."""
        return self.estimate(self.measured(fitted), self.measured(other))

    def aurocs(self, scores: Floats) -> Floats:
        """(s,) AUROCs of (n, s) scores, of several classes (n, s, c), over pairs of one fold; NaN
        where there is none.
        """
        labels = np.broadcast_to(self.labels[:, None], scores.shape)
        return self._columns(labels, scores).values

    def recall(self, fitted: CrossFit) -> Recall | None:
        """Recall of the label 1 at 1 % false alarms, scores of all folds together; of several
        classes over all pairs of an item and a class. None of a number, and of few items.
        """
        if not self.classes:
            return None
        return recall_at_false_alarms(*self._decisions(fitted), seed=self.seed)

    def calibration(self, fitted: CrossFit) -> Calibration | None:
        """Whether the label 1 is as frequent as probes say, in bins of equal size; of several
        classes over all pairs of an item and a class. None of a number.
        """
        if not self.classes:
            return None
        scores, positive, clusters = self._decisions(fitted)
        return calibration(expit(scores), positive, clusters, seed=self.seed)

    def _decisions(self, fitted: CrossFit) -> tuple[Floats, Flags, Codes]:
        """Scores, labels and clusters of each item, or of each pair of an item and a class."""
        clusters = np.repeat(self.clusters, fitted.scores.size // len(self.clusters))
        return fitted.scores.ravel(), self.labels.ravel() > 0, clusters

    def measured(self, fitted: CrossFit) -> Measured:
        """The numbers of `fitted`, of which `estimate` makes errors."""
        labels = np.concatenate([self.labels[:, None], self.shuffled], axis=1)
        scores = np.concatenate([fitted.scores[:, None], fitted.shuffled], axis=1)
        measured = self._columns(labels, scores)
        if not self.classes:
            measured.parts[:, 0] += self._of_training(fitted, float(measured.values[0]))
        return measured

    def estimate(self, of: Measured, other: Measured | None = None) -> Estimate | None:
        """The number with its errors, or how much larger it is than `other`, paired by item."""
        values, parts = of if other is None else (of.values - other.values, of.parts - other.parts)
        variances = (parts**2).sum(axis=0)
        drawn = np.isfinite(values)
        drawn[0] = False
        if math.isnan(values[0]) or drawn.sum() < 2:
            return None
        value, shuffled = float(values[0]), values[drawn]
        spread = float(shuffled.std(ddof=1))
        excess = max(spread**2 - float(variances[drawn].mean()), 0.0)
        added = 0.0
        if self.classes:  # of a number, `parts` have what the training sets add
            room = max(4 * v * (1 - v) for one in (of, other) if one for v in (one.values[0],))
            added = excess * float(room) ** 2
        stderr = math.sqrt(float(variances[0]) + added)
        freedom = self._freedom(parts[:, 0], added)
        if other is None:
            away = (value - float(shuffled.mean())) / (
                spread * math.sqrt(1 + 1 / len(shuffled)) or 1.0
            )
            p = float(stats.t.sf(away, len(shuffled) - 1))
        else:
            p = float(2 * stats.t.sf(abs(value) / stderr, freedom)) if stderr else float(not value)
        half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, freedom)) * stderr
        interval: tuple[float, float] | None = value - half, value + half
        if self.classes and other is None:
            interval = log_odds_interval(value, half / Z)
        return Estimate(value, stderr, None if self.is_heavy else interval, p, shuffled)

    def _freedom(self, parts: Floats, added: float) -> float:
        """Degrees of freedom of an error (Satterthwaite 1946).

        parts: (clusters,) contributions. Of a number, as many as contributions of this kurtosis
        have. Of classes, over folds the clusters of the rarer class less one, and those of `added`,
        which comes from shuffles.
        """
        squares = float((parts**2).sum())
        if not squares:
            return math.inf
        if not self.classes:
            kurtosis = len(parts) * float((parts**4).sum()) / squares**2
            return max(min(2 * len(parts) / max(kurtosis - 1, 1e-9), len(parts) - 1), 1.0)
        rarer = [
            min(len(np.unique(self.clusters[(self.fold == k) & (of == kind)])) for kind in (0, 1))
            for k in np.unique(self.fold)
            for of in self.labels.reshape(len(self.labels), -1).T > 0
        ]
        classes = self.labels.size // len(self.labels)
        own = max(sum(max(count - 1, 0) for count in rarer) / classes, 1.0)
        return (squares + added) ** 2 / (squares**2 / own + added**2 / (SHUFFLES - 1))

    def _of_training(self, fitted: CrossFit, value: float) -> Floats:
        """(clusters,) what each contributes to the error of the R2 `value` as data that the probes,
        and the means that they are compared with, are fitted to.
        """
        labels = self.labels[:, None]
        away = (labels - _mean_of_others(labels, self.fold))[:, 0]
        of_fold = np.eye(int(self.fold.max()) + 1)[self.fold]
        others = len(away) - of_fold.sum(axis=0)
        # a mean, as a probe of no column: slopes of each fold, and errors of the rows outside it
        slopes = (of_fold.T @ away) / others
        means = (
            self.labels - (self.labels.sum() - of_fold.T @ self.labels)[:, None] / others[:, None]
        )
        of_means = 2 * ((1 - of_fold.T) * means * slopes[:, None]).sum(axis=0)
        total = float((away**2).sum())
        count = int(self.clusters.max()) + 1
        parts = np.bincount(self.clusters, fitted.training - (1 - value) * of_means, count)
        return np.asarray(parts / total * math.sqrt(count / (count - 1)))

    def _columns(self, labels: Floats, scores: Floats) -> Measured:
        """The numbers of (n, s) or (n, s, c) scores of such labels."""
        if labels.ndim == 3:
            each = [self._columns(labels[..., k], scores[..., k]) for k in range(labels.shape[2])]
            return Measured(*(np.mean(part, axis=0) for part in zip(*each, strict=True)))
        if self.classes:
            return Measured(*auroc_columns(scores, labels > 0, self.fold, self.clusters))
        baseline = (labels - _mean_of_others(labels, self.fold)) ** 2
        better = baseline - (scores - labels) ** 2
        total = baseline.sum(axis=0)
        total[total == 0] = np.nan
        values = better.sum(axis=0) / total
        parts = np.zeros((int(self.clusters.max()) + 1, len(values)))
        np.add.at(parts, self.clusters, better - values * baseline)
        return Measured(values, parts / total * math.sqrt(len(parts) / (len(parts) - 1)))


def _mean_of_others(labels: Floats, fold: Codes) -> Floats:
    """(n, s) mean label of the other folds, by column."""
    of_fold = np.eye(int(fold.max()) + 1)[fold]
    sums, sizes = of_fold.T @ labels, of_fold.sum(axis=0)
    means: Floats = (labels.sum(axis=0) - sums) / (len(labels) - sizes)[:, None]
    return means[fold]
