"""Conditions on drift: what they say, when they are met, and what is refused."""

import math
import re
from dataclasses import replace
from typing import Any

import pytest
from scipy import stats

from lpp.analyze.drift.gate.conditions import (
    check_conditions,
    family,
    names,
    needs_errors,
    parse_condition,
)
from lpp.analyze.drift.gate.verdicts import verdict
from lpp.analyze.drift.pair import Lost
from lpp.analyze.drift.sites import SiteDrift
from lpp.analyze.drift.summaries import Summary
from lpp.analyze.numerics.jackknife import Estimate
from lpp.analyze.quantities.drift import PREDICTIONS, SITE_CHANGES
from lpp.store.errors import InputError

OF_ONE, OF_THREE = 2.821438, 3.505399
"""Student's quantiles of nine degrees of freedom that 1 % exceeds, and a third of 1 %."""


def summary(mean: float | None = 0.5, **changes: Any) -> Summary:
    """Its interval, as a gate takes it, is 0.3 to 0.7."""
    found = {
        **{"mean": mean, "median": 0.25, "p99": 2.0, "max": 4.0, "stderr": 0.2 / OF_ONE},
        **{"ci_low": 0.34, "ci_high": 0.66, "groups": 10, "n_tokens": 100},
    }
    return Summary(**(found | changes))


def estimate(value: float | None, half: float = 0.1) -> Estimate:
    """Its interval reaches `half` to each side where it is one of three sites."""
    if value is None:
        return Estimate(None)
    stderr = half / OF_THREE
    return Estimate(value, stderr, value - 2.26 * stderr, value + 2.26 * stderr, 10 * (value,))


def site(name: str, depth: int, value: float | None, half: float = 0.1) -> SiteDrift:
    numbers = {quantity: estimate(value, half) for quantity in SITE_CHANGES}
    return SiteDrift(site=name, depth=depth, n_tokens=100, numbers=numbers)


ALL = dict.fromkeys(PREDICTIONS, summary())
DEEP = [site("embed", 0, 0.1), site("block.1", 1, 0.6), site("final", 2, 0.4)]


def outcome(text: str, *, strict: bool = False, **changes: Summary) -> str:
    return verdict(parse_condition(text), ALL | changes, DEEP, strict=strict).outcome


def failed(text: str, *, strict: bool = False, **changes: Summary) -> bool:
    found = outcome(text, strict=strict, **changes)
    assert found != "not decided"
    return found == "fail"


@pytest.mark.parametrize(
    ("text", "quantity", "part", "comparison", "threshold"),
    [
        ("kl.mean > 0.01", "kl", "mean", ">", 0.01),
        ("kl>1e-2", "kl", "mean", ">", 0.01),
        ("  js.p99   <=  .5 ", "js", "p99", "<=", 0.5),
        ("flips >= 0.02", "flips", "mean", ">=", 0.02),
        ("ear < 0.95", "ear", "mean", "<", 0.95),
        ("same_top_p < 0.98", "same_top_p", "mean", "<", 0.98),
        ("sqnr.final < 30", "sqnr", "final", "<", 30.0),
        ("log_perplexity > -1", "log_perplexity", "mean", ">", -1.0),
        ("next_logprob.p99 > 1", "next_logprob", "p99", ">", 1.0),
        ("cka < 0.99", "cka", None, "<", 0.99),
        ("relative_distance.block.12 > 0.1", "relative_distance", "block.12", ">", 0.1),
        ("overlap.final < 0.5", "overlap", "final", "<", 0.5),
    ],
)
def test_a_condition_is_a_name_a_comparison_and_a_number(
    text: str, quantity: str, part: str | None, comparison: str, threshold: float
) -> None:
    found = parse_condition(text)
    assert (found.quantity, found.part) == (quantity, part)
    assert (found.comparison, found.threshold) == (comparison, threshold)
    assert found.text == text.strip()


