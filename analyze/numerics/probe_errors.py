"""How well probes predict labels, with errors: AUROC of classes, R2 of a number, and differences.

Scores of all items come from a few probes whose training sets overlap, so that numbers of different
folds go together: errors that take the scores as given are too short. On labels without information
p < .05 came in 14 to 18 % of draws with DeLong's (100 to 200 items, 5 folds). So every number is
also computed of probes of shuffled labels, and p compares it with theirs. What their variance
exceeds such errors by is added to the square of the error: on the scale of the log odds for an
AUROC, and less the more of a number is predicted, since a probe that reads a label well depends
less on the sample. With that, 95 % intervals of an AUROC missed the mean over draws in 3 to 7 %,
those of differences in 1 to 7 %, and p < .05 came in 2 to 4 % (`benchmarks/probe_null.py`).
"""

import math
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from scipy import stats

from lpp.analyze.numerics.linear_probe import CrossFit, Rows, cross_fit, shuffled_labels
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.numerics.statistics.auroc import Codes, Z, auroc, gain, log_odds_interval

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The labels of some items, their folds and clusters: what is predicted, and how checked."""

    labels: Floats
    """(n,) 0 or 1 if `classes`, else numbers."""
    fold: Codes
    """(n,) of `label_folds`."""
    clusters: Codes
    """(n,) from 0; items of one cluster are not independent."""
    classes: bool
    seed: int
    shuffled: Floats = field(init=False, repr=False)
    """(n, `SHUFFLES`)"""

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
        """AUROC of classes, over pairs of one fold; R2 of a number: 1 less the squared error over
        that of the mean of the other folds. None where no fold has two clusters of each class.
        """
        return self._estimate(fitted)

    def difference(self, fitted: CrossFit, other: CrossFit) -> Estimate | None:
        """How much larger the number of `fitted` is than that of `other`, paired by item."""
        return self._estimate(fitted, other)

    def auroc(self, scores: Floats) -> float:
        """AUROC of (n,) scores, over pairs of one fold; NaN where there is none."""
        return self._plain(self.labels, scores)[0]

    def _estimate(self, *fitted: CrossFit) -> Estimate | None:
        """The number of a probe, or the difference of two."""
        value, variance = self._plain(self.labels, *(probe.scores for probe in fitted))
        drawn = np.array(
            [
                self._plain(labels, *(probe.shuffled[:, k] for probe in fitted))
                for k, labels in enumerate(self.shuffled.T)
            ]
        )
        drawn = drawn[np.isfinite(drawn).all(axis=1)]
        if math.isnan(value) or len(drawn) < 2:
            return None
        values, spread = drawn[:, 0], float(drawn[:, 0].std(ddof=1))
        excess = max(spread**2 - float(drawn[:, 1].mean()), 0.0)
        room = max(self._room(probe.scores) for probe in fitted)
        stderr = math.sqrt(variance + excess * room**2)
        single = len(fitted) == 1
        if single:
            away = (value - float(values.mean())) / (spread * math.sqrt(1 + 1 / len(values)) or 1.0)
            p = float(stats.t.sf(away, len(values) - 1))
        else:
            p = float(2 * stats.norm.sf(abs(value) / stderr)) if stderr else float(not value)
        interval: tuple[float, float] | None = value - Z * stderr, value + Z * stderr
        if self.classes and single:
            interval = log_odds_interval(value, stderr)
        return Estimate(value, stderr, interval, p, values)

    def _room(self, scores: Floats) -> float:
        """Spread of a number over samples relative to that of labels without information: 4 A (1 -
        A) of an AUROC, constant on the log odds; 1 - R2.
        """
        value = self._plain(self.labels, scores)[0]
        return 4 * value * (1 - value) if self.classes else min(1 - value, 1.0)

    def _plain(
        self, labels: Floats, scores: Floats, others: Floats | None = None
    ) -> tuple[float, float]:
        """The number, or the difference, and its variance if scores are taken as given; NaN for
        none.
        """
        if self.classes:
            given = labels > 0, self.fold, self.clusters
            result = (
                auroc(scores, *given)
                if others is None
                else gain(scores, others, *given, either_side=False)
            )
            if result is None:  # one value for all items orders nothing
                return (0.5, 0.0) if others is None and not np.ptp(scores) else (math.nan, math.nan)
            return result.value, result.stderr**2
        baseline = (labels - _mean_of_others(labels, self.fold)) ** 2
        better = (baseline if others is None else (others - labels) ** 2) - (scores - labels) ** 2
        total = float(baseline.sum())
        if not total:
            return math.nan, math.nan
        value = float(better.sum()) / total
        sums = np.bincount(self.clusters, better - value * baseline)
        count = len(np.unique(self.clusters))
        return value, float(sums @ sums) * count / (count - 1) / total**2


def _mean_of_others(labels: Floats, fold: Codes) -> Floats:
    """(n,) mean label of the other folds."""
    sums, sizes = np.bincount(fold, labels), np.bincount(fold)
    means: Floats = (labels.sum() - sums) / (len(labels) - sizes)
    return means[fold]
