"""A gate: conditions on drift, such as `kl.mean > 0.01`, under which a comparison fails.

A condition is met when the whole interval of its number is past the threshold: the end towards the
threshold decides, so that noise fails no comparison. `strict` takes the number itself. Medians,
percentiles and maxima have no interval, so they are always taken themselves. A condition on the
number of a site that names no site is met when it is met at any site.

A number that does not exist is an error: a gate never passes for want of a number.
"""

import math
import operator
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from lpp.analyze.drift.predictions import Summary
from lpp.analyze.drift.site_numbers import NUMBERS, OF_ROWS
from lpp.analyze.drift.sites import SiteDrift
from lpp.analyze.numerics.jackknife import Estimate
from lpp.analyze.runs.select import listed
from lpp.store.errors import ErrorKind, InputError

EVERY: Final = ("mean", "median", "p99", "max")

PREDICTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "kl": EVERY,
    "kl_reverse": EVERY,
    "js": EVERY,
    "tv": EVERY,
    "flips": ("mean",),
    "top10": ("mean",),
    "next_logprob": EVERY,
    "log_perplexity": ("mean",),
    "entropy": ("mean",),
}
"""Numbers of the predictions, and what of them a condition may be about; the first by default."""

OF_LOGITS: Final = frozenset({"kl", "kl_reverse", "js", "tv", "top10"})
"""Numbers that need every logit."""

_COMPARISONS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}

