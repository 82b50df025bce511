"""How often noise alone meets a condition of the gate: `lpp-analyze diff --fail-if`.

False alarms are counted where there is nothing to find, with the gate's own intervals:

- The same model with reordered batches, against the thresholds of the workflow in docs.
- A model whose weights were rounded to four bits, against itself: the drift of one draw of prompts
  must not be past the true drift. Prompts are drawn with replacement from those captured, so these
  are the population, and the true value is the mean over all draws of as many prompts: what a
  jackknife's interval is for. The rounded model has changed, so the number is no trivial 0.
- The same on random halves of the prompts: the value of one half is the threshold of the other.
- A condition on any site, where at each site the threshold is the true value.

A draw is a row of weights of prompts (`prompt_sums`); neither models nor rows are read again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.pairs import Ratio
from benchmarks.prompt_sums import (
    Floats,
    SiteSums,
    prediction_means,
    rank_changes,
    rows_of_prompts,
)
from lpp.analyze.drift.gate.conditions import parse_condition
from lpp.analyze.drift.gate.verdicts import verdict
from lpp.analyze.drift.pair import Pair, pair_of
from lpp.analyze.drift.sites import SiteDrift
from lpp.analyze.drift.summaries import Summary
from lpp.analyze.numerics.jackknife import Estimate, jackknife
from lpp.analyze.quantities.drift import PREDICTIONS
from lpp.capture import capture, demo_model
from lpp.store import Run
from lpp.store.format.schedule import group_boundaries

DRAWS: Final = 1_000
SOLVED: Final = 100
"""Draws of effective rank, for one size and the halves: each takes 22 solves."""

SIZES: Final = (10, 20, 50)
"""Prompts of a draw."""

OF_ANY: Final = 20
"""Prompts of a draw, of conditions on any site."""

BAR: Final = 0.05

WORKFLOW: Final = (("kl", ">", 0.01), ("flips", ">", 0.02), ("cka.final", "<", 0.99))
"""The conditions of docs/ci-gate.yml."""

CONDITIONS: Final = (
    ("kl", ">"),
    ("flips", ">"),
    ("top10", "<"),
    ("log_perplexity", ">"),
    ("relative_distance.final", ">"),
    ("cosine.final", "<"),
    ("cka.final", "<"),
    ("participation_ratio.final", ">"),
    ("participation_ratio.final", "<"),
    ("effective_rank.final", ">"),
    ("effective_rank.final", "<"),
)
"""Names and comparisons, each the way in which more drift meets it; ranks may move either way."""

ANY_SITE: Final = (
    ("relative_distance", ">"),
    ("cosine", "<"),
    ("cka", "<"),
    ("participation_ratio", ">"),
    ("participation_ratio", "<"),
)

MIDDLE: Final = {
    "relative_distance": 1.0,
    "cosine": 0.0,
    "cka": 0.5,
    "participation_ratio": 0.0,
}
"""Where the true value of a number is put at every site: far from its limits."""

HALVES: Final = ("one half", "the other half")

Values = Mapping[str, Floats]
"""(n, 1 + G) by number: of n draws of prompts, whole, then without each of G groups of prompts."""


def measure(
    folder: Path,
    *,
    prompts: int = 100,
    context: int = 100,
    draws: int = DRAWS,
    solved: int = SOLVED,
    sizes: Sequence[int] = SIZES,
    sites: str = "all",
) -> Iterator[Ratio]:
    """Rates of false alarms. solved: draws of effective rank; sizes: prompts of a draw.

    About five minutes on two cores, most of them solves and products of the rows of every site.
    """
    base, reordered, rounded = captured(folder / "gate", prompts, context, sites)
    rng = np.random.default_rng(0)
    every = {str(n): weights_of(rng.integers(0, prompts, (draws, n)), prompts) for n in sizes}
    order = rng.permuted(np.tile(np.arange(prompts), (draws, 1)), axis=1)
    for half, some in zip(HALVES, np.split(order[:, : prompts // 2 * 2], 2, axis=1), strict=True):
        every[half] = weights_of(some, prompts)
    few, middle = str(sizes[0]), str(sizes[len(sizes) // 2])
    same = values_of(pair_of(base, reordered), {few: every[few]})[few]
    rates = [
        alarms(name, comparison, {"final": same[name]}, np.full(draws, threshold))
        for name, comparison, threshold in WORKFLOW
    ]
    what = ", ".join(f"{name} {comparison} {x}" for name, comparison, x in WORKFLOW)
    yield _row(f"the same model with reordered batches, {few} prompts: {what}", rates)

    found = values_of(pair_of(base, rounded), every, dict.fromkeys((middle, *HALVES), solved))
    for name, comparison in CONDITIONS:
        by_size: dict[int, float] = {}
        for n in sizes:
            if (one := found[str(n)].get(name)) is not None:
                true = np.full(len(one), one[:, 0].mean())
                by_size[n] = alarms(name, comparison, {"final": one}, true)
        listed = ", ".join(f"{n}: {rate:.1%}" for n, rate in by_size.items())
        yield _row(f"{name} {comparison} its true value, by prompts: {listed}", [*by_size.values()])
    for name, comparison in CONDITIONS:
        one, other = (found[half][name] for half in HALVES)
        rate = alarms(name, comparison, {"final": other}, one[:, 0])
        yield _row(f"{name} {comparison} its value on the other {prompts // 2} prompts", [rate])
    weights = weights_of(rng.integers(0, prompts, (draws, OF_ANY)), prompts)
    yield from _of_any_site(pair_of(base, rounded), weights)


def captured(folder: Path, prompts: int, context: int, sites: str) -> tuple[Run, Run, Run]:
    """The packaged model, the same with a batch for each prompt, and with weights of four bits."""
    source = demo_model()
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)

    def run(name: str, **options: Any) -> Run:
        return capture(
            model,
            tokenizer,
            "pydoc",
            store=folder,
            name=name,
            prompts=prompts,
            context=context,
            sites=sites,
            keep_head="yes",
            quiet=True,
            **options,
        )

    base, reordered = run("base"), run("base", batch_tokens=context)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and name != "lm_head":
                scale = module.weight.float().abs().amax(dim=1, keepdim=True) / 7
                module.weight.copy_((module.weight / scale).round() * scale)
    return base, reordered, run("rounded")


def weights_of(drawn: npt.NDArray[np.integer], prompts: int) -> Floats:
    """(draws, 1 + G, P) how often each prompt takes part, from (draws, n) drawn prompts: in all,
    then without each of the G groups of neighbours that a jackknife leaves out.
    """
    edges = group_boundaries(drawn.shape[1])
    groups = [
        [np.bincount(one[start:end], minlength=prompts) for start, end in pairwise(edges)]
        for one in drawn
    ]
    of_groups = np.array(groups, np.float64)
    whole = of_groups.sum(axis=1, keepdims=True)
    return np.concatenate([whole, whole - of_groups], axis=1)


def values_of(
    pair: Pair, draws: Mapping[str, Floats], solved: Mapping[str, int] = MappingProxyType({})
) -> dict[str, Values]:
    """Every number of `CONDITIONS` of several sets of draws, by their names.

    solved: sets with effective ranks too, and of how many draws.
    """
    rows, row_means = rows_of_prompts(pair, "final")
    names = [name for name, _ in CONDITIONS if name in PREDICTIONS]
    sources = prediction_means(pair, names), row_means, SiteSums(rows)
    found: dict[str, Values] = {}
    for key, weights in draws.items():
        values: dict[str, Floats] = {}
        for source in sources:
            values |= _reshaped(source.of, weights)
        if key in solved:
            some = weights[: solved[key]]
            values |= _reshaped(lambda w: {"effective_rank": rank_changes(rows, w)}, some)
        found[key] = {
            name if name in PREDICTIONS else f"{name}.final": one for name, one in values.items()
        }
    return found


def alarms(name: str, comparison: str, values: Values, thresholds: Floats) -> float:
    """Share of the draws in which the gate fails.

    name: of a condition. values: (n, 1 + G) by site; of a prediction's number one, under any key.
    thresholds: (n,).
    """
    quantity = name.partition(".")[0]
    failed = 0
    for k, threshold in enumerate(thresholds):
        condition = parse_condition(f"{name} {comparison} {float(threshold)!r}")
        predictions, sites = {}, []
        for site, one in values.items():
            number = jackknife(float(one[k, 0]), one[k, 1:].tolist())
            if quantity in PREDICTIONS:
                predictions[quantity] = _summary(number)
            else:
                sites.append(SiteDrift(site=site, depth=0, n_tokens=1, numbers={quantity: number}))
        failed += verdict(condition, predictions, sites).failed
    return failed / len(thresholds)


def _summary(mean: Estimate) -> Summary:
    return Summary(mean=mean.value, stderr=mean.stderr, groups=len(mean.groups), n_tokens=1)


def _of_any_site(pair: Pair, weights: Floats) -> Iterator[Ratio]:
    """Conditions on any site: each site's values are moved to one true value."""
    names = {name for name, _ in ANY_SITE}
    moved: dict[str, dict[str, Floats]] = {name: {} for name in names}
    for site in pair.a.run.sites:
        rows, means = rows_of_prompts(pair, site)
        if not means.sums["relative_distance"].any():
            continue  # equal rows, as of `embed`: no noise
        for source in (means, SiteSums(rows)):
            for name, one in _reshaped(source.of, weights).items():
                moved[name][site] = one - one[:, 0].mean()
    for name, comparison in ANY_SITE:
        level = MIDDLE[name]
        values = {site: one + level for site, one in moved[name].items()}
        rate = alarms(name, comparison, values, np.full(len(weights), level))
        what = f"{name} {comparison} its true value at any of {len(values)} sites"
        yield _row(f"{what}, {OF_ANY} prompts", [rate])


def _reshaped(of: Callable[[Floats], dict[str, Floats]], weights: Floats) -> dict[str, Floats]:
    """(draws, 1 + G) of each number of (draws, 1 + G, P) weights."""
    flat = of(weights.reshape(-1, weights.shape[2]))
    return {name: one.reshape(weights.shape[:2]) for name, one in flat.items()}


def _row(what: str, rates: Sequence[float]) -> Ratio:
    worst = max(rates)
    return Ratio(
        what=f"false alarms, {what}",
        ours=f"{worst:.1%}",
        other="draws",
        ratio=worst,
        spread=(min(rates), worst),
        bar=BAR,
        direction="at most",
    )
