"""A gate: conditions on drift, such as `kl.mean > 0.01`, under which a comparison fails.

A condition is met when the whole interval of its number is past the threshold: the end towards the
threshold decides, so that noise fails no comparison. `strict` compares the number itself. Medians,
percentiles and maxima have no interval, so their value is always compared. A condition on the
number of a site that names no site is met when it is met at any site.

The interval is Student's at `LEVEL`, of the same jackknife error as the interval of 95 % that is
shown beside each number, and wider. A threshold is often a number that was measured before, on
other prompts. The difference of two independent numbers has sqrt(2) times the error of one, and
Student's quantile of nine degrees of freedom is passed by chance in 7 % at 95 %, in 4 % at 98 %.
All conditions on all runs are one family: c conditions that have intervals, on r runs, share the
1 - LEVEL, and a condition on any of m sites shares its part among them, so its intervals are at
1 - (1 - LEVEL) / (c r m) (Bonferroni; Dunn 1961). `benchmarks/gate_null.py` measures how often
noise meets a condition.

A gate never passes because a number is missing. A condition that no number can meet, or whose
number the comparison cannot have, is an error before anything is computed. A condition whose number
turns out to be undefined, or infinite, is *not decided*. So is every condition that is not met if
more than a share `ALLOWED` of the base run's prompts take no part (`Lost`): what is left says
nothing of the others. A condition that is not decided fails the comparison.
"""

import math
import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Final, Literal

from lpp.analyze.drift.pair import Lost
from lpp.analyze.drift.predictions import Summary
from lpp.analyze.drift.sites import SiteDrift
from lpp.analyze.numerics.jackknife import student
from lpp.analyze.quantities.drift import OF_ROWS, PREDICTIONS, SITE_CHANGES
from lpp.analyze.quantities.quantity import SHARE, Quantity
from lpp.analyze.runs.select import listed
from lpp.store.errors import ErrorKind, InputError

LEVEL: Final = 0.98
"""Level of the intervals that decide, together: that of the interval of a single condition on one
number.
"""

ALLOWED: Final = 0.01
"""Share of the base run's prompts that may take no part."""