def test_every_name_is_understood() -> None:
    assert len(names()) > 30
    for name in names():
        assert parse_condition(f"{name} > 0").text.startswith(name)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kl.mean", r"'kl\.mean' is no condition\. A condition is NAME > NUMBER"),
        ("", "is no condition"),
        ("kl.mean = 0.01", "is no condition"),
        ("kl.mean >> 0.01", "is no condition"),
        ("kl.mean => 0.01", "is no condition"),
        ("kl.mean > 0.01 0.02", "is no condition"),
        ("kl.mean > a lot", "is no condition"),
        ("kl.mean > much", "'much' is no number"),
        ("kl.mean > nan", "'nan' is no number"),
        ("kl.mean > inf", "'inf' is no number"),
        ("kl.men > 0.01", r"no number 'kl\.men'; did you mean kl\.mean\?"),
        ("k1.mean > 0.01", r"did you mean kl\.mean\?"),
        ("flips.p99 > 0.01", r"no number 'flips\.p99'; did you mean"),
        ("relative_distanc > 1", r"did you mean relative_distance\?"),
        ("cka. < 1", r"no number 'cka\.'"),
        ("kl. > 1", r"no number 'kl\.'"),
        ("xyz_1234 > 1", r"no number 'xyz_1234'\. `lpp-analyze metrics` lists the names\."),
        ("kl > 0_01", "'0_01' is no number"),
        ("flips > 2", r"can never be met: flips lies between 0 and 1\."),
        ("flips > 1", "can never be met"),
        ("top10 < 0", "can never be met"),
        ("js >= 0.7", r"js lies between 0 and 0\.693147"),
        ("kl.p99 <= -1e-9", "kl lies between 0 and inf"),
        ("cosine.final < -1", "cosine lies between -1 and 1"),
        ("cka > 1", "cka lies between 0 and 1"),
    ],
)
def test_anything_else_is_told_with_what_there_is(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        parse_condition(text)
    message = str(caught.value)
    assert message.startswith("--fail-if: ")
    assert len(message) < 200


@pytest.mark.parametrize(
    ("text", "noisy", "strict"),
    [
        ("kl > 0.299", True, True),  # the interval is 0.3 to 0.7
        ("kl > 0.301", False, True),
        ("kl >= 0.301", False, True),
        ("kl > 0.4", False, True),
        ("kl > 0.5", False, False),
        ("kl >= 0.5", False, True),
        ("kl < 0.701", True, True),
        ("kl < 0.699", False, True),
        ("kl <= 0.699", False, True),
        ("kl < 0.5", False, False),
        ("kl.median > 0.2", True, True),  # without an interval
        ("kl.p99 > 1.9", True, True),
        ("kl.max > 4", False, False),
        ("kl.max >= 4", True, True),
    ],
)
def test_the_end_of_the_interval_decides_unless_strict(
    text: str, noisy: bool, strict: bool
) -> None:
    assert failed(text) == noisy
    assert failed(text, strict=True) == strict


def test_the_error_and_the_number_of_groups_make_the_interval() -> None:
    for groups, quantile in ((10, OF_ONE), (4, 4.540703), (2, 31.820516)):
        found = verdict(parse_condition("kl > 9"), ALL | {"kl": summary(9.5, groups=groups)}, DEEP)
        low = 9.5 - quantile * 0.2 / OF_ONE
        assert found.decisive == pytest.approx(low, rel=1e-6)
        assert (found.level, found.failed) == (0.98, low > 9)
    assert verdict(parse_condition("kl > 9"), ALL, DEEP, strict=True).level is None
    assert verdict(parse_condition("kl.max > 9"), ALL, DEEP).level is None


def test_any_of_several_sites_is_several_tests() -> None:
    names = ["embed", *(f"block.{k}" for k in range(1, 32))]
    sites = [site(name, k, 0.3) for k, name in enumerate(names)]
    any_site = verdict(parse_condition("relative_distance > 0.25"), ALL, sites)
    one_site = verdict(parse_condition("relative_distance.block.7 > 0.25"), ALL, sites)
    assert (any_site.level, one_site.level) == (1 - 0.02 / 32, 0.98)
    stderr = 0.1 / OF_THREE
    assert any_site.decisive == pytest.approx(0.3 - 5.123529 * stderr, abs=1e-4)
    assert one_site.decisive == pytest.approx(0.3 - OF_ONE * stderr, rel=1e-6)
    assert verdict(parse_condition("relative_distance > 0.25"), ALL, sites[:1]).level == 0.98


def test_conditions_and_runs_are_one_family() -> None:
    texts = ("kl > 1", "relative_distance > 9", "kl.max > 1", "set_aside > 0.5")
    some = [parse_condition(text) for text in texts]
    assert family(some, 3) == 6  # maxima and shares of prompts have no interval
    assert family(some[2:], 3) == 1
    alone = verdict(some[0], ALL, DEEP)
    found = verdict(some[0], ALL, DEEP, of=6)
    assert (alone.level, alone.tests, found.level, found.tests) == (0.98, 1, 1 - 0.02 / 6, 6)
    assert alone.decisive == pytest.approx(0.3)
    stderr = 0.2 / OF_ONE
    assert found.decisive == pytest.approx(0.5 - student(9, 1 - 0.02 / 12) * stderr, rel=1e-9)
    any_site = verdict(some[1], ALL, DEEP, of=6)
    assert (any_site.level, any_site.tests) == (1 - 0.02 / 18, 18)
    assert verdict(some[0], ALL, DEEP, of=6, strict=True).level is None
    assert verdict(some[2], ALL, DEEP, of=6).level is None


def student(freedom: int, share: float) -> float:
    """Student's quantile, by SciPy's own distribution."""
    return float(stats.t(freedom).ppf(share))


def test_without_a_site_the_furthest_decides() -> None:
    found = verdict(parse_condition("relative_distance > 0.45"), ALL, DEEP)
    assert (found.failed, found.site, found.value) == (True, "block.1", 0.6)
    assert found.decisive == pytest.approx(0.5)
    found = verdict(parse_condition("cka < 0.15"), ALL, DEEP)
    assert (found.failed, found.site, found.value) == (False, "embed", 0.1)
    assert found.decisive == pytest.approx(0.2)
    assert verdict(parse_condition("cka < 0.15"), ALL, DEEP, strict=True).failed


def test_with_a_site_it_alone_decides() -> None:
    found = verdict(parse_condition("relative_distance.final > 0.25"), ALL, DEEP)
    assert (found.failed, found.site, found.value) == (True, "final", 0.4)
    assert not failed("relative_distance.embed > 0.25", strict=True)


def test_exactly_nothing_passes_no_threshold_above_nothing() -> None:
    none = summary(0.0, median=0.0, p99=0.0, max=0.0, stderr=0.0)
    assert not failed("kl > 0", kl=none)
    assert not failed("kl.max > 0", kl=none, strict=True)
    assert failed("kl >= 0", kl=none)


@pytest.mark.parametrize(
    ("text", "changes", "told"),
    [
        ("kl > 1", {"mean": None}, "not defined for these runs"),
        ("kl > 1", {"mean": float("nan")}, "not defined for these runs"),
        ("kl.p99 > 1", {"p99": None}, "not defined"),
        ("kl.max > 1", {"max": float("inf")}, "not defined"),
        ("kl > 1", {"stderr": None}, r"no interval, which decides.*--strict"),
        ("kl > 1", {"stderr": float("nan")}, "no interval"),
        ("kl > 1", {"groups": 1}, "no interval"),
    ],
)
def test_a_number_that_does_not_exist_decides_nothing(
    text: str, changes: dict[str, Any], told: str
) -> None:
    found = verdict(parse_condition(text), ALL | {"kl": summary(**changes)}, DEEP)
    assert (found.outcome, found.failed) == ("not decided", True)
    assert re.search(told, found.why)
    if "interval" not in told:
        assert (found.value, found.decisive) == (None, None)


@pytest.mark.parametrize("strict", [False, True])
def test_equal_rows_have_no_noise(strict: bool) -> None:
    """An infinite SQNR is above every threshold, and no missing number."""
    equal = Estimate(math.inf, 0.0, math.inf, math.inf)
    sites = [SiteDrift(site="final", depth=2, n_tokens=9, numbers={"sqnr": equal})]
    low, high = (parse_condition(text) for text in ("sqnr.final < 30", "sqnr > 30"))
    assert verdict(low, ALL, sites, strict=strict).outcome == "not met"
    assert verdict(high, ALL, sites, strict=strict).outcome == "fail"
    noisy = replace(sites[0], site="block.1", numbers={"sqnr": estimate(25.0)})
    found = verdict(parse_condition("sqnr < 30"), ALL, [*sites, noisy], strict=strict)
    assert (found.outcome, found.site) == ("fail", "block.1")


@pytest.mark.parametrize("stderr", [0.01, 3.0])
def test_a_ratio_of_perplexities_is_decided_as_its_logarithm(stderr: float) -> None:
    logarithm = summary(-0.2, stderr=stderr, ci_low=None, ci_high=None)
    ratio = summary(math.exp(-0.2), stderr=stderr * math.exp(-0.2))
    for sign in "<>":
        found, of_log = (
            verdict(parse_condition(f"{name} {sign} 0.5"), ALL | {name: number}, DEEP)
            for name, number in (("perplexity_ratio", ratio), ("log_perplexity", logarithm))
        )
        assert found.decisive == pytest.approx(math.exp(of_log.decisive or 0.0))


def test_strict_needs_no_interval() -> None:
    assert failed("kl > 0.4", strict=True, kl=summary(stderr=None, groups=0))


def test_a_site_without_the_number_decides_nothing_unless_another_is_past() -> None:
    sites = [*DEEP, site("block.2", 2, None)]
    found = verdict(parse_condition("cka < 0.01"), ALL, sites)
    assert (found.outcome, found.failed) == ("not decided", True)
    assert "at block.2" in found.why
    met = verdict(parse_condition("cka < 0.9"), ALL, sites)
    assert (met.outcome, met.site, met.why) == ("fail", "embed", "")
    assert not verdict(parse_condition("cka.final < 0.1"), ALL, sites).failed
    with pytest.raises(InputError, match="no site has it"):
        verdict(parse_condition("cka < 0.1"), ALL, [])


# prompts that take no part


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("set_aside > 0.02", "fail"),
        ("set_aside > 0.03", "not met"),
        ("set_aside >= 0.03", "fail"),
        ("missing > 0", "fail"),
        ("missing > 0.5", "not met"),
    ],
)
def test_lost_prompts_are_numbers_with_names(text: str, outcome: str) -> None:
    lost = Lost(n_base=100, n_set_aside=3, n_missing=50)
    found = verdict(parse_condition(text), ALL, DEEP, lost=lost)
    assert (found.outcome, found.level) == (outcome, None)
    assert found.value == (0.03 if "set_aside" in text else 0.5)


