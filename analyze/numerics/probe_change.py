"""Whether a probe still serves on other rows: what changed from a reference, and a verdict.

Two numbers compare the probe's scores with those of the reference, such as the same probe on the
rows that it was made for. Each has a 95 % interval, paired by prompt and summed over clusters:

- *scorer*: the AUROC less that of the reference, over pairs of one fold (DeLong, DeLong and
  Clarke-Pearson 1988; Obuchowski 1997).
- *threshold*: the share of prompts above the threshold less that of the reference (Newcombe 1998; p
  of McNemar 1947, by cluster of Durkalski et al. 2003). The threshold is the log odds of the second
  class where the probe was fitted: a score above it speaks for that class. If the ROC curve did not
  change, decisions can only have moved along it, and this share says how far: false alarms and
  recall both rise with it.

The verdict, for a margin m, and m' the larger of m and the floor, which is how far a rerun
moves the same number (the farthest end of its interval; 0 without a rerun):

- SCORER DEGRADED: the interval of the AUROC's change lies below -m'.
- THRESHOLD STALE: that interval lies above -m, and the interval of the share's change lies above m'
  or below -m'.
- NOT SERVING: the interval of the share's change lies above m' or below -m', and that of the AUROC
  does not lie above -m: THRESHOLD STALE or SCORER DEGRADED, and the data do not tell which.
- PASS: the first interval lies above -m, and the second one between -m and m.
- INCONCLUSIVE: otherwise. An interval reaches both sides of the margin, or lies between m and m'.

So the scorer is tested for non-inferiority, and the threshold for equivalence. An end of a 95 %
interval misses in 2.5 %: a probe that is worse by exactly m passes in 2.5 % of samples at most, and
is called degraded in 2.5 %; one that is not worse, far less often (`benchmarks/probe_change.py`).

Errors are of these probes, as they are: they say nothing of a probe fitted to other prompts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np

from lpp.analyze.numerics.linear_probe import fit
from lpp.analyze.numerics.moments import Floats, Rows
from lpp.analyze.numerics.statistics.auroc import Codes, Gain, gain
from lpp.analyze.numerics.statistics.paired import PairedDifference, paired_difference
from lpp.store.uncertainty import standard_error

ChangeVerdict = Literal["PASS", "THRESHOLD STALE", "SCORER DEGRADED", "NOT SERVING", "INCONCLUSIVE"]

ALL: Final = -1
"""The fold of rows that no probe of a fold saw: the probe of all rows scores them."""


def carried_scores(
    rows: Rows,
    labels: Floats,
    fold: Codes,
    strengths: Sequence[float],
    others: Sequence[tuple[Rows, Codes]],
    /,
) -> list[Floats]:
    """Log odds of the label 1 of other rows, by the probes of `rows`.

    rows: (n, d). labels: (n,) 0 or 1. fold: (n,) of `label_folds`. strengths: of the folds' probes,
    in order, as `CrossFit` has them. others: (m, d) rows, and (m,) for each the fold that its probe
    did not see, or `ALL`, whose probe has the median strength.
    """
    scores = [np.empty(len(part)) for part, _ in others]
    of_folds = dict(zip(np.unique(fold).tolist(), strengths, strict=True))
    for code in sorted({*np.concatenate([of for _, of in others]).tolist()}):
        seen = fold != code
        strength = of_folds.get(code, middle(strengths))
        probe = fit(rows[seen], labels[seen], strength, classes=True)
        for scored, (part, of) in zip(scores, others, strict=True):
            scored[of == code] = probe.scores(part[of == code])
    return scores


def middle(strengths: Sequence[float]) -> float:
    """The strength of the probe of all rows: the lower median of those of the folds' probes."""
    return sorted(strengths)[(len(strengths) - 1) // 2]


def threshold_of(labels: Floats) -> float:
    """The log odds of the label 1 among (n,) labels, of which neither is lacking."""
    share = float(labels.mean())
    return math.log(share / (1 - share))


class Rates(NamedTuple):
    """Decisions at a threshold."""

    false_alarms: float
    """Share of the items of label 0 above it."""
    recall: float
    """Share of the items of label 1 above it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeChange:
    """What changed from the scores of the reference."""

    auroc: Gain
    """AUROC less that of the reference."""
    flagged: PairedDifference
    """Shares of items above the threshold: of the reference, of the probe, and their difference."""
    flagged_stderr: float
    """Of that difference."""
    reference: Rates
    probe: Rates


def probe_change(
    reference: Floats, probe: Floats, labels: Floats, fold: Codes, clusters: Codes, /
) -> ProbeChange | None:
    """The change from the scores of a reference to those of a probe, of the same items.

    reference, probe: (n,) log odds less the threshold, each. labels: (n,) 0 or 1. fold, clusters:
    (n,) of the items. None where no fold has two clusters of each class.
    """
    second = labels > 0
    moved = gain(probe, reference, second, fold, clusters, either_side=False)
    if moved is None:
        return None
    flagged = reference > 0, probe > 0
    away = flagged[1].astype(np.float64) - flagged[0]
    rates = [Rates(float(f[~second].mean()), float(f[second].mean())) for f in flagged]
    return ProbeChange(
        auroc=moved,
        flagged=paired_difference(*flagged, clusters),
        flagged_stderr=standard_error(away.tolist(), clusters.tolist()) or 0.0,
        reference=rates[0],
        probe=rates[1],
    )


def change_verdict(
    change: ProbeChange, margin: float, rerun: ProbeChange | None = None
) -> ChangeVerdict:
    """The verdict of `change`, as the docstring of this module defines it.

    margin: above 0. rerun: the change from A's rows to those of a rerun, whose size is the floor.
    """
    low, high = change.auroc.interval
    if high < -max(margin, floors(rerun)[0]):
        return "SCORER DEGRADED"
    down, up = change.flagged.interval
    if low > -margin and -margin < down and up < margin:
        return "PASS"
    least = max(margin, floors(rerun)[1])
    if up < -least or down > least:
        return "THRESHOLD STALE" if low > -margin else "NOT SERVING"
    return "INCONCLUSIVE"


def floors(rerun: ProbeChange | None) -> tuple[float, float]:
    """How far a rerun moves the AUROC and the share above the threshold: the farthest end of either
    interval; 0 without a rerun.
    """
    if rerun is None:
        return 0.0, 0.0
    auroc, flagged = (max(map(abs, c.interval)) for c in (rerun.auroc, rerun.flagged))
    return auroc, flagged
