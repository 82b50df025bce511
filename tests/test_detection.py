"""The study of detection: damage by value, draws against plain loops, power of a known effect."""

import numpy as np
import pytest

from benchmarks.detection.draws import drawn, groups, on_draws, weights
from benchmarks.detection.numbers import Floor, Mean, Rows, SquaredNorm, rank_without
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
