"""How well probes predict labels, with errors: AUROC of classes, R2 of a number, and differences.

Scores of all items come from a few probes whose training sets overlap, so that numbers of different
folds go together: errors that take the scores as given are too short. On labels without information
p < .05 came in 14 to 18 % of draws with DeLong's (100 to 200 items, 5 folds). So every number is
also computed of probes of shuffled labels, and p compares it with theirs. What their variance
exceeds such errors by is added to the square of the error: on the scale of the log odds for an
AUROC, and less the more of a number is predicted, since a probe that reads a label well depends
less on the sample. With that, 95 % intervals of an AUROC missed the mean over draws in 3 to 7 %,
those of differences in 1 to 6 %, and p < .05 came in 3 to 7 % (`benchmarks/probe_null.py`).
"""

import math
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from scipy import stats
from scipy.special import expit

from lpp.analyze.numerics.linear_probe import CrossFit, Rows, cross_fit, shuffled_labels
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.numerics.statistics.auroc import Codes, Flags, Z, log_odds_interval
from lpp.analyze.numerics.statistics.auroc_columns import auroc_columns
from lpp.analyze.numerics.statistics.calibration import Calibration, calibration
from lpp.analyze.numerics.statistics.recall import Recall, recall_at_false_alarms

SHUFFLES: Final = 39
"""Draws of shuffled labels."""


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
    """(clusters, 1 + `SHUFFLES`) what each cluster contributes to the error, scores taken as given:
    the sum of their squares is its square."""


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
        return self._columns(
            labels, np.concatenate([fitted.scores[:, None], fitted.shuffled], axis=1)
        )

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
        room = max(self._room(float(one.values[0])) for one in (of, other) if one is not None)
        stderr = math.sqrt(float(variances[0]) + excess * room**2)
        if other is None:
            away = (value - float(shuffled.mean())) / (
                spread * math.sqrt(1 + 1 / len(shuffled)) or 1.0
            )
            p = float(stats.t.sf(away, len(shuffled) - 1))
        else:
            p = float(2 * stats.norm.sf(abs(value) / stderr)) if stderr else float(not value)
        interval: tuple[float, float] | None = value - Z * stderr, value + Z * stderr
        if self.classes and other is None:
            interval = log_odds_interval(value, stderr)
        return Estimate(value, stderr, interval, p, shuffled)

    def _room(self, value: float) -> float:
        """Spread of a number over samples relative to that of labels without information: 4 A (1 -
        A) of an AUROC, constant on the log odds; 1 - R2.
        """
        return 4 * value * (1 - value) if self.classes else min(1 - value, 1.0)

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