@pytest.mark.parametrize(
    ("n_set_aside", "n_missing", "allowed", "outcome"),
    [
        (1, 0, 0.01, "not met"),  # exactly 1 %
        (0, 2, 0.01, "not decided"),
        (1, 1, 0.01, "not decided"),
        (1, 1, 0.02, "not met"),
        (98, 0, 1.0, "not met"),
        (1, 0, 0.0, "not decided"),
    ],
)
def test_a_comparison_that_lost_prompts_decides_nothing(
    n_set_aside: int, n_missing: int, allowed: float, outcome: str
) -> None:
    lost = Lost(n_base=100, n_set_aside=n_set_aside, n_missing=n_missing)
    found = verdict(parse_condition("kl > 9"), ALL, DEEP, lost=lost, allowed=allowed)
    assert (found.outcome, found.failed) == (outcome, outcome != "not met")
    assert bool(found.why) == (outcome == "not decided")
    if found.why:
        assert f"{n_set_aside + n_missing} of the 100 prompts" in found.why
        assert "--allow-missing" in found.why
    met = verdict(parse_condition("kl > 0.1"), ALL, DEEP, lost=lost, allowed=allowed)
    assert (met.outcome, met.why) == ("fail", "")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kl > 1", "no head"),
        ("top10 < 1", "no head"),
        ("cka.block.2 < 1", r"block\.2 is not compared; there is embed, block\.1, final\. Did you"),
    ],
)
def test_what_will_be_missing_is_told_before_it_is_computed(text: str, told: str) -> None:
    sites = [one.site for one in DEEP]
    with pytest.raises(InputError, match=told):
        check_conditions([parse_condition(text)], sites=sites, no_logits="no head")


def test_what_will_be_there_is_not_refused() -> None:
    some = [parse_condition(text) for text in ("flips > 0.5", "next_logprob > 1", "cka.final < 1")]
    check_conditions(some, sites=["final"], no_logits="no head")
    check_conditions([parse_condition("kl > 1")], sites=[], no_logits=None)
    with pytest.raises(InputError, match="no site is compared"):
        check_conditions([parse_condition("cka < 1")], sites=[], no_logits=None)


@pytest.mark.parametrize(
    ("gate", "needed"),
    [
        ("cka.final < 0.9", False),  # the last site always has errors
        ("cka.block.2 < 0.9", True),
        ("cka < 0.9", True),
        ("kl > 0.1", False),
    ],
)
def test_errors_of_inner_sites_are_needed_by_conditions_on_them(gate: str, needed: bool) -> None:
    assert needs_errors([parse_condition(gate)], ["embed", "block.2", "final"]) == needed
