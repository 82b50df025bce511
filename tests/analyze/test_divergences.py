"""Divergences of two distributions: hand values, a float64 reference, properties, odd rows."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp

from lpp.analyze.logits import divergences as module
from lpp.analyze.logits.divergences import EVERYTHING, TIES, TOP, logit_drift

Logits = npt.NDArray[np.float32]
INFINITY = np.float32(np.inf)


def rows(*values: Sequence[float]) -> Logits:
    return np.array(values, dtype=np.float32)


def reference(p: Logits, q: Logits) -> dict[str, npt.NDArray[Any]]:
    """As the definitions stand: float64, nothing shared; ten most likely by a full sort."""
    log_p, log_q = (log_softmax(z.astype(np.longdouble), axis=1) for z in (p, q))
    log_m = logsumexp([log_p, log_q], axis=0) - np.log(np.longdouble(2))
    p_, q_ = np.exp(log_p), np.exp(log_q)
    of_p, of_q = (np.argsort(-z, axis=1, kind="stable")[:, :TOP] for z in (p, q))
    common = [len({*a} & {*b}) / len(a) for a, b in zip(of_p.tolist(), of_q.tolist(), strict=True)]
    return {
        "kl": (p_ * (log_p - log_q)).sum(1).astype(float),
        "kl_reverse": (q_ * (log_q - log_p)).sum(1).astype(float),
        "js": ((p_ * (log_p - log_m)).sum(1) + (q_ * (log_q - log_m)).sum(1)).astype(float) / 2,
        "tv": np.abs(p_ - q_).sum(1).astype(float) / 2,
        "flip": of_p[:, 0] != of_q[:, 0],
        "top10": np.array(common),
        "flip_tie": tied(p, 1) | tied(q, 1),
        "top10_tie": tied(p, TOP) | tied(q, TOP),
    }


def tied(z: Logits, place: int) -> npt.NDArray[np.bool_]:
    """Whether the logits at `place` and at the next one are equal, in order of size."""
    ordered = np.sort(z, axis=1)[:, ::-1]
    if z.shape[1] <= place:
        return np.zeros(len(z), bool)
    equal: npt.NDArray[np.bool_] = ordered[:, place - 1] == ordered[:, place]
    return equal


def test_two_tokens_by_hand() -> None:
    """With p = (3/4, 1/4), q = (1/2, 1/2)."""
    found = logit_drift(rows([math.log(3), 0]), rows([5, 5]))
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert found["kl"] == pytest.approx([kl], rel=1e-7)
    assert found["kl_reverse"] == pytest.approx([0.5 * math.log(4 / 3)], rel=1e-7)
    of_p = 0.75 * math.log(1.2) + 0.25 * math.log(2 / 3)
    of_q = 0.5 * math.log(0.8) + 0.5 * math.log(4 / 3)
    assert found["js"] == pytest.approx([(of_p + of_q) / 2], rel=1e-7)
    assert found["tv"] == pytest.approx([0.25], rel=1e-7)
    assert found["flip"].tolist() == [False]
    assert found["top10"].tolist() == [1.0]


@pytest.mark.parametrize("vocabulary", [1, 2, 9, 700, 5000])
@pytest.mark.parametrize("scale", [1e-5, 1e-3, 0.1, 3])
def test_it_agrees_with_the_plain_computation(vocabulary: int, scale: float) -> None:
    rng = np.random.default_rng(vocabulary)
    p = (rng.standard_normal((33, vocabulary)) * 4).astype(np.float32)
    q = (p + rng.standard_normal((33, vocabulary)) * scale + rng.normal()).astype(np.float32)
    found, want = logit_drift(p, q), reference(p, q)
    assert found.keys() == want.keys() == EVERYTHING
    for name in ("kl", "kl_reverse", "js", "tv"):
        np.testing.assert_allclose(found[name], want[name], rtol=1e-9, atol=1e-14, err_msg=name)
    for name in ("flip", "top10", *TIES):
        np.testing.assert_array_equal(found[name], want[name], err_msg=name)


def test_a_divergence_of_a_millionth_is_right_to_a_ten_thousandth() -> None:
    """A certain token and logits of 30: float32 would lose all of it."""
    rng = np.random.default_rng(0)
    p = (rng.standard_normal((8, 5000)) * 3).astype(np.float32)
    p[:, 7] = 30
    q = p.copy()
    q[:, 8] = 16 + np.arange(8)
    found, want = logit_drift(p, q), reference(p, q)
    small = (want["kl"] > 1e-8) & (want["kl"] < 1e-3)
    assert small.sum() >= 4
    np.testing.assert_allclose(found["kl"][small], want["kl"][small], rtol=1e-5)
    assert (found["kl"] >= 0).all()


def test_a_distribution_against_itself_is_exactly_0() -> None:
    rng = np.random.default_rng(1)
    p = (rng.standard_normal((40, 3000)) * 10).astype(np.float32)
    p[:, 5:9] = -np.inf
    padded = np.empty(p.size + 1, np.float32)[1:].reshape(p.shape)  # another alignment
    padded[...] = p
    found = logit_drift(p, padded)
    for name in ("kl", "kl_reverse", "js", "tv", "flip"):
        assert not found[name].any(), name
        assert not np.signbit(found[name].astype(float)).any(), name
    assert (found["top10"] == 1).all()


LOGITS = st.lists(
    st.floats(-60, 60, width=32) | st.sampled_from([-math.inf, -200, 0, 200]),
    min_size=1,
    max_size=24,
).filter(lambda row: max(row) > -math.inf)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(LOGITS, st.data())
def test_bounds_and_symmetry(row: list[float], data: st.DataObject) -> None:
    other = data.draw(st.permutations(row))
    p, q = rows(row), rows(other)
    found, swapped = logit_drift(p, q), logit_drift(q, p)
    assert found["kl"] >= 0
    assert found["kl_reverse"] == swapped["kl"]
    assert 0 <= found["js"] <= math.log(2)
    assert 0 <= found["tv"] <= 1
    for name in ("js", "tv"):
        assert found[name] == pytest.approx(swapped[name], rel=1e-12, abs=1e-15)
    for name in ("flip", "top10"):
        assert found[name] == swapped[name]
    assert found["js"] <= found["tv"] * math.log(2) + 1e-12  # Lin 1991, theorem 3
    if np.isfinite(found["kl"]):
        assert 2 * found["tv"] ** 2 <= found["kl"] + 1e-12  # Pinsker


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(LOGITS, st.floats(-40, 40, width=32))
def test_a_constant_added_to_every_logit_changes_nothing(row: list[float], by: float) -> None:
    p = np.array([row], dtype=np.float16).astype(np.float32)  # so that the sum is exact enough
    found = logit_drift(p, p + np.float32(round(by)))
    for name in ("kl", "kl_reverse", "js"):
        assert found[name] == pytest.approx(0, abs=1e-7)


def test_columns_that_are_minus_infinity_in_both_do_not_count() -> None:
    p, q = rows([1, 2, 3, 0.5]), rows([2, 2, 1, 0])
    without = logit_drift(p, q)
    masked = [np.insert(z, [0, 2, 4], -INFINITY, axis=1) for z in (p, q)]
    found = logit_drift(masked[0], masked[1])
    for name in ("kl", "kl_reverse", "js", "tv"):
        np.testing.assert_allclose(found[name], without[name], rtol=1e-14)
    assert found["flip"].tolist() == without["flip"].tolist() == [True]


def test_a_token_that_one_excludes_makes_one_divergence_infinite() -> None:
    """With p = (1/2, 1/2), q = (1, 0): m = (3/4, 1/4)."""
    p, q = rows([0, 0], [0, 0]), rows([0, -np.inf], [0, 0])
    found = logit_drift(p, q)
    assert found["kl"].tolist() == [math.inf, 0]
    np.testing.assert_allclose(found["kl_reverse"], [math.log(2), 0], rtol=1e-14)
    js = (0.5 * math.log(2 / 3) + 0.5 * math.log(2) + math.log(4 / 3)) / 2
    np.testing.assert_allclose(found["js"], [js, 0], rtol=1e-14)
    np.testing.assert_allclose(found["tv"], [0.5, 0], rtol=1e-14)
    assert logit_drift(q, p)["kl_reverse"].tolist() == [math.inf, 0]
    far = rows([0, -3e5, -np.inf])
    assert logit_drift(rows([0, 0, -np.inf]), far)["kl"] == pytest.approx(1.5e5, rel=1e-5)


@pytest.mark.parametrize("by", [-5000, -700, 590, 610, 5000])
def test_logits_far_from_0_are_those_of_a_softmax_all_the_same(by: int) -> None:
    p, q = np.random.default_rng(4).integers(-9, 9, (2, 6, 700)).astype(np.float32)
    near = logit_drift(p, q)
    for a, b in ((p + by, q + by), (p + by, q), (p, q + by)):
        for name, values in logit_drift(a, b).items():
            np.testing.assert_allclose(values, near[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_distributions_without_a_token_in_common() -> None:
    found = logit_drift(rows([0, -800]), rows([-800, 0]))
    assert found["kl"].tolist() == found["kl_reverse"].tolist() == [800.0]
    assert found["js"].tolist() == [math.log(2)]
    assert found["tv"].tolist() == [1.0]
    assert found["flip"].tolist() == [True]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_logit_that_is_no_number_spoils_its_row_alone(bad: float) -> None:
    p, q = rows([bad, 0, 1], [0, 0, 1]), rows([0, 0, 1], [0, 0, 1])
    for found in (logit_drift(p, q), logit_drift(q, p)):
        for name in ("kl", "kl_reverse", "js", "tv"):
            assert np.isnan(found[name]).tolist() == [True, False]


def test_equal_logits_are_taken_by_id() -> None:
    """Twelve equal logits: the first ten count, and the first of all is the most likely."""
    p, q = np.zeros((2, 1, 12), np.float32)
    found = logit_drift(p, q)
    assert [found[name].tolist() for name in ("flip", *TIES)] == [[False], [True], [True]]
    found = logit_drift(rows(range(12)), rows(range(12)))
    assert [found[name].tolist() for name in TIES] == [[False], [False]]
    q[0, 11] = 1  # then 0 to 8
    found = logit_drift(p, q)
    assert found["flip"].tolist() == [True]
    assert found["top10"].tolist() == [0.9]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 10, 511, 512, 1500, 3001]))
def test_the_most_likely_are_those_of_a_full_sort(seed: int, vocabulary: int) -> None:
    """Few different logits, so that ties run through the tenth place."""
    rng = np.random.default_rng(seed)
    p, q = rng.integers(-3, 8, (2, 4, vocabulary)).astype(np.float32)
    p[:, rng.random(vocabulary) < 0.2] = -np.inf
    found = logit_drift(p, q)
    np.testing.assert_array_equal(found["top10"], reference_top(p, q))
    np.testing.assert_array_equal(found["flip_tie"], tied(p, 1) | tied(q, 1))
    np.testing.assert_array_equal(found["top10_tie"], tied(p, TOP) | tied(q, TOP))


def reference_top(p: Logits, q: Logits) -> list[Any]:
    """Exact shares, from sorted lists of (logit, id)."""
    found = []
    for row, other in zip(p.tolist(), q.tolist(), strict=True):
        ten = [
            {i for _, i in sorted((-z, i) for i, z in enumerate(of))[:TOP]} for of in (row, other)
        ]
        found.append(float(Fraction(len(ten[0] & ten[1]), len(ten[0]))))
    return found


def test_only_what_is_asked_for_and_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    p, q = rng.standard_normal((2, 21, 300)).astype(np.float32)
    whole = logit_drift(p, q)
    for name in EVERYTHING:
        found = logit_drift(p, q, (name,))
        assert list(found) == [name]
        np.testing.assert_array_equal(found[name], whole[name])
    monkeypatch.setattr(module, "PIECE", 1)  # a row at a time
    monkeypatch.setattr(module, "GROUP", 300 * 5)  # of groups of five
    for name, values in logit_drift(p, q).items():
        np.testing.assert_array_equal(values, whole[name], err_msg=name)


def test_logits_are_left_as_they_were_and_no_token_is_no_row() -> None:
    p, q = np.random.default_rng(3).standard_normal((2, 2, 30)).astype(np.float32)
    before = p.copy(), q.copy()
    logit_drift(p, q)
    np.testing.assert_array_equal((p, q), before)
    assert {
        name: len(values) for name, values in logit_drift(p[:0], q[:0]).items()
    } == dict.fromkeys(EVERYTHING, 0)


@pytest.mark.parametrize(
    ("p", "q", "only", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), EVERYTHING, r"\(2, 3\) and \(2, 4\)"),
        (np.zeros(3), np.zeros(3), EVERYTHING, "should both be"),
        (np.zeros((2, 0)), np.zeros((2, 0)), EVERYTHING, "should both be"),
        (np.zeros((1, 2)), np.zeros((1, 2)), ("kl", "lk"), "no lk; there are"),
    ],
)
def test_other_shapes_and_names_are_refused(p: Any, q: Any, only: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        logit_drift(p, q, only)


def test_tv_bounds_what_a_change_costs_a_draft_model() -> None:
    """Speculative sampling accepts a token of the draft d with probability min(1, q / d)."""
    rng = np.random.default_rng(0)
    p, q, draft = rng.normal(0, 3, (3, 50, 9)).astype(np.float32)

    def acceptance(draft: Logits, verifier: Logits) -> npt.NDArray[np.float64]:
        d, v = (np.exp(log_softmax(z.astype(np.float64), axis=1)) for z in (draft, verifier))
        accepted: npt.NDArray[np.float64] = (d * np.minimum(1, v / d)).sum(axis=1)
        return accepted

    tv = logit_drift(p, q)["tv"]
    assert (np.abs(acceptance(draft, p) - acceptance(draft, q)) <= tv + 1e-12).all()
    assert acceptance(p, p) - acceptance(p, q) == pytest.approx(tv, rel=1e-9)
    drawn = rng.integers(0, 9, (50, 20_000))  # of a uniform draft, as the algorithm runs
    v = np.exp(log_softmax(q.astype(np.float64), axis=1))
    accepted = rng.random(drawn.shape) < np.take_along_axis(v, drawn, axis=1) * 9
    uniform = np.zeros_like(q)
    assert accepted.mean(axis=1) == pytest.approx(1 - logit_drift(uniform, q)["tv"], abs=0.02)
