"""How often each verdict of `lpp-analyze probe --against` comes, where the change is known.

A row of A is a signal, which carries the label with d' = 2, and noise. A row of B has the same
signal and other noise: as much (*no change*: the AUROC and the share above the threshold are equal
in expectation; *rerun*: and the noise is a tenth), more (*worse*: a probe of A loses 0.05, the
margin, or 0.15), or a shift along the direction between the classes (*shifted*: the order stays,
decisions move). With clusters, four items share part of their signal, and mostly their label.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, get_args

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.pairs import Ratio, ratio_once
from benchmarks.probe_null import FOLDS
from lpp.analyze.numerics.linear_probe import cross_fit, label_folds
from lpp.analyze.numerics.probe_change import (
    ChangeVerdict,
    ProbeChange,
    carried_scores,
    change_verdict,
    probe_change,
    threshold_of,
)

DRAWS: Final = 500
MARGIN: Final = 0.05
OF_A_CLUSTER: Final = 4


class Case(NamedTuple):
    """What is drawn."""

    name: str
    n: int
    clustered: bool = False
    noise: tuple[float, float] = (0.5, 0.5)
    """Standard deviation of that of A and of B, in columns whose signal has 1."""
    shift: float = 0
    """Of B, along the direction between the classes."""
    wrong: tuple[str, ...] = ()
    """Verdicts that are wrong."""


_CHANGED: Final = ("SCORER DEGRADED", "THRESHOLD STALE", "NOT SERVING")
CASES: Final = (
    Case("rerun, 200 items", 200, noise=(0.05, 0.05), wrong=_CHANGED),
    *(Case(f"no change, {n} items", n, wrong=_CHANGED) for n in (100, 200, 400, 1000)),
    Case("no change, 50 clusters of 4", 200, clustered=True, wrong=_CHANGED),
    Case(
        "worse by the margin, 400 items", 400, noise=(0.5, 0.98), wrong=("PASS", "SCORER DEGRADED")
    ),
    Case(
        "worse by 3 margins, 400 items", 400, noise=(0.5, 1.98), wrong=("PASS", "THRESHOLD STALE")
    ),
    Case("shifted, 400 items", 400, shift=1.0, wrong=("PASS", "SCORER DEGRADED")),
)


def measure(cases: Sequence[Case] = CASES, *, draws: int = DRAWS, d: int = 8) -> Iterator[Ratio]:
    """The share of each verdict in each case, and of intervals of the AUROC's change that miss its
    mean over draws; wrong verdicts should come in 5 % at most, misses in 7 %.
    """
    with threadpool_limits(1, "blas"):
        for case in cases:
            changes = [draw(case, d, seed) for seed in range(draws)]
            counts = Counter(change_verdict(change, MARGIN) for change in changes)
            for name in get_args(ChangeVerdict):
                share, bar = counts[name] / draws, 0.05 if name in case.wrong else 1.0
                yield ratio_once(f"{name}: {case.name}", f"{share:.1%}", "draws", share, bar=bar)
            mean = float(np.mean([change.auroc.value for change in changes]))
            intervals = [change.auroc.interval for change in changes]
            missed = float(np.mean([not low <= mean <= high for low, high in intervals]))
            what = f"intervals that miss a change of {mean:+.3f}: {case.name}"
            yield ratio_once(what, f"{missed:.1%}", "draws", missed, bar=0.07)


def draw(case: Case, d: int, seed: int) -> ProbeChange:
    """The change in one sample."""
    rng = np.random.default_rng(seed)
    clusters = np.arange(case.n) // (OF_A_CLUSTER if case.clustered else 1)
    count = int(clusters[-1]) + 1
    signal = rng.standard_normal((case.n, d))
    labels = (rng.random(case.n) < 0.4).astype(np.float64)
    if case.clustered:
        signal = (signal + rng.standard_normal((count, d))[clusters]) / np.sqrt(2)
        chances = np.where(rng.random(count) < 0.5, 0.15, 0.85)[clusters]
        labels = (rng.random(case.n) < chances).astype(np.float64)
    signal[:, 0] += 2 * labels
    a = signal + case.noise[0] * rng.standard_normal((case.n, d))
    b = signal + case.noise[1] * rng.standard_normal((case.n, d))
    b[:, 0] += case.shift
    fold = label_folds(labels.astype(np.int64), clusters, FOLDS, seed=seed)
    strengths = cross_fit(a, labels, fold, classes=True).strengths
    scores = carried_scores(a, labels, fold, strengths, [(a, fold), (b, fold)])
    reference, probe = (of - threshold_of(labels) for of in scores)
    change = probe_change(reference, probe, labels, fold, clusters)
    assert change is not None
    return change
