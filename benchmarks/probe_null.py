"""Errors of `lpp-analyze probe`, on labels without information and on planted ones; and its cost.

Rows are normal. Noise has labels that rows know nothing of: p, and p of the gain over another
probe of noise, should be under .05 in a twentieth of draws. A planted direction has d' = 1 between
the classes; its interval, and that of the gain over noise, should hold the mean over draws in 95 %.
With clusters, items share a part of their rows, and mostly their label. `length` plants the label
in a control, and rows that know the control with noise. Intervals that are refused do not count.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

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
FOLDS: Final = 5
REPEATS: Final = 3


class Case(NamedTuple):
    """What is drawn."""

    name: str
    clusters: int
    sizes: tuple[int, int] = (1, 1)
    """Items of the smallest and of the largest cluster; drawn evenly."""
    label: Literal["classes", "few", "number", "heavy"] = "classes"
    """few: ten of a class; heavy: numbers of Student's t with 2 degrees of freedom."""
    planted: float = 0
    """Of a direction of the rows: d', or what a label of 1 adds."""
    length: bool = False
    """Whether the label is that of the control."""


CASES: Final = (
    Case("noise, 100 items", 100),
    Case("noise, 50 clusters of 4", 50, (4, 4)),
    Case("noise, 60 clusters of 31", 60, (31, 31)),
    Case("noise, 60 clusters of 3 to 59", 60, (3, 59)),
    Case("noise, 10 of 50 items", 50, label="few"),
    Case("noise, a number, 200 items", 200, label="number"),
    Case("noise, a number, 50 clusters of 4", 50, (4, 4), label="number"),
    Case("noise, a number with a heavy tail, 200 items", 200, label="heavy"),
    Case("d' = 1, 200 items", 200, planted=1),
    Case("d' = 1, 50 clusters of 4", 50, (4, 4), planted=1),
    Case("d' = 1, 60 clusters of 31", 60, (31, 31), planted=1),
    Case("d' = 1, 60 clusters of 3 to 59", 60, (3, 59), planted=1),
    Case("d' = 1, 10 of 50 items", 50, label="few", planted=1),
    Case("planted, a number, 200 items", 200, label="number", planted=1),
    Case("planted, a number, 50 clusters of 4", 50, (4, 4), label="number", planted=1),
    Case("planted, a number with a heavy tail, 200 items", 200, label="heavy", planted=1),
    Case("length, 200 items", 200, length=True),
)


class Drawn(NamedTuple):
    """The numbers of one draw: of the rows, of the gain over the control."""

    number: Estimate
    gain: Estimate


def measure(cases: Sequence[Case] = CASES, *, draws: int = DRAWS, d: int = 8) -> Iterator[Ratio]:
    """Rates of p < .05 on noise, and of intervals that miss the mean; both should be 3 to 7 %.

    About forty minutes on a core.
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
    target, rows, control = sample(case, d, seed)
    fitted, other = target.scored(rows), target.scored(control)
    number, gain = target.number(fitted), target.difference(fitted, other)
    assert number is not None
    assert gain is not None
    return Drawn(number, gain)


def sample(case: Case, d: int, seed: int) -> tuple[Target, Any, Any]:
    """Labels, (n, d) rows, and (n, 1) rows of a control."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(*case.sizes, case.clusters, endpoint=True)
    clusters = np.repeat(np.arange(case.clusters), sizes)
    n, shared = len(clusters), case.sizes[1] > 1
    rows, control = rng.standard_normal((n, d)), rng.standard_normal((n, 1))
    if shared:
        rows += rng.standard_normal((case.clusters, d))[clusters]
        control += rng.standard_normal((case.clusters, 1))[clusters]
    if case.label == "classes":
        chances = np.full(case.clusters, 0.4)
        if shared:
            chances = np.where(rng.random(case.clusters) < 0.5, 0.15, 0.85)
        labels = (rng.random(n) < chances[clusters]).astype(np.float64)
    elif case.label == "few":
        labels = (rng.permutation(n) < 10).astype(np.float64)
    else:
        drawn: Any = rng.standard_normal if case.label == "number" else partial(rng.standard_t, 2)
        labels = drawn(size=n)
        if shared:
            labels += drawn(size=case.clusters)[clusters]
    if case.length:
        labels = (control[:, 0] + 0.5 * rng.standard_normal(n) > 0).astype(np.float64)
        rows[:, 0] = control[:, 0] + 0.3 * rng.standard_normal(n)
    rows[:, 1] += case.planted * labels
    return _target(labels, clusters, seed, classes=case.label in ("classes", "few")), rows, control


def _target(labels: Any, clusters: Any, seed: int, *, classes: bool) -> Target:
    bins = labels if classes else np.argsort(np.argsort(labels)) * FOLDS // len(labels)
    fold = label_folds(bins.astype(np.int64), clusters, FOLDS, seed=seed)
    return Target(labels=labels, fold=fold, clusters=clusters, classes=classes, seed=seed)


def _p_rate(estimates: Sequence[Estimate]) -> float:
    return float(np.mean([estimate.p_value < 0.05 for estimate in estimates]))


def _missed(estimates: Sequence[Estimate]) -> float:
    mean = float(np.mean([estimate.value for estimate in estimates]))
    ends = [interval for one in estimates if (interval := one.interval) is not None]
    return float(np.mean([not low <= mean <= high for low, high in ends])) if ends else 0.0


def _row(what: str, rate: float) -> Ratio:
    return ratio_once(what, f"{rate:.1%}", "draws", rate, bar=0.07)
