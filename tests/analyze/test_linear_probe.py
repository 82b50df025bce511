"""Linear probes against scikit-learn with the same folds; folds; shuffles."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lpp.analyze.numerics.linear_probe import (
    STRENGTHS,
    cross_fit,
    fit,
    label_folds,
    shuffled_labels,
)
from lpp.analyze.numerics.probe_errors import Target
from lpp.store.arrays.reader import to_float32

Data = tuple[Any, Any, Any]


def data(n: int, d: int, seed: int = 0) -> Data:
    """(n, d) rows, of which column 1 is large, column 2 constant, and column 3 outside fold 0;
    classes; folds.
    """
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, d)) @ rng.normal(size=(d, d))
    rows[:, 1] = 300 * rows[:, 1] + 1000
    rows[:, 2] = 0.1
    y = (rows[:, 0] + rng.normal(size=n) * 3 > 0).astype(float)
    fold = label_folds(y.astype(np.int64), np.arange(n), 4, seed=seed)
    rows[fold != 0, 3] = 0.7
    return rows.astype(np.float32), y, fold


def reference(classes: bool, strength: float, d: int) -> Any:
    model = (
        LogisticRegression(C=1 / (strength * d), tol=1e-12, max_iter=10_000)
        if classes
        else Ridge(alpha=strength * d)
    )
    if classes:
        model.set_params(solver="newton-cholesky")
    return make_pipeline(StandardScaler(), model)


@pytest.mark.parametrize("classes", [True, False])
@pytest.mark.parametrize(("n", "d"), [(120, 30), (60, 150)])
@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_fit_is_that_of_scikit_learn(n: int, d: int, strength: float, classes: bool) -> None:
    rows, y, _ = data(n, d)
    rows = rows.astype(np.float64)
    probe = fit(rows, y, strength, classes=classes)
    other = reference(classes, strength, d).fit(rows, y)
    scale, model = other[0].scale_, other[-1]
    np.testing.assert_allclose(probe.weights * scale, model.coef_.ravel(), rtol=1e-6, atol=1e-6)
    scores = other.decision_function(rows) if classes else other.predict(rows)
    np.testing.assert_allclose(rows @ probe.weights + probe.intercept, scores, atol=1e-6)


@pytest.mark.parametrize("classes", [True, False])
@pytest.mark.parametrize(("n", "d"), [(120, 30), (60, 150)])
def test_scores_out_of_fold_and_strengths_are_those_of_nested_folds(
    n: int, d: int, classes: bool
) -> None:
    rows, y, fold = data(n, d)
    rows = rows.astype(np.float64)
    result = cross_fit(rows, y, fold, classes=classes)
    for k, chosen in zip(np.unique(fold), result.strengths, strict=True):
        train = fold != k
        model = reference(classes, chosen, d).fit(rows[train], y[train])
        out = model.decision_function if classes else model.predict
        np.testing.assert_allclose(result.scores[~train], out(rows[~train]), atol=1e-6)
        standard = model[0]
        z, left = standard.transform(rows[train]), standard.transform(rows[~train])
        losses = []
        for strength in STRENGTHS:
            total = 0.0
            for other in np.unique(fold[train]):
                nested = fold[train] != other
                inner = reference(classes, strength, d)[-1].fit(z[nested], y[train][nested])
                scores = (inner.decision_function if classes else inner.predict)(z[~nested])
                truth = y[train][~nested]
                loss = (
                    np.logaddexp(0, scores) - truth * scores if classes else (scores - truth) ** 2
                )
                total += float(loss.sum())
            losses.append(total)
        assert losses[STRENGTHS.index(chosen)] == pytest.approx(min(losses), rel=1e-3)
        if classes:
            means = z[y[train] == 1].mean(axis=0) - z[y[train] == 0].mean(axis=0)
            ours = result.mean_difference[~train]
            assert np.corrcoef(ours, left @ means)[0, 1] == pytest.approx(1)


def test_what_training_adds_to_errors_is_a_slope() -> None:
    """By how much squared errors outside a fold fall for a small weight of an item inside."""
    rows, y, fold = data(60, 5)
    rows, y = rows.astype(np.float64), rows[:, 0] + y
    result = cross_fit(rows, y, fold, classes=False)
    step, slopes = 1e-5, np.zeros(60)
    for k, chosen in zip(np.unique(fold), result.strengths, strict=True):
        train = fold != k
        standard = StandardScaler().fit(rows[train])
        z = np.column_stack([standard.transform(rows), np.ones(60)])
        penalty = np.diag([chosen * 5] * 5 + [0.0])

        def squares(weights: Any, z: Any = z, out: Any = ~train, penalty: Any = penalty) -> float:
            beta = np.linalg.solve(z.T @ (weights[:, None] * z) + penalty, z.T @ (weights * y))
            return float(((y - z @ beta)[out] ** 2).sum())

        weights = train.astype(float)
        for item in np.flatnonzero(train):
            more, less = weights.copy(), weights.copy()
            more[item] += step
            less[item] -= step
            slopes[item] -= (squares(more) - squares(less)) / (2 * step)
    np.testing.assert_allclose(result.training, slopes, rtol=1e-3, atol=1e-4 * np.abs(slopes).max())


def test_few_of_a_class_have_wider_intervals() -> None:
    rng = np.random.default_rng(0)

    def half(n: int, second: int) -> float:
        labels = (np.arange(n) < second).astype(float)
        fold = label_folds(labels.astype(np.int64), np.arange(n), 5)
        target = Target(labels=labels, fold=fold, clusters=np.arange(n), classes=True, seed=0)
        fits = [target.scored(rng.normal(size=(n, 3))) for _ in range(2)]
        gain = target.difference(*fits)
        assert gain is not None
        assert gain.interval is not None
        return (gain.interval[1] - gain.value) / gain.stderr

    assert half(50, 10) > 2.05
    assert 1.96 < half(400, 200) < 2.02


@pytest.mark.parametrize("tail", [False, True])
def test_a_number_with_a_heavy_tail_has_no_interval(tail: bool) -> None:
    rng = np.random.default_rng(0)
    labels = rng.normal(size=100)
    labels[:3] *= 40 if tail else 1
    fold = label_folds(np.arange(100) % 5, np.arange(100), 5)
    target = Target(labels=labels, fold=fold, clusters=np.arange(100), classes=False, seed=0)
    number = target.number(target.scored(rng.normal(size=(100, 3)) + labels[:, None]))
    assert number is not None
    assert (number.interval is None) == target.is_heavy == tail


def test_separable_classes_end_at_the_same_weights() -> None:
    rows = np.repeat([[-1.0, 5.0], [1.0, 5.0]], 40, axis=0) * 1e6
    y = np.repeat([0.0, 1.0], 40)
    probe = fit(rows, y, 1e-4, classes=True)
    other = reference(True, 1e-4, 2).fit(rows, y)
    assert probe.weights[0] * 1e6 == pytest.approx(other[-1].coef_[0, 0], rel=1e-6)
    assert probe.weights[1] == 0  # a column that does not vary


def test_rows_that_do_not_vary_give_the_mean() -> None:
    rows, y = np.full((30, 4), 7.0), np.arange(30.0)
    result = cross_fit(rows, y, np.arange(30) % 3, classes=False)
    means = [y[y % 3 != k].mean() for k in (0, 1, 2)]
    np.testing.assert_allclose(result.scores, np.tile(means, 10))


def test_bits_of_bfloat16_are_read_as_numbers() -> None:
    rows, y, fold = data(60, 8)
    bits = (rows.view(np.uint32) >> 16).astype(np.uint16)
    of_bits, of_numbers = (
        cross_fit(part, y, fold, classes=True) for part in (bits, to_float32(bits))
    )
    np.testing.assert_array_equal(of_bits.scores, of_numbers.scores)
    probe = fit(bits, y, 1.0, classes=True)
    scores = to_float32(bits) @ probe.weights + probe.intercept
    np.testing.assert_allclose(probe.scores(bits), scores, rtol=1e-12)


def test_two_folds_cannot_be_nested() -> None:
    with pytest.raises(ValueError, match="2 folds"):
        cross_fit(np.ones((4, 1)), np.array([0.0, 1, 0, 1]), np.array([0, 0, 1, 1]), classes=True)


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 6), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=12))
def test_folds_hold_whole_units(count: int, items: list[tuple[int, int]]) -> None:
    labels, units = (np.array(column) for column in zip(*items, strict=True))
    fold = label_folds(labels, units, count, seed=1)
    assert ((fold >= 0) & (fold < count)).all()
    assert all(len({*fold[units == unit].tolist()}) == 1 for unit in units)
    np.testing.assert_array_equal(fold, label_folds(labels, units, count, seed=1))


def test_folds_of_items_are_stratified() -> None:
    labels = np.repeat([0, 1, 0], [40, 25, 35])
    fold = label_folds(labels, np.arange(100), 5)
    np.testing.assert_array_equal(np.bincount(fold), 20)
    np.testing.assert_array_equal(np.bincount(fold, labels), 5)
    assert not np.array_equal(fold, label_folds(labels, np.arange(100), 5, seed=1))


def test_shuffles_keep_the_labels_of_a_unit_together() -> None:
    units, labels = np.repeat(np.arange(10), 4), np.repeat([0.0, 1.0], 20)
    drawn = shuffled_labels(labels, units, 30)
    np.testing.assert_array_equal(drawn.sum(axis=0), 20)
    assert all(np.ptp(drawn[units == unit], axis=0).max() == 0 for unit in range(10))
    assert np.ptp(drawn, axis=1).all()  # every item has both labels in some draw
    # each label names its unit: no unit gets those of two, whatever their sizes
    uneven = np.repeat(np.arange(8), [1, 2, 3, 5, 8, 13, 21, 34])[::-1]
    of_units = shuffled_labels(uneven.astype(float), uneven, 30)
    assert all(np.ptp(of_units[uneven == unit], axis=0).max() == 0 for unit in range(8))
    ordered = shuffled_labels(np.tile(np.arange(4.0), 10), units, 30).reshape(10, 4, 30)
    assert ({*(np.diff(ordered, axis=1) % 4).ravel().tolist()}) == {1.0}
    alone = shuffled_labels(labels, np.arange(40), 30)
    assert np.ptp(alone.reshape(10, 4, 30), axis=1).any()
