"""How often a number notices a change, by one rule for all numbers and at an equal rate of alarms.

A number notices a change on a draw of prompts if its |value| is above a threshold. The threshold of
a number and a size of draws is a multiple of its mean |value| over the draws of the nulls. The
multiple is the smallest with which at most `RATE` of the draws of left-out nulls are alarms: each
null in turn is left out, the mean is that of the others, and the draws of all are counted together.
So every number has the same rate of alarms for a null that the threshold has not seen. A null that
equals the base bit for bit has no say.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from scipy.stats import binomtest

from benchmarks.detection.damage import NULL, doses
from benchmarks.detection.draws import Floats
from benchmarks.detection.measure import FLOOR, RANK, key
from benchmarks.detection.setting import DRAWN, Setting
from lpp.store.shared.logits import Float32

RATE: Final = 0.05
"""Share of the draws of left-out nulls that may be alarms."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One number of the study."""

    name: str
    """In tables and figures."""
    of: str
    """In files of draws."""
    site: str = "final"
    signed: bool = True
    """Whether the number can be negative."""
    unit: str

    def points(self, dose: Mapping[str, Any], first: int) -> Sequence[float | None]:
        """Value, error, ends of the interval over all prompts."""
        points = dose["points"][str(first)]
        found = points[self.of] if self.of in points else points["sites"][self.site][self.of]
        return flipped(found) if self.of == "cka" else found


def flipped(estimate: Sequence[float | None]) -> list[float | None]:
    """1 less a number: value, error, ends of the interval."""
    value, error, low, high = estimate
    turned = [None if one is None else 1 - one for one in (value, high, low)]
    return [turned[0], error, *turned[1:]]


def shown(middle: str) -> list[Shown]:
    """Every number, those of the predictions first. middle: the site of the middle block."""
    of_sites = [
        Shown(name="relative distance", of="relative_distance", signed=False, unit="ratio"),
        Shown(name="1 - CKA", of="cka", signed=False, unit=""),
        Shown(name="participation ratio", of="participation_ratio", unit="dimensions"),
    ]
    return [
        Shown(name="log perplexity", of="log_perplexity", unit="nats"),
        Shown(name="KL", of="kl", signed=False, unit="nats"),
        Shown(name="flips", of="flips", signed=False, unit="share"),
        Shown(name="entropy", of="entropy", unit="nats"),
        Shown(name="entropy floor", of=FLOOR, unit="of ln V"),
        *of_sites,
        Shown(name="effective rank", of=RANK, unit="dimensions"),
        *(
            Shown(
                name=f"{one.name}, {middle}",
                of=one.of,
                site=middle,
                signed=one.signed,
                unit=one.unit,
            )
            for one in of_sites
        ),
    ]


class Threshold(NamedTuple):
    """Of one number and one size of draws."""

    value: float
    """A larger |value| is an alarm."""
    multiple: float
    """`value` over the mean of the nulls."""
    alarms: float
    """Share of the draws of left-out nulls that are alarms, of all nulls together."""
    worst: float
    """The same share of the null with most alarms."""


def threshold(nulls: Floats, rate: float = RATE) -> Threshold:
    """The threshold from |values| (nulls, draws), of two nulls or more."""
    others = np.array([np.delete(nulls, k, axis=0).mean() for k in range(len(nulls))])[:, None]
    beyond = np.where(nulls > 0, np.inf, 0.0)  # where the other nulls are 0
    ratios = np.divide(nulls, others, out=beyond, where=others > 0)
    multiple = float(np.quantile(ratios, 1 - rate, method="inverted_cdf"))
    alarms = (ratios > multiple).mean(axis=1)
    return Threshold(
        multiple * float(nulls.mean()), multiple, float(alarms.mean()), float(alarms.max())
    )


def bounds(share: float, draws: int) -> tuple[float, float]:
    """95 % interval of a share of draws, Clopper and Pearson 1934.

    It holds for draws from these prompts: other prompts are not in it.
    """
    found = binomtest(round(share * draws), draws).proportion_ci()
    return float(found.low), float(found.high)


def results(setting: Setting) -> tuple[dict[str, Any], dict[str, Float32]]:
    """Everything that the page says of the doses that are measured, and their values on draws.

    The values are (doses, sizes, draws) by name of the number, `kept` for a file.
    """
    measured = [dose for dose in doses(setting.n_blocks) if setting.points(dose.name).exists()]
    documents = [json.loads(setting.points(dose.name).read_text()) for dose in measured]
    arrays = [dict(np.load(setting.draws_of(dose.name))) for dose in measured]
    values = {
        one.name: kept(np.stack([_turned(one, array[key(one.of, one.site)]) for array in arrays]))
        for one in shown(setting.middle)
    }
    found = {
        "setting": setting.document,
        "sites": setting.sites,
        "middle": setting.middle,
        "doses": documents,
    }
    return judged(found, values), values


def judged(found: Mapping[str, Any], values: Mapping[str, Float32]) -> dict[str, Any]:
    """Results with the thresholds of every number, and what share of draws of each dose is above.

    values: as `results` returns them. ValueError with fewer than two nulls that differ from the
    base.
    """
    moved = [
        dose["kind"] == NULL and dose["points"][str(DRAWN)]["kl"][0] > 0 for dose in found["doses"]
    ]
    if sum(moved) < 2:
        raise ValueError("fewer than two nulls differ from the base: no threshold can be set")
    sizes = [str(size) for size in found["setting"]["sizes"]]
    thresholds: dict[str, dict[str, Threshold]] = {}
    power: list[dict[str, dict[str, float]]] = [{} for _ in moved]
    for name, signed in values.items():
        magnitude = np.abs(signed.astype(np.float64))
        thresholds[name] = {n: threshold(magnitude[moved, k]) for k, n in enumerate(sizes)}
        limits = np.array([one.value for one in thresholds[name].values()])
        for own, shares in zip(power, (magnitude > limits[:, None]).mean(axis=2), strict=True):
            own[name] = dict(zip(sizes, shares.tolist(), strict=True))
    every = [{**dose, "power": own} for dose, own in zip(found["doses"], power, strict=True)]
    rounded: dict[str, Any] = _rounded({**found, "thresholds": thresholds, "doses": every})
    return rounded


def kept(values: Floats) -> Float32:
    """Values to one part in 4,096, as float32 whose last bits are 0: a third less when packed."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    found: Float32 = ((bits + 0x800) & np.uint32(0xFFFFF000)).view(np.float32)
    return found


def _turned(one: Shown, draws: Floats) -> Floats:
    """1 less CKA; every other number as it is."""
    return 1 - draws if one.of == "cka" else draws


# doses of results


def null_range(found: Mapping[str, Any], one: Shown, first: int) -> tuple[float, float]:
    """Lowest and highest end of the nulls' intervals over all prompts, and 0."""
    ends = [0.0] + [
        end
        for dose in found["doses"]
        if dose["kind"] == NULL
        for end in one.points(dose, first)[2:]
        if end is not None
    ]
    return min(ends), max(ends)


def realisations(found: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """The doses that are no null, in order, each with all its realisations."""
    damaged = [dose for dose in found["doses"] if dose["kind"] != NULL]
    groups = itertools.groupby(damaged, key=lambda dose: (dose["kind"], dose["amount"]))
    return [list(group) for _, group in groups]


def share(group: Sequence[Mapping[str, Any]], one: Shown, size: str) -> float:
    """Share of draws of `size` prompts on which a number notices a dose, mean of realisations."""
    return float(np.mean([dose["power"][one.name][size] for dose in group]))


def _rounded(value: Any) -> Any:
    """Six digits of every number."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value
