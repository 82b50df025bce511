"""Conditions on drift: what they say, when they are met, and what is refused."""

from typing import Any

import pytest

from lpp.analyze.drift.gate import (
    PREDICTIONS,
    check_conditions,
    names,
    parse_condition,
    verdict,
)
from lpp.analyze.drift.predictions import Summary
from lpp.analyze.drift.site_numbers import NUMBERS
from lpp.analyze.drift.sites import SiteDrift
from lpp.analyze.numerics.jackknife import Estimate
from lpp.store.errors import InputError


def summary(mean: float | None = 0.5, **changes: Any) -> Summary:
    found = {
        **{"mean": mean, "median": 0.25, "p99": 2.0, "max": 4.0, "stderr": 0.1},
        **{"ci_low": 0.3, "ci_high": 0.7, "n_tokens": 100},
    }
    return Summary(**(found | changes))


def estimate(value: float | None, half: float = 0.1) -> Estimate:
    if value is None:
        return Estimate(None)
    return Estimate(value, half / 2, value - half, value + half)


def site(name: str, depth: int, value: float | None, half: float = 0.1) -> SiteDrift:
    numbers = {quantity: estimate(value, half) for quantity in NUMBERS}
    return SiteDrift(site=name, depth=depth, n_tokens=100, **numbers)


ALL = dict.fromkeys(PREDICTIONS, summary())
DEEP = [site("embed", 0, 0.1), site("block.1", 1, 0.6), site("final", 2, 0.4)]


def failed(text: str, *, strict: bool = False, **changes: Summary) -> bool:
    return verdict(parse_condition(text), ALL | changes, DEEP, strict=strict).failed


@pytest.mark.parametrize(
    ("text", "quantity", "part", "comparison", "threshold"),
    [
        ("kl.mean > 0.01", "kl", "mean", ">", 0.01),
        ("kl>1e-2", "kl", "mean", ">", 0.01),
        ("  js.p99   <=  .5 ", "js", "p99", "<=", 0.5),
        ("flips >= 0.02", "flips", "mean", ">=", 0.02),
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
        ("cka.block.0 < 1", r"no number 'cka\.block\.0'"),
        ("cka. < 1", r"no number 'cka\.'"),
        ("kl. > 1", r"no number 'kl\.'"),
        ("xyz > 1", r"no number 'xyz'\. A condition is"),
    ],
)
def test_anything_else_is_told_with_what_there_is(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        parse_condition(text)
    message = str(caught.value)
    assert message.startswith("--fail-if: ")
    assert "kl.mean|median|p99|max" in message
    assert "relative_distance; cosine; cka" in message


@pytest.mark.parametrize(
    ("text", "noisy", "strict"),
    [
        ("kl > 0.25", True, True),  # the interval is 0.3 to 0.7
        ("kl > 0.3", False, True),
        ("kl >= 0.3", True, True),
        ("kl > 0.4", False, True),
        ("kl > 0.5", False, False),
        ("kl >= 0.5", False, True),
        ("kl < 0.75", True, True),
        ("kl < 0.7", False, True),
        ("kl <= 0.7", True, True),
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


def test_without_a_site_the_furthest_decides() -> None:
    found = verdict(parse_condition("relative_distance > 0.45"), ALL, DEEP)
    assert (found.failed, found.site, found.value) == (True, "block.1", 0.6)
    assert found.decisive == pytest.approx(0.5)
    found = verdict(parse_condition("cka < 0.15"), ALL, DEEP)
    assert (found.failed, found.site, found.value) == (False, "embed", 0.1)
    assert found.decisive == pytest.approx(0.2)
    assert verdict(parse_condition("cka < 0.15"), ALL, DEEP, strict=True).failed


def test_a_certain_change_is_not_hidden_by_a_larger_uncertain_one() -> None:
    sites = [site("embed", 0, 0.5, 0.01), site("final", 1, 0.9, 0.8)]
    found = verdict(parse_condition("relative_distance > 0.4"), ALL, sites)
    assert (found.failed, found.site) == (True, "embed")


def test_with_a_site_it_alone_decides() -> None:
    found = verdict(parse_condition("relative_distance.final > 0.25"), ALL, DEEP)
    assert (found.failed, found.site, found.value) == (True, "final", 0.4)
    assert not failed("relative_distance.embed > 0.25", strict=True)


def test_exactly_nothing_passes_no_threshold_above_nothing() -> None:
    none = summary(0.0, median=0.0, p99=0.0, max=0.0, stderr=0.0, ci_low=0.0, ci_high=0.0)
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
        ("kl > 1", {"ci_low": None, "stderr": None}, r"no interval, which decides.*--strict"),
        ("kl > 1", {"ci_low": float("nan")}, "no interval"),
    ],
)
def test_a_number_that_does_not_exist_never_passes(
    text: str, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        failed(text, kl=summary(**changes))


def test_strict_needs_no_interval() -> None:
    assert failed("kl > 0.4", strict=True, kl=summary(ci_low=None, ci_high=None, stderr=None))


def test_a_site_without_the_number_is_an_error_unless_another_is_named() -> None:
    sites = [*DEEP, site("block.2", 2, None)]
    with pytest.raises(InputError, match=r"not defined at block\.2"):
        verdict(parse_condition("cka < 0.1"), ALL, sites)
    assert not verdict(parse_condition("cka.final < 0.1"), ALL, sites).failed
    with pytest.raises(InputError, match="no site has it"):
        verdict(parse_condition("cka < 0.1"), ALL, [])


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
    some = [parse_condition(text) for text in ("flips > 1", "next_logprob > 1", "cka.final < 1")]
    check_conditions(some, sites=["final"], no_logits="no head")
    check_conditions([parse_condition("kl > 1")], sites=[], no_logits=None)
    with pytest.raises(InputError, match="no site is compared"):
        check_conditions([parse_condition("cka < 1")], sites=[], no_logits=None)
