"""A gate: conditions on drift, such as `kl.mean > 0.01`, under which a comparison fails.

A condition is met when the whole interval of its number is past the threshold: the end towards the
threshold decides, so that noise fails no comparison. `strict` compares the number itself. Medians,
percentiles, maxima and metrics without an error have no interval, so their value is always
compared. A condition on the number of a site that names no site is met when it is met at any site.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from lpp.analyze.drift.gate.conditions import LOSSES, OF_A_SITE, Condition, limits_of, missing
from lpp.analyze.drift.pair import Lost
from lpp.analyze.drift.sites import SiteDrift
from lpp.analyze.drift.summaries import Summary
from lpp.analyze.numerics.jackknife import student
from lpp.analyze.quantities.drift import PREDICTIONS, is_of

LEVEL: Final = 0.98
"""Level of the intervals that decide, together: that of the interval of a single condition on one
number.
"""

ALLOWED: Final = 0.01
"""Share of the base run's prompts that may take no part."""


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
        raise missing(condition, "no site has it.")
    tests = of * len(numbers) if condition.uncertain and not strict else 0
    verdicts = [_of_number(condition, number, tests) for number in numbers]
    decided = [v for v in verdicts if v.decisive is not None]
    pick = max if condition.upward else min
    deciding = pick(decided, key=lambda v: v.decisive or 0.0, default=verdicts[0])
    if deciding.outcome == "fail":
        return deciding
    deciding = next((v for v in verdicts if v.why), deciding)
    if lost.share > allowed:
        return replace(deciding, why=deciding.why or _too_few(lost, allowed))
    return deciding


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
    if condition.quantity in OF_A_SITE:
        having = (site for site in sites if is_of(condition.quantity, router=site.router))
        chosen = [site for site in having if condition.site in (None, site.site)]
        estimates = ((site.site, site[condition.quantity]) for site in chosen)
        return [
            _Number(site=site, value=n.value, stderr=n.stderr, groups=len(n.groups))
            for site, n in estimates
        ]
    summary = predictions[condition.quantity]
    if condition.part == "mean":
        return [_Number(value=summary.mean, stderr=summary.stderr, groups=summary.groups)]
    return [_Number(value=getattr(summary, condition.part or "mean"))]


def _of_number(condition: Condition, number: _Number, tests: int) -> Verdict:
    """The verdict on one number. tests: intervals that share 1 - `LEVEL`; 0: the value decides."""
    at = f" at {number.site}" if number.site else ""
    equal = number.value == math.inf and number.stderr == 0  # the SQNR of equal rows
    if number.value is None or not (equal or math.isfinite(number.value)):
        why = f"it is not defined{at} for these runs."
        return Verdict(condition=condition, site=number.site, why=why)
    by_value = Verdict(
        condition=condition,
        value=number.value,
        decisive=number.value,
        site=number.site,
    )
    if not tests or equal:
        return by_value
    level = 1 - (1 - LEVEL) / tests
    stderr = math.nan if number.stderr is None else number.stderr
    limits = limits_of(condition.quantity)
    of_log = any(p.of_log for p in PREDICTIONS.values() if p.name == condition.quantity)
    interval = student(number.value, stderr, number.groups - 1, limits, level, of_log=of_log)
    end = interval.ci_low if condition.upward else interval.ci_high
    why = (
        f"it has no interval{at}, which decides. Compare more prompts, or take the number itself "
        "with --strict."
    )
    why = why if end is None else ""
    return replace(by_value, decisive=end, level=level, tests=tests, why=why)
