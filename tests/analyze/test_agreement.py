"""Rank agreement: hand values, ties, too few models, and the published sensitivity tables."""

import csv
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpp.analyze.studies.agreement import Agreement, Setting, Value, compare, pairs, rank_agreement

NAN = float("nan")


@pytest.mark.parametrize(
    ("a", "b", "tau", "rho"),
    [
        ([1, 2, 3], [10, 20, 30], 1, 1),
        ([1, 2, 3], [3, 2, 1], -1, -1),
        # 6 pairs, one the other way round: (5 - 1) / 6; 1 - 6 * 2 / (4 * 15)
        ([1, 2, 3, 4], [1, 2, 4, 3], 4 / 6, 0.8),
        # a tie in one: 5 pairs agree, none disagrees, one is tied in a: 5 / sqrt(5 * 6);
        # ranks 1, 2.5, 2.5, 4 and 1 to 4: 4.5 / sqrt(4.5 * 5)
        ([1, 2, 2, 4], [1, 2, 3, 4], 5 / math.sqrt(30), 4.5 / math.sqrt(22.5)),
        # ties in both, at different places: of 6 pairs 4 agree, one is tied in each:
        # 4 / sqrt(5 * 5); ranks 1.5, 1.5, 3, 4 and 1, 2, 3.5, 3.5: 4 / 4.5
        ([1, 1, 3, 4], [1, 2, 3, 3], 4 / 5, 4 / 4.5),
    ],
)
def test_hand_values(a: list[float], b: list[float], tau: float, rho: float) -> None:
    found = rank_agreement(a, b)
    assert found.n_models == len(a)
    assert found.kendall_tau == pytest.approx(tau)
    assert found.spearman_rho == pytest.approx(rho)
    assert found.reason is None


@pytest.mark.parametrize(
    ("a", "b", "n", "reason"),
    [
        ([], [], 0, "0 models: an order of fewer than 3 says nothing"),
        ([1.0], [2.0], 1, "1 model: an order"),
        ([1.0, 2.0], [1.0, 2.0], 2, "2 models: an order of fewer than 3 says nothing"),
        ([1.0, 2.0, None, NAN], [1.0, 2.0, 3.0, 4.0], 2, "2 models"),
        ([5.0, 5.0, 5.0], [1.0, 2.0, 3.0], 3, "all models are equal at one of the settings"),
    ],
)
def test_too_little_is_a_reason_and_not_a_number(
    a: list[float | None], b: list[float | None], n: int, reason: str
) -> None:
    found = rank_agreement(a, b)
    assert (found.n_models, found.kendall_tau, found.spearman_rho) == (n, None, None)
    assert reason in (found.reason or "")


def slow_tau_b(a: list[int], b: list[int]) -> float:
    """From the definition, pair by pair."""
    both = in_a = in_b = 0
    for i, j in itertools.combinations(range(len(a)), 2):
        x, y = a[i] - a[j], b[i] - b[j]
        both += (x * y > 0) - (x * y < 0)
        in_a += x != 0
        in_b += y != 0
    return both / math.sqrt(in_a * in_b)


SCORES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=8)


@given(SCORES)
def test_tau_is_the_definition_and_both_are_symmetric(scores: list[tuple[int, int]]) -> None:
    a, b = (list(column) for column in zip(*scores, strict=True))
    found, other = rank_agreement(a, b), rank_agreement(b, a)
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert found.kendall_tau is None
        return
    assert found.kendall_tau == pytest.approx(slow_tau_b(a, b))
    assert other.kendall_tau == pytest.approx(found.kendall_tau)
    assert other.spearman_rho == pytest.approx(found.spearman_rho)
    assert found.spearman_rho is not None
    assert -1 - 1e-12 <= found.spearman_rho <= 1 + 1e-12
    # the order is all that counts
    assert rank_agreement([x**3 for x in a], b) == found


