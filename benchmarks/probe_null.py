"""Errors of `lpp-analyze probe`, on labels without information and on planted ones; and its cost.

Rows are normal. Noise has labels that rows know nothing of: p, and p of the gain over another
probe of noise, should be under .05 in a twentieth of draws. A planted direction has d' = 1 between
the classes; its interval, and that of the gain over noise, should hold the mean over draws in 95 %.
With clusters, four items share a part of their rows, and mostly their label. `length` plants the
label in a control, and rows that know the control with noise.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.memory import grown, peak
from benchmarks.pairs import Ratio, ratio_of_times, ratio_once, timed_pairs
from benchmarks.setting import store_of
from lpp.analyze import probe
from lpp.analyze.numerics.linear_probe import label_folds
from lpp.analyze.numerics.probe_errors import Estimate, Target
from lpp.store import Run, open_store, sink
from lpp.store.format.plan import SiteSpec

DRAWS: Final = 500
OF_A_CLUSTER: Final = 4
FOLDS: Final = 5
REPEATS: Final = 3


class Case(NamedTuple):
    """What is drawn."""

    name: str
    n: int
    clustered: bool
    planted: float
    """d' of a direction of the rows."""
    length: bool = False
    """Whether the label is that of the control."""


CASES: Final = (
    Case("noise, 100 items", 100, clustered=False, planted=0),
    Case("noise, 50 clusters of 4", 200, clustered=True, planted=0),
    Case("d' = 1, 200 items", 200, clustered=False, planted=1),
    Case("d' = 1, 50 clusters of 4", 200, clustered=True, planted=1),
    Case("length, 200 items", 200, clustered=False, planted=0, length=True),
)


class Drawn(NamedTuple):
    """The numbers of one draw: of the rows, of the gain over the control."""

    number: Estimate
    gain: Estimate


def measure(cases: Sequence[Case] = CASES, *, draws: int = DRAWS, d: int = 8) -> Iterator[Ratio]:
    """Rates of p < .05 on noise, and of intervals that miss the mean; both should be 3 to 7 %.

    About fifteen minutes on a core.
    """
    with threadpool_limits(1, "blas"):
        for case in cases:
            drawn = [draw(case, d, seed) for seed in range(draws)]
            for name in Drawn._fields:
                estimates = [getattr(one, name) for one in drawn]
                if not case.planted and not case.length:
                    yield _row(f"p < .05 of the {name}, {case.name}", _p_rate(estimates))
                yield _row(f"intervals of the {name} that miss, {case.name}", _missed(estimates))


def cost(
    folder: Path, *, sites: int = 32, n: int = 1000, d: int = 576, tokens: int = 128
) -> Iterator[Ratio]:
    """`lpp-analyze probe` of all sites of a store, with all controls, and reading their rows.

    folder: scratch, with room for 4 GB. The spectrum of rows falls as a model's does; the label is
    planted in the last token's row. tokens: of each prompt.
    """
    run = _labelled(folder / "store", sites, n, d, tokens)

    def read() -> None:
        for site in run.sites:
            for _ in run.blocks(site, dtype="stored"):
                pass

    def fit() -> None:
        probe(store_of(run), "label")

    times = timed_pairs(fit, read, REPEATS)
    what = f"probes of {sites} sites, {n} prompts of {tokens} tokens, d = {d}, all controls"
    yield ratio_of_times(f"{what} / reading all rows", times, bar=4)
    seconds = float(np.median(times[0]))
    yield ratio_once(f"{what} / 20 s", f"{seconds:.1f} s", "20 s", seconds / 20, bar=1)


