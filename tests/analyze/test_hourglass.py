"""The hourglass score on made spectra."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpp.analyze.numerics.hourglass import Hourglass, Layer, hourglass, third

BLOCKS = 9


def model(first: float, middle: float, last: float) -> list[Layer]:
    """Nine layers, each third of one width."""
    widths = (first, middle, last)
    return [Layer(k, widths[third(k, BLOCKS)], False) for k in range(1, BLOCKS + 1)]


@pytest.mark.parametrize(
    ("first", "middle", "last", "score"),
    [
        (50, 50, 50, 0),  # flat
        (20, 10, 20, 1 / 3),  # both ends twice as wide
        (20, 10, 30, 1 / 3),  # the narrower end counts
        (30, 10, 20, 1 / 3),
        (90, 10, 90, 0.8),
        (10, 20, 10, -1 / 3),  # a bulge
        (40, 20, 10, -1 / 3),  # a funnel is no hourglass
        (10, 20, 40, -1 / 3),
    ],
)
def test_hand_values(first: float, middle: float, last: float, score: float) -> None:
    found = hourglass(model(first, middle, last), BLOCKS)
    assert found.score == pytest.approx(score)
    assert (found.first, found.middle, found.last) == pytest.approx((first, middle, last))
    assert (found.n_layers, found.n_collapsed, found.n_missing, found.reason) == (9, 0, 0, None)


def test_means_are_geometric() -> None:
    layers = [Layer(k, 10.0, False) for k in range(1, 10)]
    layers[0] = Layer(1, 80.0, False)  # 10, 10, 80: mean 20, not 33
    assert hourglass(layers, BLOCKS).first == pytest.approx(20.0)


def test_collapsed_layers_are_left_out_and_counted() -> None:
    layers = model(20, 10, 20)
    layers[3] = Layer(4, 1.001, True)
    found = hourglass(layers, BLOCKS)
    assert found.score == pytest.approx(1 / 3)
    assert (found.n_layers, found.n_collapsed) == (8, 1)


def test_a_collapsed_middle_has_no_score() -> None:
    layers = [Layer(k, rank, third(k, BLOCKS) == 1) for k, rank, _ in model(20, 1.001, 20)]
    found = hourglass(layers, BLOCKS)
    assert (found.score, found.middle, found.n_layers, found.n_collapsed) == (None, None, 6, 3)
    assert found.first == pytest.approx(20)
    assert found.reason == "0 of 3 layers of the middle third can be used: at least 2 are needed"


def test_one_layer_left_is_too_few() -> None:
    layers = model(20, 10, 20)
    layers[7], layers[8] = Layer(8, 1.0, True), Layer(9, None, False)
    found = hourglass(layers, BLOCKS)
    assert found.score is None
    assert found.reason == "1 of 3 layers of the last third can be used: at least 2 are needed"
    assert (found.n_layers, found.n_collapsed, found.n_missing) == (7, 1, 1)


def test_layers_without_a_rank_are_counted_apart() -> None:
    layers = model(20, 10, 20)
    layers[0], layers[4] = Layer(1, None, False), Layer(5, 0.0, False)
    found = hourglass(layers, BLOCKS)
    assert (found.n_layers, found.n_collapsed, found.n_missing) == (7, 0, 2)
    assert found.score == pytest.approx(1 / 3)


def test_few_captured_layers_and_none() -> None:
    some = [Layer(k, 5.0, False) for k in (1, 2, 9)]
    reason = hourglass(some, BLOCKS).reason or ""
    assert reason.startswith("0 of 0 layers of the middle third can be used; 1 of 1 layers of the")
    assert hourglass([], BLOCKS).score is None
    assert hourglass([Layer(1, 5.0, False)], 1).score is None


def test_thirds_follow_the_depth_of_the_whole_model() -> None:
    assert [third(k, 30) for k in (1, 10, 11, 20, 21, 30)] == [0, 0, 1, 1, 2, 2]
    assert [third(k, 4) for k in range(1, 5)] == [0, 1, 2, 2]  # 1/4, 2/4 | 3/4, 4/4


WIDTHS = st.floats(1.1, 1e4)


@given(WIDTHS, WIDTHS, WIDTHS)
def test_bounded_blind_to_scale_and_to_which_end_is_which(a: float, b: float, c: float) -> None:
    found: Hourglass = hourglass(model(a, b, c), BLOCKS)
    assert found.score is not None
    assert -1 < found.score < 1
    assert hourglass(model(3 * a, 3 * b, 3 * c), BLOCKS).score == pytest.approx(found.score)
    assert hourglass(model(c, b, a), BLOCKS).score == pytest.approx(found.score)
    assert (found.score > 1e-9) <= (min(a, c) > b)