def test_settings_are_paired_where_orders_compare() -> None:
    here = Setting("words", "final", 50, 10, "max")
    longer, less = here._replace(context=100), here._replace(aggregation="min")
    deeper = here._replace(site="block.1")
    both = here._replace(context=100, n_prompts=20)
    elsewhere = deeper._replace(context=100)  # another site and another context: not compared
    found = set(pairs("effective_rank", [here, longer, less, deeper, both, elsewhere]))
    assert found == {
        (here, longer),
        (here, both),
        (longer, both),
        (deeper, elsewhere),
        (here, deeper),
        (longer, elsewhere),
        (less, here),
    }
    # of an entropy the profile takes the minimum: `max` is the odd one there
    assert list(pairs("entropy_norm", [here, longer, less])) == [(less, here)]


def test_values_of_models_are_matched_by_name_with_their_flags() -> None:
    a = Setting("words", "final", 50, 10, "max")
    b = a._replace(n_prompts=20)
    values = {
        a: {"m1": Value(1.0), "m2": Value(2.0, ("normaliser",)), "m3": Value(3.0)},
        b: {"m3": Value(9.0, ("collapsed",)), "m2": Value(7.0), "m1": Value(8.0), "m4": Value(1.0)},
    }
    (found,) = compare("participation_ratio", values, ["m1", "m2", "m3", "m4"])
    assert found.differ == ("n_prompts",)
    assert found.agreement.n_models == 3
    assert found.agreement.kendall_tau == pytest.approx(1 / 3)
    assert found.flags == ("collapsed", "normaliser")


Table = dict[str, dict[str, dict[str, float]]]


@pytest.fixture
def published(paper: Path) -> Callable[[str, str], Table]:
    """Called with a file and a column: metric -> value of the column -> model -> number."""

    def read(name: str, column: str) -> Table:
        found: Table = {}
        with (paper / name).open(newline="") as file:
            for row in csv.DictReader(file):
                for metric in ("mean_next_token_entropy", "participation_ratio", "effective_rank"):
                    by_setting = found.setdefault(metric, {}).setdefault(row[column], {})
                    by_setting[row["model_id"]] = float(row[metric])
        return found

    return read


def agreement(by_setting: dict[str, dict[str, float]], a: str, b: str) -> Agreement:
    models = sorted(by_setting[a])
    assert models == sorted(by_setting[b])
    return rank_agreement(*([by_setting[s][m] for m in models] for s in (a, b)))


def test_order_of_the_published_models_by_context(published: Callable[..., Table]) -> None:
    table = published("LPP_analysis1_derived.csv", "context_length")
    ranks = {
        metric: {
            (a, b): agreement(by_setting, a, b)
            for a, b in itertools.combinations(("50", "100", "200", "500"), 2)
        }
        for metric, by_setting in table.items()
    }
    for by_pair in ranks.values():
        assert {found.n_models for found in by_pair.values()} == {8}
    # 200 and 500 tokens tell the same story of ranks; 50 is another one, most of all for entropy
    assert ranks["effective_rank"]["200", "500"].kendall_tau == 1
    assert ranks["participation_ratio"]["200", "500"].spearman_rho == pytest.approx(1 - 2 / 84)
    assert ranks["effective_rank"]["50", "500"].kendall_tau == pytest.approx(14 / 28)
    assert ranks["mean_next_token_entropy"]["50", "500"].kendall_tau == pytest.approx(8 / 28)
    assert ranks["mean_next_token_entropy"]["50", "500"].spearman_rho == pytest.approx(3 / 7)


def test_aggregations_of_the_published_prefixes_disagree(paper: Path) -> None:
    prefixes: dict[str, list[float]] = {}
    with (paper / "LPP_analysis1.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["context_length"] == "100":
                prefixes.setdefault(row["model_id"], []).append(float(row["effective_rank"]))
    assert {len(some) for some in prefixes.values()} == {10}
    middle = rank_agreement(
        [max(p) for p in prefixes.values()], [sum(p) for p in prefixes.values()]
    )
    lowest = rank_agreement(
        [max(p) for p in prefixes.values()], [min(p) for p in prefixes.values()]
    )
    assert middle.kendall_tau == pytest.approx(26 / 28)  # the mean orders them as the maximum does
    assert lowest.kendall_tau == pytest.approx(-12 / 28)  # the minimum turns them round