def memory(
    folder: Path, *, sizes: tuple[int, int] = (500, 5000), sites: int = 6, d: int = 576
) -> Ratio:
    """Peak memory of `lpp-analyze probe` at two numbers of prompts, by the command."""
    few, many = (folder / f"probes-{n}" for n in sizes)
    for root, n in zip((few, many), sizes, strict=True):
        _labelled(root, sites, n, d, tokens=24)
    peaks = [
        peak(["lpp.analyze.cli.command", "probe", str(root), "--label", "label"])
        for root in (many, few)
    ]
    what = f"probes of {sites} sites, d = {d}, {sizes[1]:,} prompts / {sizes[0]}"
    return grown(what, peaks[0], peaks[1])


def _labelled(root: Path, sites: int, n: int, d: int, tokens: int) -> Run:
    """A run with `label`, `sites` sites and random rows, of which every prompt has other ones."""
    rng = np.random.default_rng(0)
    mix = (rng.standard_normal((d, d)) * np.exp(-np.arange(d) / 60)[:, None]).astype(np.float32)
    rows = rng.standard_normal((n, d)).astype(np.float32) @ mix
    labels = rows[:, 0] / rows[:, 0].std() + rng.standard_normal(n) > 0
    ids = rng.integers(0, 1000, (n, tokens))
    names = ["embed", *(f"block.{k + 1}" for k in range(sites - 2)), "final"]
    with sink(
        root,
        model={"id": "random", "n_blocks": sites - 2, "hidden_size": d},
        sites={s: SiteSpec(name=s, convention="residual", width=d) for s in names},
        prompts=[
            {"input_ids": line.tolist(), "label": str(label)}
            for line, label in zip(ids, labels, strict=True)
        ],
        dtype="bfloat16",
    ) as into:
        for prompt in into.missing():
            others = rng.standard_normal((tokens, d), np.float32) @ mix
            others[-1] = rows[prompt.number]
            bits = torch.from_numpy(others).bfloat16()
            into.put(prompt, dict.fromkeys(names, bits))
    return next(iter(open_store(root).runs.values()))


def draw(case: Case, d: int, seed: int) -> Drawn:
    """One sample."""
    rng = np.random.default_rng(seed)
    clusters = np.arange(case.n) // (OF_A_CLUSTER if case.clustered else 1)
    count = int(clusters[-1]) + 1
    rows, control = rng.standard_normal((case.n, d)), rng.standard_normal((case.n, 1))
    labels = (rng.random(case.n) < 0.4).astype(np.float64)
    if case.clustered:
        rows += rng.standard_normal((count, d))[clusters]
        control += rng.standard_normal((count, 1))[clusters]
        chances = np.where(rng.random(count) < 0.5, 0.15, 0.85)[clusters]
        labels = (rng.random(case.n) < chances).astype(np.float64)
    if case.length:
        labels = (control[:, 0] + 0.5 * rng.standard_normal(case.n) > 0).astype(np.float64)
        rows[:, 0] = control[:, 0] + 0.3 * rng.standard_normal(case.n)
    rows[:, 1] += case.planted * labels
    target = _target(labels, clusters, seed)
    fitted, other = target.scored(rows), target.scored(control)
    number, gain = target.number(fitted), target.difference(fitted, other)
    assert number is not None
    assert gain is not None
    return Drawn(number, gain)


def _target(labels: Any, clusters: Any, seed: int) -> Target:
    fold = label_folds(labels.astype(np.int64), clusters, FOLDS, seed=seed)
    return Target(labels=labels, fold=fold, clusters=clusters, classes=True, seed=seed)


def _p_rate(estimates: Sequence[Estimate]) -> float:
    return float(np.mean([estimate.p_value < 0.05 for estimate in estimates]))


def _missed(estimates: Sequence[Estimate]) -> float:
    mean = float(np.mean([estimate.value for estimate in estimates]))
    ends = [estimate.interval or (estimate.value, estimate.value) for estimate in estimates]
    return float(np.mean([not low <= mean <= high for low, high in ends]))


def _row(what: str, rate: float) -> Ratio:
    return ratio_once(what, f"{rate:.1%}", "draws", rate, bar=0.07)
