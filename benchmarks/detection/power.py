"""How often a number notices a change: shares of draws, by two rules.

*Leaves 0*: the 95 % interval of the number on a draw of prompts does not hold 0. For a number that
cannot be negative (KL, flips, distances, 1 - CKA) that says little: any rounding noise is above 0.

*Leaves the null*: the interval lies outside the range of the nulls, which is spanned by 0 and the
intervals of every null on the same draw of prompts. So the end nearest to 0 is beyond the furthest
end that a model with other rounding gives. A null is judged by the range of the other nulls: its
share is the rule's rate of false alarms.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from benchmarks.detection.damage import NULL, doses
from benchmarks.detection.draws import Floats
from benchmarks.detection.measure import FLOOR, RANK, key
from benchmarks.detection.setting import SKIPPED, Setting

MIDDLE: Final = "middle"
"""Stands for the site of the middle block."""


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


def leaves_zero(draws: Floats) -> float:
    """Share of (draws, 3) values and intervals that do not hold 0, among those that are numbers."""
    low, high = _valid(draws)[:, 1:].T
    return float(((low > 0) | (high < 0)).mean())


def leaves_null(draws: Floats, nulls: Sequence[Floats]) -> float:
    """Share of (draws, 3) intervals outside the range of 0 and `nulls`, (draws, 3) each on the same
    draws.
    """
    inside = np.isfinite(draws).all(axis=1)
    low, high = draws[inside, 1:].T
    ranges = np.stack([np.zeros((len(low), 3)), *(one[inside] for one in nulls)])
    least, most = ranges[..., 1].min(axis=0), ranges[..., 2].max(axis=0)
    return float(((low > most) | (high < least)).mean())


def _valid(draws: Floats) -> Floats:
    return draws[np.isfinite(draws).all(axis=1)]


def results(setting: Setting) -> dict[str, Any]:
    """Everything that the page says, of the doses that are measured."""
    measured = [dose for dose in doses(setting.n_blocks) if setting.points(dose.name).exists()]
    documents = [json.loads(setting.points(dose.name).read_text()) for dose in measured]
    arrays = {dose.name: dict(np.load(setting.draws_of(dose.name))) for dose in measured}
    nulls = [dose.name for dose in measured if dose.kind == NULL]
    sites = setting.drawn_sites(SKIPPED[-1])
    for dose, document in zip(measured, documents, strict=True):
        name, document["label"] = dose.name, dose.label
        others = [arrays[null] for null in nulls if null != name]
        document["power"] = {
            str(first): {
                one.name: _shares(setting, one, first, arrays[name], others)
                for one in shown(sites[0])
                if key(one.of, one.site, first) in arrays[name]
            }
            for first in SKIPPED
        }
    found: dict[str, Any] = _rounded(
        {
            "setting": setting.document,
            "sites": setting.sites,
            "middle": sites[0],
            "doses": documents,
        }
    )
    return found


def _shares(
    setting: Setting,
    one: Shown,
    first: int,
    own: Mapping[str, Floats],
    nulls: Sequence[Mapping[str, Floats]],
) -> dict[str, list[float]]:
    """By size of a draw, [share that leaves 0, share that leaves the null]."""
    place = key(one.of, one.site, first)
    draws, others = _turned(one, own[place]), [_turned(one, null[place]) for null in nulls]
    return {
        str(size): [leaves_zero(draws[k]), leaves_null(draws[k], [null[k] for null in others])]
        for k, size in enumerate(setting.sizes)
    }


def _turned(one: Shown, draws: Floats) -> Floats:
    """1 less CKA, its interval turned round; every other number as it is."""
    return 1 - draws[..., [0, 2, 1]] if one.of == "cka" else draws


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


def noticed(found: Mapping[str, Any], dose: Mapping[str, Any], one: Shown, first: int) -> bool:
    """Whether the interval over all prompts leaves the range of the nulls."""
    low, high = one.points(dose, first)[2:]
    least, most = null_range(found, one, first)
    return low is not None and high is not None and (low > most or high < least)


def damaged(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The doses that are no null."""
    return (dose for dose in found["doses"] if dose["kind"] != NULL)


def _rounded(value: Any) -> Any:
    """Six digits of every number."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value
