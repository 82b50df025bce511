"""The study of detection: damage by value, draws against plain loops, power of a known effect."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import nctdtr, stdtrit

from benchmarks.detection import page
from benchmarks.detection.damage import doses
from benchmarks.detection.draws import drawn, groups, on_draws, weights
from benchmarks.detection.numbers import Floor, Mean, Rows, SquaredNorm, rank_without
from benchmarks.detection.power import leaves_null, leaves_zero
from lpp.analyze import Moments, effective_rank, eigenvalues, linear_cka, participation_ratio


@pytest.fixture
def pair() -> tuple[Rows, Rows]:
    """Rows of twelve prompts of 6 to 17 tokens, far from 0, and others near them."""
    rng = np.random.default_rng(3)
    lengths = np.arange(6, 18)
    starts = np.cumsum([0, *lengths[:-1]])
    values = rng.normal(size=(lengths.sum(), 5)) * [1, 2, 3, 1, 9] + 40
    values += np.repeat(rng.normal(size=(12, 5)), lengths, axis=0)
    return (
        Rows.about_mean(values, starts),
        Rows.about_mean(values + 0.3 * rng.normal(size=values.shape), starts),
    )


def chosen_rows(rows: Rows, weights: np.ndarray) -> np.ndarray:
    inside = np.repeat(weights > 0, rows.counts)
    return (rows.values + rows.mean)[inside].astype(np.float32)


def test_norms_of_a_draw_are_those_of_its_rows(pair: tuple[Rows, Rows]) -> None:
    a, b = pair
    some = weights(np.array([0, 2, 3, 7, 8, 11]), 12)
    assert len(some) == 7
    norms = [SquaredNorm(x, z, x.products(z))(some) for x, z in ((a, a), (a, b), (b, b))]
    for k, one in enumerate(some):
        x, z = (chosen_rows(rows, one) for rows in pair)
        cka = norms[1][k] / np.sqrt(norms[0][k] * norms[2][k])
        assert cka == pytest.approx(linear_cka(x, z), abs=1e-6)
        ratio = a.traces(some)[k] ** 2 / norms[0][k]
        assert ratio == pytest.approx(participation_ratio(Moments.from_rows(x)), rel=1e-6)


def test_rank_without_a_group_is_that_of_the_other_rows(pair: tuple[Rows, Rows]) -> None:
    rows = pair[0]
    chosen = np.arange(12)
    products = rows.products(rows)
    sums = rows.totals, products, rows.counts
    parts = groups(chosen)
    found = rank_without(*(np.stack([of[part].sum(axis=0) for part in parts]) for of in sums))
    plain = [
        effective_rank(eigenvalues(Moments.from_rows(chosen_rows(rows, one))))
        for one in weights(chosen, 12)
    ]
    assert found[0] == pytest.approx(plain[0], rel=1e-6)
    assert found[1:] == pytest.approx(plain[1:], rel=0.01)  # to first order
    errors = [np.std(one[1:]) for one in (found, plain)]
    assert errors[0] == pytest.approx(errors[1], rel=0.1)


def test_draws_are_of_different_prompts_and_the_same_each_time() -> None:
    found = drawn(30, 12, 40)
    assert found.shape == (40, 12)
    assert (np.diff(found, axis=1) > 0).all()
    assert np.array_equal(found, drawn(30, 12, 40))
    assert len(np.unique(found, axis=0)) == 40
    assert np.array_equal(np.unique(found), np.arange(30))


def test_a_number_on_draws_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(5)
    sums, counts = rng.normal(size=25), rng.integers(3, 9, 25)
    before, after = rng.random((2, 25, 4))
    chosen = drawn(25, 13, 6)
    found = on_draws(
        lambda some: {
            "mean": Mean(sums, counts)(some),
            "floor": Floor(before, after)(some),
        },
        chosen,
        25,
    )
    plain: dict[str, Any] = {
        "mean": lambda some: sums[some].sum() / counts[some].sum(),
        "floor": lambda some: after[some].mean(0).min() - before[some].mean(0).min(),
    }
    for name, number in plain.items():
        for row, some in zip(found[name], chosen, strict=True):
            without = [number(np.setdiff1d(some, part)) for part in groups(some)]
            assert len(without) == 10
            error = np.sqrt(0.9 * np.square(without - np.mean(without)).sum())
            half = 2.262157 * error  # Student's, nine degrees of freedom
            expected = [number(some), number(some) - half, number(some) + half]
            assert row == pytest.approx(expected, rel=1e-6)


def normal_draws(shift: float, seed: int, size: int = 20) -> np.ndarray:
    """Intervals of the mean of `size` of 1,500 standard normal numbers about `shift`."""
    values = np.random.default_rng(seed).normal(shift, size=1500)
    mean = Mean(values, np.ones(1500, int))
    return on_draws(lambda some: {"x": mean(some)}, drawn(1500, size, 200), 1500)["x"]


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.5, 0.8])
def test_the_power_of_an_effect_of_known_size(shift: float) -> None:
    limit = stdtrit(9, 0.975)  # ten groups of two: a t test of ten means
    beyond = shift * np.sqrt(20)
    expected = 1 - nctdtr(9, beyond, limit) + nctdtr(9, beyond, -limit)
    found = leaves_zero(normal_draws(shift, seed=1))
    assert found == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 200) + 0.02)


def test_nulls_seldom_leave_the_nulls() -> None:
    nulls = [normal_draws(0.0, seed) for seed in range(2, 6)]
    alarms = [leaves_null(nulls[k], nulls[:k] + nulls[k + 1 :]) for k in range(4)]
    assert max(alarms) <= 0.02
    assert leaves_null(normal_draws(3.0, 9), nulls) == 1
    assert 0 < leaves_null(normal_draws(1.0, 9), nulls) < leaves_zero(normal_draws(1.0, 9))


def test_a_null_of_exactly_nothing_is_inside() -> None:
    above = np.array([[0.5, 0.4, 0.6]])
    nothing = np.zeros((1, 3))
    assert leaves_zero(nothing) == leaves_null(nothing, [above]) == 0
    assert leaves_null(above, [nothing]) == leaves_zero(above) == 1
    assert leaves_null(above, [above + 0.1]) == 0
    assert leaves_null(-above[:, [0, 2, 1]], [above]) == 1
    assert leaves_null(above, []) == leaves_null(-above[:, [0, 2, 1]], []) == 1
    assert leaves_null(nothing, []) == 0


def test_draws_without_a_number_do_not_count() -> None:
    some = np.array([[1, 0.5, 1.5], [np.nan] * 3, [0, -1, 1]])
    assert leaves_zero(some) == 0.5
    assert leaves_null(some, [some * 0]) == 0.5


def test_the_committed_tables_are_those_of_the_committed_results() -> None:
    folder = Path(page.__file__).parent
    found = json.loads((folder / page.RESULTS).read_text("utf-8"))
    texts = [(folder / name).read_text("utf-8") for name in (page.PAGE, page.DOSES)]
    for text in texts:
        assert page.filled(text, found) == text
    assert [dose["name"] for dose in found["doses"]] == [dose.name for dose in doses(30)]
    assert {name for name in page.TABLES if f"table: {name} " not in "".join(texts)} == set()
    for name in re.findall(r"\]\(([\w-]+\.(?:svg|md))\)", texts[0]):
        assert 0 < (folder / name).stat().st_size < 100_000
