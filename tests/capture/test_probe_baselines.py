"""What baselines score on the probes, and that benchmarks/LOG.md says so."""

from pathlib import Path
from typing import Any

import pytest
from probe_baselines import AMBIGUOUS, INDUCTION, PATTERNS, scores_of

LOG = Path(__file__).resolve().parents[2] / "benchmarks" / "LOG.md"
AR_COLUMNS = ("answer_acc", "ambiguity_acc", "joint_acc", "answer_acc_plain")
SPC_COLUMNS = ("exact_match", "char_f1")


@pytest.fixture(scope="module")
def ar() -> dict[str, dict[str, float]]:
    return {name: scores_of("ar", name) for name in AMBIGUOUS}


@pytest.fixture(scope="module")
def spc() -> dict[str, dict[str, float]]:
    return {name: scores_of("spc", name) for name in PATTERNS}


def test_a_perfect_reader_of_hints_is_right_every_time(ar: Any) -> None:
    assert ar["reads hints, always `AMBIGUOUS`"]["answer_acc"] == 1
    assert ar["reads hints, always `AMBIGUOUS`"]["answer_acc_plain"] == 1
    assert ar["reads hints, always `AMBIGUOUS`"]["ambiguity_acc"] == 0.5
    whole = ar["reads prefix and hint"]
    good = {name: value for name, value in whole.items() if not name.endswith("confidence")}
    assert set(good.values()) == {1.0}
    assert whole["overconfidence"] == whole["underconfidence"] == 0


def test_constant_answers_score_exactly_one_half(ar: Any) -> None:
    for name in ("always `A`, always `AMBIGUOUS`", "always `B`, always `NOT_AMBIGUOUS`"):
        for metric in ("answer_acc", "answer_acc_plain", "ambiguity_acc", "combined"):
            assert ar[name][metric] == 0.5, (name, metric)
        assert ar[name]["joint_acc"] == 0.25


def test_confidence_is_about_what_the_prefix_is(ar: Any) -> None:
    always, never = (
        ar["always `A`, always `AMBIGUOUS`"],
        ar["always `B`, always `NOT_AMBIGUOUS`"],
    )
    assert (always["overconfidence"], always["underconfidence"]) == (0, 1)
    assert (never["overconfidence"], never["underconfidence"]) == (1, 0)


@pytest.mark.parametrize("metric", ["answer_acc", "ambiguity_acc", "answer_acc_plain"])
def test_lots_score_one_half(ar: Any, metric: str) -> None:
    assert ar["random line"][metric] == pytest.approx(0.5, abs=0.02)


def test_without_the_hint_the_answer_is_a_guess(ar: Any) -> None:
    assert ar["reads prefixes only"]["answer_acc"] == pytest.approx(0.5, abs=0.02)
    assert ar["reads prefixes only"]["answer_acc_plain"] == 1


def test_surface_gives_little_away(ar: Any) -> None:
    nearer = ar["option nearer to the hint in words"]["answer_acc"]
    assert nearer == pytest.approx(0.5, abs=0.06)
    longer = ar["longer option, shorter prefixes `AMBIGUOUS`"]
    assert longer["answer_acc"] == 0.5  # each option is right once
    assert longer["ambiguity_acc"] <= 0.65  # with the best cut, chosen on the answers


def test_following_the_rule_is_right_every_time(spc: Any) -> None:
    assert spc["follows the rule"] == {"exact_match": 1, "char_f1": 1, "parsed": 1}


@pytest.mark.parametrize(
    "name", [name for name in PATTERNS if name not in ("follows the rule", INDUCTION)]
)
def test_copying_is_no_better_than_lots(spc: Any, name: str) -> None:
    lots = spc["random symbols of those shown"]
    assert lots["exact_match"] < 0.04
    assert spc[name]["exact_match"] <= lots["exact_match"]
    assert spc[name]["char_f1"] <= lots["char_f1"]


@pytest.mark.parametrize(("probe", "columns"), [("ar", AR_COLUMNS), ("spc", SPC_COLUMNS)])
def test_the_log_shows_these_numbers(
    probe: str, columns: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    text = LOG.read_text("utf-8")
    for name, scores in request.getfixturevalue(probe).items():
        cells = " | ".join(f"{scores[column]:.2f}" for column in columns)
        assert f"| {name} | {cells} |" in text, f"| {name} | {cells} |"