LOSSES: Final = ("set_aside", "missing")
"""Shares of the base run's prompts that take no part, of `Lost`."""

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
_SITE: Final = re.compile(r"embed|final|block\.[1-9][0-9]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One condition of a gate."""

    text: str
    """The condition as it was given."""
    quantity: str
    """A key of `PREDICTIONS`, of `SITE_CHANGES`, or one of `LOSSES`."""
    part: str | None
    """A statistic of a prediction's number; a site, None for any."""
    comparison: str
    threshold: float

    @property
    def site(self) -> str | None:
        """The site that the condition names; None if it names none."""
        return self.part if self.quantity in SITE_CHANGES else None

    @property
    def uncertain(self) -> bool:
        """Whether an interval decides, unless the gate is strict."""
        return self.quantity not in LOSSES and (
            self.quantity in SITE_CHANGES or self.part == "mean"
        )

    @property
    def upward(self) -> bool:
        """Whether large numbers meet the condition."""
        return self.comparison.startswith(">")

    def holds(self, number: float) -> bool:
        """Whether `number` is past the threshold."""
        return _COMPARISONS[self.comparison](number, self.threshold)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of a condition for a comparison."""

    condition: Condition
    value: float | None = None
    """None if the number is undefined or infinite."""
    decisive: float | None = None
    """The number that was compared with the threshold: the end of the interval, or the value; None
    if there is none."""
    level: float | None = None
    """Level of that interval; None if the value itself was compared."""
    tests: int = 1
    """Number of intervals that share 1 - `LEVEL`, of which this is one."""
    site: str | None = None
    """For a number of sites: the site with the decisive value."""
    why: str = ""
    """Why the condition is not decided; empty if it is."""

    @property
    def outcome(self) -> Literal["fail", "not decided", "not met"]:
        """`fail` if the condition is met."""
        if self.why:
            return "not decided"
        met = self.decisive is not None and self.condition.holds(self.decisive)
        return "fail" if met else "not met"

    @property
    def failed(self) -> bool:
        """Whether the comparison fails: the condition is met, or it is not decided."""
        return self.outcome != "not met"


def parse_condition(text: str) -> Condition:
    """The condition in `text`, such as `kl.p99 > 0.5` or `cka.block.12 < 0.99`.

    Raises InputError for anything else.

    >>> condition = parse_condition("flips>=0.02")
    >>> condition.quantity, condition.part, condition.comparison, condition.threshold
    ('flips', 'mean', '>=', 0.02)
    """
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise _refused(f"{text!r} is no condition. {_GRAMMAR}")
    name, comparison, number = found.groups()
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
    low, high = _limits(quantity)
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
    if quantity in SITE_CHANGES and (_SITE.fullmatch(part) if dot else True):
        return quantity, part or None
    if quantity in PREDICTIONS and (not dot or part in PREDICTIONS[quantity].statistics):
        return quantity, part or PREDICTIONS[quantity].statistics[0]
    near = get_close_matches(name, names(), n=1, cutoff=0.5)
    rest = f"; did you mean {near[0]}?" if near else f". {_every_name()}"
    raise _refused(f"there is no number {name!r}{rest}")


def names() -> list[str]:
    """Every name of a number; a site's number may be followed by its site.

    >>> names()[:6]
    ['kl', 'kl.mean', 'kl.median', 'kl.p99', 'kl.max', 'kl_reverse']
    """
    statistics = (
        name
        for q, one in PREDICTIONS.items()
        for name in (q, *(f"{q}.{statistic}" for statistic in one.statistics))
    )
    return [
        *statistics,
        *LOSSES,
        *(name for q in SITE_CHANGES for name in (q, f"{q}.block.1", f"{q}.final")),
    ]


def check_conditions(
    conditions: Sequence[Condition], *, sites: Collection[str], no_logits: str | None
) -> None:
    """Reject a condition on a number that the comparison will not have, before it is computed.

    sites: the sites that are compared. no_logits: why numbers of every logit cannot be computed;
    None if they can. Raises InputError.
    """
    for condition in conditions:
        if no_logits is not None and _needs_logits(condition.quantity):
            raise _missing(condition, no_logits)
        if condition.quantity in SITE_CHANGES and not sites:
            raise _missing(condition, "no site is compared.")
        if condition.site is not None and condition.site not in sites:
            near = get_close_matches(condition.site, sites, n=1, cutoff=0.5)
            guess = f" Did you mean {condition.quantity}.{near[0]}?" if near else ""
            raise _missing(
                condition, f"{condition.site} is not compared; there is {listed(sites)}.{guess}"
            )


def family(conditions: Iterable[Condition], n_runs: int) -> int:
    """Number of conditions on `n_runs` runs that intervals decide; at least 1."""
    return max(1, sum(one.uncertain for one in conditions) * n_runs)


def needs_errors(conditions: Sequence[Condition], sites: Sequence[str]) -> bool:
    """Whether a condition needs an interval at another site than the last of `sites`, which always
    has errors.
    """
    return any(
        condition.quantity in set(SITE_CHANGES) - set(OF_ROWS)
        and (condition.site or sites[0]) != sites[-1]
        for condition in conditions
    )


def verdict(
    condition: Condition,
    predictions: Mapping[str, Summary],
    sites: Sequence[SiteDrift],
    *,
    lost: Lost = Lost(),  # noqa: B008 - immutable
    strict: bool = False,
    allowed: float = ALLOWED,
    of: int = 1,
) -> Verdict:
    """The verdict of `condition` on the numbers of a comparison.

    lost: the prompts that take no part. strict: the value decides, whatever its interval. allowed:
    the share of prompts that may take no part. of: the number of conditions and runs that share
    1 - `LEVEL` (`family`). Raises InputError(NOT_FOUND) for a number of a site
    that is not among `sites`.
    """
    if condition.quantity in LOSSES:
        share = getattr(lost, condition.quantity)
        return Verdict(condition=condition, value=share, decisive=share)
    numbers = _numbers(condition, predictions, sites)
    if not numbers:
        raise _missing(condition, "no site has it.")
    tests = of * len(numbers) if condition.uncertain and not strict else 0
    every = [_of_number(condition, one, tests) for one in numbers]
    decided = [one for one in every if one.decisive is not None]
    pick = max if condition.upward else min
    found = pick(decided, key=lambda one: one.decisive or 0.0, default=every[0])
    if found.outcome == "fail":
        return found
    found = next((one for one in every if one.why), found)
    if lost.share > allowed:
        return replace(found, why=found.why or _too_few(lost, allowed))
    return found


def _too_few(lost: Lost, allowed: float) -> str:
    """Why a comparison that lost so many prompts decides nothing."""
    return (
        f"{lost.n_set_aside + lost.n_missing} of the {lost.n_base} prompts of A take no part "
        f"({lost.n_set_aside} set aside, {lost.n_missing} missing), more than {100 * allowed:g} %. "
        "Capture them, compare the first N with --prompts N, or allow more with --allow-missing."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Number:
    """A number that a condition tests."""

    site: str | None = None
    value: float | None
    stderr: float | None = None
    groups: int = 0
    """Number of groups of prompts behind the error."""


def _numbers(
    condition: Condition, predictions: Mapping[str, Summary], sites: Sequence[SiteDrift]
) -> list[_Number]:
    """The numbers that a condition tests: one, or one for each site."""
    if condition.quantity in SITE_CHANGES:
        chosen = [one for one in sites if condition.site in (None, one.site)]
        found = ((one.site, one[condition.quantity]) for one in chosen)
        return [
            _Number(site=site, value=n.value, stderr=n.stderr, groups=len(n.groups))
            for site, n in found
        ]
    summary = predictions[condition.quantity]
    if condition.part == "mean":
        return [_Number(value=summary.mean, stderr=summary.stderr, groups=summary.groups)]
    return [_Number(value=getattr(summary, condition.part or "mean"))]


def _of_number(condition: Condition, number: _Number, tests: int) -> Verdict:
    """The verdict on one number. tests: intervals that share 1 - `LEVEL`; 0: the value decides."""
    at = f" at {number.site}" if number.site else ""
    if number.value is None or not math.isfinite(number.value):
        why = f"it is not defined{at} for these runs."
        return Verdict(condition=condition, site=number.site, why=why)
    found = Verdict(
        condition=condition,
        value=number.value,
        decisive=number.value,
        site=number.site,
    )
    if not tests:
        return found
    level = 1 - (1 - LEVEL) / tests
    stderr = math.nan if number.stderr is None else number.stderr
    limits = _limits(condition.quantity)
    interval = student(number.value, stderr, number.groups - 1, limits, level)
    end = interval.ci_low if condition.upward else interval.ci_high
    why = (
        f"it has no interval{at}, which decides. Compare more prompts, or take the number itself "
        "with --strict."
    )
    why = why if end is None else ""
    return replace(found, decisive=end, level=level, tests=tests, why=why)


def _limits(quantity: str) -> tuple[float, float]:
    """Least and largest possible value of a number."""
    if quantity in LOSSES:
        return SHARE
    number: Quantity = SITE_CHANGES[quantity] if quantity in SITE_CHANGES else PREDICTIONS[quantity]
    return number.limits


def _needs_logits(quantity: str) -> bool:
    return quantity in PREDICTIONS and PREDICTIONS[quantity].needs_logits


def _missing(condition: Condition, why: str) -> InputError:
    return InputError(f"--fail-if {condition.text!r}: {why}", kind=ErrorKind.NOT_FOUND)


def _every_name() -> str:
    """For a message: every name of a number."""
    numbers = "; ".join(
        name if len(one.statistics) == 1 else f"{name}.{'|'.join(one.statistics)}"
        for name, one in PREDICTIONS.items()
    )
    return (
        f"Shares of the prompts of A: {'; '.join(LOSSES)}. "
        f"Numbers of the predictions: {numbers}. "
        f"Numbers of any site: {'; '.join(SITE_CHANGES)}; of one site, such as cka.block.12."
    )


def _refused(what: str) -> InputError:
    return InputError(f"--fail-if: {what}", kind=ErrorKind.INVALID_VALUE)
