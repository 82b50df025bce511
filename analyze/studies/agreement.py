"""Rank agreement: whether two settings put the models in the same order.

Kendall's tau-b (corrected for ties) and Spearman's rho (mean ranks for ties), both by SciPy. With
fewer than three models, or if all models are equal at a setting, there are no coefficients, and
`reason` says why.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from lpp.analyze.questions import Aggregation
from lpp.analyze.tables.profile import AGGREGATIONS, ENTROPIES

MIN_MODELS: Final = 3
"""With fewer models, orders are not compared: a single pair agrees or it does not."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The agreement of two orders, or why there is none."""

    n_models: int
    """Models with a number at both settings."""
    kendall_tau: float | None
    spearman_rho: float | None
    reason: str | None
    """Why there are no coefficients; None if there are."""


class Setting(NamedTuple):
    """What a profile was computed from, except the model."""

    corpus: str
    site: str
    context: int
    n_prompts: int
    aggregation: Aggregation

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self._asdict().items())


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric at two settings."""

    metric: str
    a: Setting
    b: Setting
    differ: tuple[str, ...]
    """Fields in which the settings differ."""
    agreement: Agreement
    flags: tuple[str, ...]
    """Flags of the compared values, sorted."""


class Value(NamedTuple):
    """A model's number at one setting."""

    number: float | None
    flags: tuple[str, ...] = ()


def rank_agreement(a: Sequence[float | None], b: Sequence[float | None]) -> Agreement:
    """Agreement of the orders of M models by `a` and by `b`, each (M,); None or NaN: no number.

    >>> agreement = rank_agreement([1, 2, 3, 4], [10, 20, 40, 30])  # 5 pairs agree, 1 does not
    >>> round(agreement.kendall_tau, 6)
    0.666667
    >>> rank_agreement([1, 2, None], [1, 2, 3]).reason
    '2 models: an order of fewer than 3 says nothing'
    """
    both = [(x, y) for x, y in zip(a, b, strict=True) if _is_number(x) and _is_number(y)]
    count = len(both)
    if count < MIN_MODELS:
        models = "model" if count == 1 else "models"
        why = f"{count} {models}: an order of fewer than {MIN_MODELS} says nothing"
        return Agreement(count, None, None, why)
    first, second = (tuple(column) for column in zip(*both, strict=True))
    if len(set(first)) == 1 or len(set(second)) == 1:
        return Agreement(count, None, None, "all models are equal at one of the settings")
    tau, rho = _coefficients(_ranks(first), _ranks(second))
    return Agreement(count, tau, rho, None)


def _is_number(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _ranks(values: Sequence[float | None]) -> tuple[float, ...]:
    from scipy.stats import rankdata

    return tuple(rankdata(values).tolist())


@lru_cache(
    maxsize=1 << 16
)  # the coefficients depend only on ranks, and many settings have the same
def _coefficients(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, float]:
    from scipy.stats import kendalltau, spearmanr

    # rounded so that full agreement is exactly 1, not 2e-16 below
    tau, rho = kendalltau(a, b, variant="b").statistic, spearmanr(a, b).statistic
    return round(float(tau), 12), round(float(rho), 12)


def profile_aggregation(metric: str) -> Aggregation:
    """How the profile aggregates `metric` over prefixes: minimum of entropy, maximum of ranks."""
    return "min" if metric in ENTROPIES else "max"


def pairs(metric: str, settings: Iterable[Setting]) -> Iterator[tuple[Setting, Setting]]:
    """Every pair of `settings` whose orders are compared.

    Settings of one site that differ in corpus, context or number of prompts; settings that differ
    only in the site; settings that differ only in the aggregation. Except in the last case, both
    have the aggregation of the profile.
    """
    one_site: dict[str, list[Setting]] = defaultdict(list)
    one_cell: dict[Setting, list[Setting]] = defaultdict(list)
    one_profile: dict[Setting, list[Setting]] = defaultdict(list)
    for setting in settings:
        if setting.aggregation == profile_aggregation(metric):
            one_site[setting.site].append(setting)
            one_cell[setting._replace(site="")].append(setting)
        one_profile[setting._replace(aggregation=profile_aggregation(metric))].append(setting)
    for group in itertools.chain(one_site.values(), one_cell.values()):
        yield from itertools.combinations(group, 2)
    for group in one_profile.values():
        group.sort(key=lambda setting: AGGREGATIONS.index(setting.aggregation))
        yield from itertools.combinations(group, 2)


def compare(
    metric: str, values: Mapping[Setting, Mapping[str, Value]], models: Sequence[str]
) -> Iterator[Compared]:
    """The agreement of `metric` for each of `pairs`. values: by setting, then by model."""
    nothing = Value(None)
    for a, b in pairs(metric, values):
        here = [(values[a].get(m, nothing), values[b].get(m, nothing)) for m in models]
        both = [(x, y) for x, y in here if _is_number(x.number) and _is_number(y.number)]
        marks = {flag for pair in both for value in pair for flag in value.flags}
        yield Compared(
            metric=metric,
            a=a,
            b=b,
            differ=tuple(f for f, x, y in zip(Setting._fields, a, b, strict=True) if x != y),
            agreement=rank_agreement([x.number for x, _ in both], [y.number for _, y in both]),
            flags=tuple(sorted(marks)),
        )
