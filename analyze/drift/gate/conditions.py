"""Conditions on numbers of two runs, such as `kl.mean > 0.01`, under which a gate fails.

A condition on the number of a site that names no site is about any site.
"""

import math
import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from lpp.analyze.metrics.metric import Metric
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.quantities.drift import OF_ROWS, PREDICTIONS, SITE_CHANGES, is_of
from lpp.analyze.quantities.probes import PROBE_CHANGES
from lpp.analyze.quantities.quantity import SHARE
from lpp.analyze.runs.select import listed
from lpp.store.errors import ErrorKind, InputError

LOSSES: Final = ("set_aside", "missing")
"""Shares of the base run's prompts that take no part, of `drift.pair.Lost`."""

_DIFFERENCES: Final[Mapping[str, Metric[Any]]] = {
    name: metric for name, metric in METRICS.items() if name not in SITE_CHANGES
}
"""Metrics of one run, which stand for their difference B - A."""

OF_A_SITE: Final = (
    *SITE_CHANGES,
    *PROBE_CHANGES,
    *(name for name, metric in _DIFFERENCES.items() if metric.needs != "tokens"),
)
"""Numbers of each site; every other number is of the predictions or of the prompts."""

_DECLARED: Final = (PREDICTIONS, SITE_CHANGES, PROBE_CHANGES)

_COMPARISONS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}

