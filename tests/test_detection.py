"""The study of detection: damage by value, draws against plain loops, power of a known effect."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta, norm

from benchmarks.detection import page
from benchmarks.detection.damage import doses
from benchmarks.detection.draws import drawn_weights, jackknife_weights
from benchmarks.detection.numbers import Floor, Mean, Rows, SquaredNorm, effective_ranks
from benchmarks.detection.power import (
    Shown,
    bounds,
    judged,
    realisations,
    share,
    threshold,
)
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
    some = drawn_weights(12, 6, 7)
    norms = [SquaredNorm(x, z, x.products(z))(some) for x, z in ((a, a), (a, b), (b, b))]
    for k, one in enumerate(some):
        x, z = (chosen_rows(rows, one) for rows in pair)
        cka = norms[1][k] / np.sqrt(norms[0][k] * norms[2][k])
        assert cka == pytest.approx(linear_cka(x, z), abs=1e-6)
        ratio = a.traces(some)[k] ** 2 / norms[0][k]
        assert ratio == pytest.approx(participation_ratio(Moments.from_rows(x)), rel=1e-6)


def test_ranks_of_draws_are_those_of_their_rows(pair: tuple[Rows, Rows]) -> None:
    rows = pair[0]
    some = drawn_weights(12, 7, 5)
    found = effective_ranks(rows, rows.products(rows), some)
    plain = [effective_rank(eigenvalues(Moments.from_rows(chosen_rows(rows, one)))) for one in some]
    assert found == pytest.approx(plain, rel=1e-6)


def test_a_number_on_draws_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(5)
    sums, counts = rng.normal(size=25), rng.integers(3, 9, 25)
    before, after = rng.random((2, 25, 4))
    some = np.concatenate([drawn_weights(25, 13, 6), jackknife_weights(25)])
    found = Mean(sums, counts)(some), Floor(before, after)(some)
    for k, row in enumerate(some > 0):
        assert found[0][k] == pytest.approx(sums[row].sum() / counts[row].sum())
        floor = after[row].mean(0).min() - before[row].mean(0).min()
        assert found[1][k] == pytest.approx(floor)


def test_a_jackknife_leaves_out_each_prompt_once() -> None:
    found = jackknife_weights(23)
    assert found.shape == (11, 23)
    assert (found[0] == 1).all()
    assert ((1 - found[1:]).sum(axis=0) == 1).all()
    assert set((1 - found[1:]).sum(axis=1)) == {2, 3}


def plain_alarms(nulls: np.ndarray, multiple: float) -> list[float]:
    """Share of each null's draws above `multiple` times the mean of the other nulls."""
    found = []
    for k, own in enumerate(nulls):
        mean = sum(x for j, one in enumerate(nulls) if j != k for x in one) / (
            own.size * (len(nulls) - 1)
        )
        found.append(sum(x > multiple * mean for x in own) / own.size)
    return found


@pytest.mark.parametrize("furthest", [1.0, 1.2, 3.0])
@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_a_threshold_has_the_rate_that_it_is_set_for(furthest: float, rate: float) -> None:
    nulls = np.abs(np.random.default_rng(2).normal(4, 0.5, size=(4, 100)))
    nulls[0] *= furthest  # a kind of null of its own, as eager attention is
    found = threshold(nulls, rate)
    alarms, more = (plain_alarms(nulls, found.multiple * x) for x in (1 + 1e-9, 1 - 1e-9))
    assert np.mean(alarms) == pytest.approx(found.alarms)
    assert max(alarms) == pytest.approx(found.worst)
    assert found.value == pytest.approx(found.multiple * nulls.mean())
    assert found.alarms <= rate + 1e-9 < np.mean(more)
    again = threshold(1000 * nulls, rate)  # another unit
    assert again == pytest.approx((1000 * found.value, *found[1:]))


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0])
def test_the_power_of_an_effect_of_known_size(shift: float) -> None:
    rng = np.random.default_rng(6)
    limit = threshold(np.abs(rng.normal(size=(40, 500))), 0.05).value
    assert limit == pytest.approx(1.96, rel=0.02)
    size = 3.0  # errors of the mean of 9 numbers of deviation 1, in its own unit
    found = (np.abs(rng.normal(shift * size, size=20_000)) > limit).mean()
    expected = norm.sf(limit - shift * size) + norm.cdf(-limit - shift * size)
    assert found == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize(("right", "n"), [(20, 20), (100, 100), (0, 20), (87, 100)])
def test_bounds_are_those_of_clopper_and_pearson(right: int, n: int) -> None:
    low, high = bounds(right / n, n)
    assert low == pytest.approx(beta.ppf(0.025, right, n - right + 1) if right else 0)
    assert high == pytest.approx(beta.ppf(0.975, right + 1, n - right) if right < n else 1)


def test_results_of_a_study_by_hand() -> None:
    kinds = [("null", 0.0), ("null", 1.0), ("null", 1.0), ("noise", 0.1), ("noise", 0.1)]
    every: list[dict[str, Any]] = [
        {"kind": kind, "amount": 0.5, "points": {"2": {"kl": [kl, 0, 0, 0]}}} for kind, kl in kinds
    ]
    found = {"setting": {"sizes": [10]}, "doses": every}
    rows = [[0, 0, 0, 0], [1, -1, 1, 1], [-1, 1, 1, -1], [1, -1, 2, -2], [3, 3, -3, 3]]
    values = {"x": np.array(rows, np.float32)[:, None]}
    done = judged(found, values)
    assert done["thresholds"]["x"]["10"] == [1, 1, 0, 0]  # of the two nulls that moved
    assert [dose["power"]["x"]["10"] for dose in done["doses"]] == [0, 0, 0, 0.5, 1]
    (group,) = realisations(done)
    assert share(group, Shown(name="x", of="x", unit=""), "10") == 0.75
    with pytest.raises(ValueError, match="two nulls"):
        judged({**found, "doses": every[:2] + every[3:]}, {"x": values["x"][[0, 1, 3, 4]]})


def test_the_committed_results_are_those_of_the_committed_draws() -> None:
    folder = Path(page.__file__).parent
    found = json.loads((folder / page.RESULTS).read_text("utf-8"))
    with np.load(folder / page.VALUES) as values:
        assert judged(found, values) == found


@pytest.mark.slow
def test_the_committed_tables_are_those_of_the_committed_results() -> None:
    folder = Path(page.__file__).parent
    found = json.loads((folder / page.RESULTS).read_text("utf-8"))
    texts = [(folder / name).read_text("utf-8") for name in (page.PAGE, page.DOSES)]
    for text in texts:
        assert page.filled(text, found) == text
    measured = [dose["name"] for dose in found["doses"]]
    assert measured == [dose.name for dose in doses(30) if dose.name in measured]
    assert {dose.name for dose in doses(30) if dose.seed == 0} <= {*measured}
    assert {name for name in page.TABLES if f"table: {name} " not in "".join(texts)} == set()
    for name in re.findall(r"\]\(([\w-]+\.(?:svg|md))\)", texts[0]):
        assert 0 < (folder / name).stat().st_size < 100_000