_CONDITION: Final = re.compile(r"\s*([^\s<>=]+)\s*(>=|<=|>|<)\s*(\S+)\s*")
_SITE: Final = re.compile(r"embed|final|block\.[1-9][0-9]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One condition of a gate."""

    text: str
    """As it was given."""
    quantity: str
    """Of `PREDICTIONS`, or of a site's `NUMBERS`."""
    part: str | None
    """A statistic of a prediction's number; a site, None for any."""
    comparison: str
    threshold: float

    @property
    def site(self) -> str | None:
        """The site it names."""
        return self.part if self.quantity in NUMBERS else None

    def holds(self, number: float) -> bool:
        """Whether `number` is past the threshold."""
        return _COMPARISONS[self.comparison](number, self.threshold)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a condition says of a comparison."""

    condition: Condition
    value: float
    decisive: float
    """What was compared with the threshold: the end of the interval, or the value."""
    site: str | None
    """Where the decisive number is furthest, of a site's number."""

    @property
    def failed(self) -> bool:
        """Whether the condition is met, so that the comparison fails."""
        return self.condition.holds(self.decisive)


def parse_condition(text: str) -> Condition:
    """The condition that `text` says, such as `kl.p99 > 0.5` or `cka.block.12 < 0.99`.

    Raises InputError for anything else, with the names there are.

    >>> condition = parse_condition("flips>=0.02")
    >>> condition.quantity, condition.part, condition.comparison, condition.threshold
    ('flips', 'mean', '>=', 0.02)
    """
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise _refused(f"{text!r} is no condition.")
    name, comparison, number = found.groups()
    try:
        threshold = float(number)
    except ValueError:
        threshold = math.nan
    if not math.isfinite(threshold):
        raise _refused(f"{text!r}: {number!r} is no number.")
    quantity, part = _named(name)
    return Condition(
        text=text.strip(), quantity=quantity, part=part, comparison=comparison, threshold=threshold
    )


def _named(name: str) -> tuple[str, str | None]:
    """Quantity and part of a name. InputError for one that is not there, with the nearest."""
    quantity, dot, part = name.partition(".")
    if quantity in NUMBERS and (_SITE.fullmatch(part) if dot else True):
        return quantity, part or None
    if quantity in PREDICTIONS and (not dot or part in PREDICTIONS[quantity]):
        return quantity, part or PREDICTIONS[quantity][0]
    near = get_close_matches(name, names(), n=1, cutoff=0.5)
    raise _refused(f"there is no number {name!r}{f'; did you mean {near[0]}?' if near else '.'}")


def names() -> list[str]:
    """Every name of a number; a site's number may have its site behind it.

    >>> names()[:6]
    ['kl', 'kl.mean', 'kl.median', 'kl.p99', 'kl.max', 'kl_reverse']
    """
    statistics = (
        name for q, some in PREDICTIONS.items() for name in (q, *(f"{q}.{s}" for s in some))
    )
    return [*statistics, *(name for q in NUMBERS for name in (q, f"{q}.block.1", f"{q}.final"))]


def check_conditions(
    conditions: Sequence[Condition], *, sites: Collection[str], no_logits: str | None
) -> None:
    """Refuse what a comparison will not have, before it is made.

    sites: those that are compared. no_logits: why no number of every logit can be computed, if so.
    Raises InputError.
    """
    for condition in conditions:
        if no_logits is not None and condition.quantity in OF_LOGITS:
            raise _missing(condition, no_logits)
        if condition.quantity in NUMBERS and not sites:
            raise _missing(condition, "no site is compared.")
        if condition.site is not None and condition.site not in sites:
            near = get_close_matches(condition.site, sites, n=1, cutoff=0.5)
            guess = f" Did you mean {condition.quantity}.{near[0]}?" if near else ""
            raise _missing(
                condition, f"{condition.site} is not compared; there is {listed(sites)}.{guess}"
            )


def needs_errors(conditions: Sequence[Condition], sites: Sequence[str]) -> bool:
    """Whether a condition wants an interval at another site than the last of `sites`, where every
    number has one.
    """
    return any(
        condition.quantity in set(NUMBERS) - set(OF_ROWS)
        and (condition.site or sites[0]) != sites[-1]
        for condition in conditions
    )


def verdict(
    condition: Condition,
    predictions: Mapping[str, Summary],
    sites: Sequence[SiteDrift],
    *,
    strict: bool = False,
) -> Verdict:
    """What `condition` says of a comparison's numbers.

    strict: the value decides, whatever its interval. Raises InputError(NOT_FOUND) for a number that
    does not exist: no statistic, not finite, no interval where one decides.
    """
    upward = condition.comparison.startswith(">")
    candidates = [
        (_decisive(condition, site, number, upward=upward, strict=strict), number.value, site)
        for site, number in _numbers(condition, predictions, sites)
    ]
    if not candidates:
        raise _missing(condition, "no site has it.")
    pick = max if upward else min
    decisive, value, site = pick(candidates, key=lambda candidate: candidate[0])
    assert value is not None  # or there is no decisive number
    return Verdict(condition=condition, value=value, decisive=decisive, site=site)


def _numbers(
    condition: Condition, predictions: Mapping[str, Summary], sites: Sequence[SiteDrift]
) -> Iterator[tuple[str | None, Estimate]]:
    """The numbers that a condition is about, each with its site if it has one."""
    if condition.quantity in NUMBERS:
        for one in sites:
            if condition.site in (None, one.site):
                yield one.site, getattr(one, condition.quantity)
        return
    summary = predictions[condition.quantity]
    if condition.part == "mean":
        yield None, Estimate(summary.mean, summary.stderr, summary.ci_low, summary.ci_high)
    else:  # no interval: it is the number itself
        value = getattr(summary, condition.part or "mean")
        yield None, Estimate(value, None, value, value)


def _decisive(
    condition: Condition, site: str | None, number: Estimate, *, upward: bool, strict: bool
) -> float:
    """What of a number is compared with the threshold."""
    at = f" at {site}" if site else ""
    if number.value is None or not math.isfinite(number.value):
        raise _missing(condition, f"it is not defined{at} for these runs.")
    end = number.ci_low if upward else number.ci_high
    if strict:
        return number.value
    if end is None or not math.isfinite(end):
        raise _missing(
            condition,
            f"it has no interval{at}, which decides. Compare more prompts, or take the number "
            "itself with --strict.",
        )
    return end


def _missing(condition: Condition, why: str) -> InputError:
    return InputError(f"--fail-if {condition.text!r}: {why}", kind=ErrorKind.NOT_FOUND)


def _refused(what: str) -> InputError:
    numbers = "; ".join(
        quantity if len(some) == 1 else f"{quantity}.{'|'.join(some)}"
        for quantity, some in PREDICTIONS.items()
    )
    return InputError(
        f"--fail-if: {what} A condition is NAME > NUMBER, with >, <, >= or <=. Names of the "
        f"predictions: {numbers}. Names of sites: {'; '.join(NUMBERS)}; of one site with its name "
        "behind, such as cka.block.12.",
        kind=ErrorKind.INVALID_VALUE,
    )
