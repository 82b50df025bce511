"""Standard errors and intervals of scores."""

import math
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpp.capture.evaluation.scores import scores_of
from lpp.store.uncertainty import score_interval, share_interval, standard_error


def test_single_items_give_the_textbook_error() -> None:
    values = [0.0, 1.0, 1.0, 0.25]
    expected = statistics.stdev(values) / math.sqrt(4)
    assert standard_error(values, range(4)) == pytest.approx(expected)


def test_items_that_repeat_each_other_count_once() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    doubled = [value for value in values for _ in range(2)]
    clusters = [i for i in range(5) for _ in range(2)]
    alone = standard_error(values, range(5))
    assert standard_error(doubled, clusters) == pytest.approx(alone)


def test_items_that_balance_each_other_keep_their_own_error() -> None:
    values = [0.0, 1.0] * 6  # one right in each scene, as a constant answer is
    assert standard_error(values, [i // 2 for i in range(12)]) == standard_error(values, range(12))


def test_one_cluster_says_nothing() -> None:
    assert standard_error([1.0, 0.0], ["scene", "scene"]) is None
    assert share_interval(0.5, None, 1)[0] < 0.1


@pytest.mark.parametrize("right", [0, 1, 7, 10])
def test_interval_is_wilsons(right: int) -> None:
    from scipy.stats import binomtest

    p, n = right / 10, 10
    stderr = standard_error([1.0] * right + [0.0] * (n - right), range(n))
    wilson = binomtest(right, n).proportion_ci(method="wilson")
    assert share_interval(p, stderr, n) == pytest.approx((wilson.low, wilson.high), abs=1e-6)


@given(st.floats(0, 1), st.just(0.0) | st.floats(1e-4, 0.5), st.integers(1, 500))
def test_interval_holds_the_score_and_stays_within_bounds(
    score: float, stderr: float, clusters: int
) -> None:
    low, high = share_interval(score, stderr, clusters)
    assert 0 <= low <= score + 1e-12
    assert score - 1e-12 <= high <= 1


def test_scores_outside_0_to_1_have_the_normal_interval() -> None:
    assert score_interval(20.0, 0.5, (), range(7)) == pytest.approx((19.02, 20.98), abs=1e-4)
    assert score_interval(20.0, None, (), range(7)) is None
    assert score_interval(0.5, 0.1, [0.0, 1.5, 0.0], range(3)) == pytest.approx(
        (0.304, 0.696), abs=1e-4
    )
    assert score_interval(0.5, None, [0.0, 1.0], range(2)) == share_interval(0.5, None, 2)


def test_a_perplexity_has_the_interval_of_its_logarithm() -> None:
    low, high = score_interval(655.0, 992.0, (), range(7), of_log=True) or (0, 0)
    assert 0 < low < 655 < high
    assert low * high == pytest.approx(655**2)
    assert math.log(high / 655) == pytest.approx(1.959964 * 992 / 655)
    assert score_interval(20.0, None, (), range(7), of_log=True) is None
    samples = [{"doc_id": 0, "doc": {}, "filter": "none", "metrics": []}]
    entry = {"word_perplexity,none": 655.0, "word_perplexity_stderr,none": 992.0}
    (found,) = scores_of({"results": {"t": entry}, "samples": {"t": samples}}, "t", ["t"])
    assert found.interval == pytest.approx((low, high))


def results(values: list[float], scenes: list[int | None]) -> dict[str, Any]:
    """What lm-eval returns of a task, with an error that takes items as independent."""
    samples = [
        {
            "doc_id": number,
            "doc": {} if scene is None else {"scene": scene},
            "filter": "none",
            "metrics": ["right"],
            "right": value,
        }
        for number, (value, scene) in enumerate(zip(values, scenes, strict=True))
    ]
    own = statistics.stdev(values) / math.sqrt(len(values))
    entry = {"alias": "t", "right,none": statistics.mean(values), "right_stderr,none": own}
    return {"results": {"t": entry}, "samples": {"t": samples}}


def test_a_task_that_names_its_clusters_gets_their_error() -> None:
    values = [1.0, 1.0, 0.0, 0.0, 1.0, 1.0]
    found = results(values, [0, 0, 1, 1, 2, 2])
    (alone,) = scores_of(found, "t", ["t"])
    (score,) = scores_of(found, "t", ["t"], cluster="scene")
    # residuals 1/3, 1/3, -2/3, -2/3, 1/3, 1/3: of the scenes 2/3, -4/3, 2/3, whose squares sum to
    # 24/9; so sqrt(3/2 * 24/9) / 6 = 1/3, and sqrt(6/5 * 12/9) / 6 of single items
    assert score.stderr == pytest.approx(1 / 3)
    assert alone.stderr == pytest.approx(math.sqrt(1.6) / 6)
    assert (score.n, alone.n) == (6, 6)
    assert score.interval == share_interval(score.value, score.stderr, 3)


def test_an_item_without_a_cluster_stands_alone() -> None:
    found = results([1.0, 0.0, 1.0], [None, None, None])
    (score,) = scores_of(found, "t", ["t"], cluster="scene")
    assert score.stderr == pytest.approx(found["results"]["t"]["right_stderr,none"])


def test_a_group_without_scores_has_none() -> None:
    assert scores_of({"results": {}, "samples": {"t": []}}, "whole", ["t"]) == ()