_GRAMMAR: Final = (
    "A condition is NAME > NUMBER, with >, <, >= or <=, such as 'kl.mean > 0.01'. "
    "`lpp-analyze metrics` lists the names."
)
_CONDITION: Final = re.compile(r"\s*([^\s<>=]+)\s*(>=|<=|>|<)\s*(\S+)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One condition of a gate."""

    text: str
    """The condition as it was given."""
    quantity: str
    """A key of `PREDICTIONS`, of `SITE_CHANGES`, of `PROBE_CHANGES` or of `METRICS`, or one of
    `LOSSES`."""
    part: str | None
    """A statistic of a prediction's number; a site, None for any."""
    comparison: str
    threshold: float

    @property
    def site(self) -> str | None:
        """The site that the condition names; None if it names none."""
        return self.part if self.quantity in OF_A_SITE else None

    @property
    def metric(self) -> Metric[Any] | None:
        """The metric whose difference is compared; None if `diff` always has the number."""
        return _DIFFERENCES.get(self.quantity)

    @property
    def uncertain(self) -> bool:
        """Whether an interval decides, unless the gate is strict."""
        if self.metric is not None and self.metric.no_error:
            return False
        return self.quantity in OF_A_SITE or self.part == "mean"

    @property
    def upward(self) -> bool:
        """Whether large numbers meet the condition."""
        return self.comparison.startswith(">")

    def holds(self, number: float) -> bool:
        """Whether `number` is past the threshold."""
        return _COMPARISONS[self.comparison](number, self.threshold)


def parse_condition(text: str) -> Condition:
    """The condition in `text`, such as `kl.p99 > 0.5` or `cka.block.12 < 0.99`.

    Raises InputError for anything else.

    >>> condition = parse_condition("flips>=0.02")
    >>> condition.quantity, condition.part, condition.comparison, condition.threshold
    ('flips', 'mean', '>=', 0.02)
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise _refused(f"{text!r} is no condition. {_GRAMMAR}")
    name, comparison, number = match.groups()
    try:
        threshold = math.nan if "_" in number else float(number)  # 0_01 is 1 to Python
    except ValueError:
        threshold = math.nan
    if not math.isfinite(threshold):
        raise _refused(f"{text!r}: {number!r} is no number. {_GRAMMAR}")
    quantity, part = _named(name)
    condition = Condition(
        text=text.strip(), quantity=quantity, part=part, comparison=comparison, threshold=threshold
    )
    low, high = limits_of(quantity)
    if not condition.holds(high if condition.upward else low):
        raise _refused(
            f"{text!r} can never be met: {quantity} lies between {low:.6g} and {high:.6g}."
        )
    return condition


def _named(name: str) -> tuple[str, str | None]:
    """Quantity and part of a name. InputError for an unknown name, with the nearest one."""
    quantity, dot, part = name.partition(".")
    if name in LOSSES:
        return name, None
    if quantity in OF_A_SITE and (part or not dot):  # sites may have any name
        return quantity, part or None
    if name in _DIFFERENCES:
        return name, "mean"
    if quantity in PREDICTIONS and (not dot or part in PREDICTIONS[quantity].statistics):
        return quantity, part or PREDICTIONS[quantity].statistics[0]
    near = get_close_matches(name, names(), n=1, cutoff=0.5)
    guess = f"; did you mean {near[0]}?" if near else "."
    raise _refused(f"there is no number {name!r}{guess} `lpp-analyze metrics` lists the names.")


def names() -> list[str]:
    """Every name of a number; a site's number may be followed by its site.

    >>> names()[:6]
    ['kl', 'kl.mean', 'kl.median', 'kl.p99', 'kl.max', 'kl_reverse']
    """
    statistics = (
        name
        for q, prediction in PREDICTIONS.items()
        for name in (q, *(f"{q}.{statistic}" for statistic in prediction.statistics))
    )
    return [
        *statistics,
        *LOSSES,
        *(name for q in OF_A_SITE for name in (q, f"{q}.block.1", f"{q}.final")),
        *(name for name in _DIFFERENCES if name not in OF_A_SITE),
    ]


def check_conditions(
    conditions: Sequence[Condition],
    *,
    sites: Collection[str],
    routers: Collection[str] = (),
    no_logits: str | None = None,
    of_probes: bool = False,
) -> None:
    """Reject a condition on a number that the comparison will not have, before it is computed.

    sites: the compared ones, some of them `routers`. no_logits: why numbers of every logit cannot
    be computed; None if they can. of_probes: for the scores of a probe. Raises InputError.
    """
    of_logits = {name for name, number in PREDICTIONS.items() if number.needs_logits}
    for condition in conditions:
        if of_probes != (condition.quantity in PROBE_CHANGES) and condition.quantity not in LOSSES:
            command = "diff" if of_probes else "probe --against"
            raise missing(condition, f"it is a number of `lpp-analyze {command}`.")
        if no_logits is not None and condition.quantity in of_logits:
            raise missing(condition, no_logits)
        having = [site for site in sites if is_of(condition.quantity, router=site in routers)]
        if condition.quantity in OF_A_SITE and not having:
            raise missing(condition, "no site is compared that has it.")
        if condition.site is not None and condition.site not in having:
            near = get_close_matches(condition.site, having, n=1, cutoff=0.5)
            guess = f" Did you mean {condition.quantity}.{near[0]}?" if near else ""
            raise missing(
                condition, f"{condition.site} is not compared; there is {listed(having)}.{guess}"
            )


def family(conditions: Iterable[Condition], n_runs: int) -> int:
    """Number of conditions on `n_runs` runs that intervals decide; at least 1."""
    return max(1, sum(condition.uncertain for condition in conditions) * n_runs)


def needs_errors(conditions: Sequence[Condition], sites: Sequence[str]) -> bool:
    """Whether a condition needs an interval at another site than the last of `sites`, which always
    has errors.
    """
    return any(
        condition.quantity in set(OF_A_SITE) - set(OF_ROWS)
        and condition.uncertain
        and (condition.site or sites[0]) != sites[-1]
        for condition in conditions
    )


def limits_of(quantity: str) -> tuple[float, float]:
    """Least and largest possible value of a number."""
    if quantity in LOSSES:
        return SHARE
    if quantity in _DIFFERENCES:
        low, high = _DIFFERENCES[quantity].limits
        return low - high, high - low
    return next(of[quantity].limits for of in _DECLARED if quantity in of)


def missing(condition: Condition, why: str) -> InputError:
    """The error about a number that a comparison does not have."""
    return InputError(f"--fail-if {condition.text!r}: {why}", kind=ErrorKind.NOT_FOUND)


def _refused(what: str) -> InputError:
    return InputError(f"--fail-if: {what}")
