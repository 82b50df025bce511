"""The final norm, recovered from rows before and after it: known ones, rounded ones, none."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from lpp.analyze.logits.final_norm import EPSILONS, FinalNorm, best_norm, tolerance

Array = npt.NDArray[np.float64]
D = 24


def rms(x: Array, w: Array, epsilon: float) -> Array:
    return np.array(
        [
            [w[j] * v / ((row @ row) / len(row) + epsilon) ** 0.5 for j, v in enumerate(row)]
            for row in x
        ]
    )


def layer(x: Array, w: Array, b: Array, epsilon: float) -> Array:
    rows = []
    for row in x:
        centred = row - row.sum() / len(row)
        rows.append(w * centred / ((centred @ centred) / len(row) + epsilon) ** 0.5 + b)
    return np.array(rows)


def rounded(rows: Array) -> npt.NDArray[np.float32]:
    """To the nearest of bfloat16."""
    bits = rows.astype(np.float32).view(np.uint32)
    near: npt.NDArray[np.float32] = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(
        np.float32
    )
    return near


@pytest.fixture
def x() -> Array:
    """Rows as small as epsilon's root, of columns of different size, which do not centre."""
    rng = np.random.default_rng(3)
    return rng.normal(0.3, 1, (200, D)) * rng.uniform(0.1, 4, D) * rng.uniform(1e-3, 1e-2, (200, 1))


@pytest.fixture
def w() -> Array:
    return np.random.default_rng(4).normal(1, 0.5, D)


@pytest.fixture
def b() -> Array:
    return np.random.default_rng(5).normal(0, 0.3, D)


def test_a_norm_by_hand() -> None:
    norm = FinalNorm(
        kind="RMSNorm", epsilon=0.5, weight=np.array([1.0, 2.0]), bias=np.zeros(2), error=0
    )
    rows = np.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(
        norm.apply(rows), [[3 / 13**0.5, 8 / 13**0.5], [0.0, 0.0]], rtol=1e-6
    )
    norm = FinalNorm(
        kind="LayerNorm", epsilon=0, weight=np.array([1.0, 2.0]), bias=np.array([0, 5.0]), error=0
    )
    np.testing.assert_allclose(norm.apply(rows[:1]), [[-1, 7]], rtol=1e-6)


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_known_norms_are_found(x: Array, w: Array, b: Array, epsilon: float) -> None:
    found = best_norm(x, rms(x, w, epsilon))
    assert (found.kind, found.epsilon) == ("RMSNorm", epsilon)
    np.testing.assert_allclose(found.weight, w, rtol=1e-9)
    assert not found.bias.any()
    assert found.error < 1e-9
    found = best_norm(x, layer(x, w, b, epsilon))
    assert (found.kind, found.epsilon) == ("LayerNorm", epsilon)
    np.testing.assert_allclose(found.weight, w, rtol=1e-9)
    np.testing.assert_allclose(found.bias, b, atol=1e-9)
    assert found.error < 1e-9
    other = np.random.default_rng(8).normal(size=(5, D))  # of another site
    np.testing.assert_allclose(
        found.apply(other), layer(other, w, b, epsilon), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("kind", ["RMSNorm", "LayerNorm"])
def test_rounded_rows_give_the_norm_to_their_rounding(
    x: Array, w: Array, b: Array, kind: str
) -> None:
    before = rounded(100 * x)
    exact = rms(100 * x, w, 1e-6) if kind == "RMSNorm" else layer(100 * x, w, b, 1e-6)
    found = best_norm(before, rounded(exact))
    assert found.kind == kind
    assert found.epsilon == EPSILONS[0]  # rounding hides it
    assert 1e-3 < found.error < tolerance("bfloat16") / 2
    np.testing.assert_allclose(found.weight, w, atol=4e-3)
    assert best_norm(before.astype(np.float32), exact.astype(np.float32)).error < tolerance(
        "bfloat16"
    )


def test_float32_is_within_its_tolerance(x: Array, w: Array, b: Array) -> None:
    before = (100 * x).astype(np.float32)
    for after in (rms(100 * x, w, 1e-6), layer(100 * x, w, b, 1e-5)):
        assert best_norm(before, after.astype(np.float32)).error < tolerance("float32")


OTHERS: dict[str, Callable[[Array], Array]] = {
    "none": lambda x: x,
    "tanh": lambda x: np.tanh(300 * x),
    "by the largest": lambda x: x / np.abs(x).max(axis=1, keepdims=True),
    "by half a row": lambda x: x / np.sqrt((x[:, : D // 2] ** 2).mean(axis=1, keepdims=True)),
    "of another token": lambda x: rms(np.roll(x, 1, axis=0), np.ones(D), 1e-6),
    "mixed after": lambda x: np.roll(rms(x, np.ones(D), 1e-6), 1, axis=1),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_norm_is_seen(x: Array, name: str) -> None:
    assert best_norm(x, OTHERS[name](x)).error > 2 * tolerance("bfloat16")


def test_degenerate_rows(x: Array, w: Array, b: Array) -> None:
    x[:, 3] = 0
    x[5] = 0
    found = best_norm(x, rms(x, w, 1e-6))
    assert found.error < 1e-9
    assert found.weight[3] == 0  # nothing tells it, and nothing needs it
    zeros = np.zeros((12, D))
    assert best_norm(zeros, zeros).error == 0
    assert best_norm(zeros, zeros + b).error < 1e-12  # the bias alone
    x[:] = x[7]
    assert best_norm(x, layer(x, w, b, 1e-6)).error < 1e-9
    nan = rms(x, w, 1e-6)
    nan[2] = np.nan
    assert not best_norm(x, nan).error <= tolerance("bfloat16")


def test_few_rows_and_other_shapes_are_refused(x: Array) -> None:
    for before, after in ((x[:5], x[:5]), (x, x[:-1]), (x, x[:, :-1])):
        with pytest.raises(ValueError, match="rows"):
            best_norm(before, after)
