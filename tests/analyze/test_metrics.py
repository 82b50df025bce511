"""Declared metrics against plain arithmetic on the rows, and what each asks to be computed."""

import logging
import math
import re
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from made_runs import MakeRun

from lpp.analyze import METRICS, Metric, scan_metrics
from lpp.analyze.engine.cache import Cache
from lpp.analyze.engine.estimates import Estimates, Request, SiteRequest
from lpp.analyze.engine.executor import LOCAL
from lpp.analyze.engine.token_estimates import token_estimates
from lpp.analyze.metrics.metric import SiteRows
from lpp.analyze.metrics.registry import PAPER_NAMES, chosen, with_free
from lpp.analyze.metrics.spectral import SPECTRAL, column_share, power_law, rankme, stable_rank
from lpp.analyze.metrics.summary import Demand, summarize
from lpp.analyze.numerics import spectrum
from lpp.analyze.numerics.moments import Gram, Moments
from lpp.analyze.quantities.quantity import by_name
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.keys import views
from lpp.store.errors import InputError

Array = npt.NDArray[np.float32]
Wide = npt.NDArray[np.float64]


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_declarations_are_sound(metric: Metric[Any]) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name)
    assert metric.unit in {
        "dimensions",
        "share",
        "nats",
        "nats^2",
        "tokens",
        "degrees",
        "positions",
        "1",
    }
    assert metric.definition == " ".join(metric.definition.split())
    assert re.search(r"\d{4}", metric.source), "a source has a year or a number"


def test_a_name_is_declared_once() -> None:
    with pytest.raises(ValueError, match="rankme is declared twice"):
        by_name([METRICS["rankme"], METRICS["rankme"]])


def test_names_patterns_and_the_paper() -> None:
    assert [m.name for m in chosen(["paper"])] == list(PAPER_NAMES)
    assert {m.name for m in chosen(["zscore_*", "rankme"])} == {
        *(f"zscore_{rank}{norm}" for rank in PAPER_NAMES[:2] for norm in ("", "_norm")),
        "rankme",
    }
    told = r"no metric 'rank_me'; did you mean rankme or .* Name one with --metrics"
    with pytest.raises(InputError, match=told):
        chosen(["rank_me"])


@pytest.mark.parametrize(
    ("name", "ratio"),
    [
        ("two_nn", "participation_ratio"),
        ("rankme", "participation_ratio"),
        ("zscore_effective_rank_norm", "zscore_participation_ratio"),
        ("robust_effective_rank", "robust_participation_ratio"),
    ],
)
def test_the_ratio_that_tells_a_collapse_comes_along(name: str, ratio: str) -> None:
    assert METRICS[name].ratio == ratio
    assert METRICS[ratio] in with_free(chosen([name]))


def test_limits_follow_from_the_unit_or_are_said() -> None:
    named = {
        "top_share": (0, 1),
        "effective_rank": (0, math.inf),
        "diff_erank": (-math.inf, math.inf),
        "alpha_req": (-math.inf, math.inf),
        "anisotropy": (-1, 1),
        "curvature": (0, 180),
        "perplexity": (1, math.inf),
        "varentropy": (0, math.inf),
    }
    assert {name: METRICS[name].limits for name in named} == named


def test_rounding_is_no_eigenvalue_of_a_power_law() -> None:
    rows = np.tile(random_rows(3, 30, 300), (67, 1))  # 29 directions, 271 of rounding
    solved = spectrum.eigenvalues(Moments.from_rows(rows))
    assert (solved[:29] > 0.1).all()
    assert (solved[29:] > 0).any()
    assert all(math.isnan(value) for value in power_law(solved))


def test_a_matrix_that_is_no_covariance_costs_its_own_cell_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = Moments(9, np.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]]))
    with caplog.at_level(logging.WARNING, "lpp.analyze"):
        found = summarize(other, Demand.of([METRICS["effective_rank"]]))
    assert math.isnan(found.value(METRICS["effective_rank"]))
    assert "9 rows of width 2 have no ranks: not a covariance" in caplog.text


def random_rows(seed: int, n: int, dim: int) -> Array:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, dim)) * np.exp(rng.normal(size=dim)) + 5).astype(np.float32)


def reference(rows: Array) -> dict[str, float]:
    """Every spectral metric, from an SVD of the rows in float64."""
    wide = rows.astype(np.float64)
    centred = wide - wide.mean(axis=0)
    bound = min(rows.shape)
    variances = np.sort(centred.var(axis=0, ddof=1))[::-1]
    singular = np.linalg.svd(centred, compute_uv=False)
    values = singular**2 / (len(rows) - 1)
    entropy = shannon(values / values.sum())
    ratio = values.sum() ** 2 / (values**2).sum()
    deviations = centred.std(axis=0, ddof=1)
    scores = np.linalg.svd(centred / np.where(deviations < 1e-8, 1, deviations), compute_uv=False)
    z_share = scores**2 / (scores**2).sum()
    z_ratio, z_rank = 1 / (z_share**2).sum(), np.exp(shannon(z_share))
    last = min(100, bound // 2)
    alpha, r2 = math.nan, math.nan
    if last >= 20:
        x, y = np.log(np.arange(11, last + 1)), np.log(values[10:last])
        slope, offset = np.polyfit(x, y, 1)
        alpha = -slope
        r2 = 1 - ((y - slope * x - offset) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    return {
        "participation_ratio": ratio,
        "effective_rank": np.exp(entropy),
        "participation_ratio_norm": ratio / bound,
        "effective_rank_norm": np.exp(entropy) / bound,
        "top_share": values[0] / values.sum(),
        "zscore_participation_ratio": z_ratio,
        "zscore_effective_rank": z_rank,
        "zscore_participation_ratio_norm": z_ratio / bound,
        "zscore_effective_rank_norm": z_rank / bound,
        "top1_column_share": variances[0] / variances.sum(),
        "top5_column_share": variances[:5].sum() / variances.sum(),
        "outlier_severity": np.linalg.norm(wide.mean(axis=0)) / np.linalg.norm(deviations),
        "stable_rank": np.linalg.norm(centred) ** 2 / np.linalg.norm(centred, 2) ** 2,
        "rankme": np.exp(shannon(singular / singular.sum())),
        "alpha_req": alpha,
        "alpha_req_r2": r2,
        "renyi2_entropy": -np.log(((values / values.sum()) ** 2).sum()),
        "von_neumann_entropy": entropy,
    }


def shannon(share: Wide) -> float:
    """Entropy in nats."""
    share = share[share > 1e-15]
    return float(-(share * np.log(share)).sum())


@pytest.mark.parametrize("route", [Moments, Gram])
@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(random_rows(1, 90, 150), id="fewer rows than columns"),
        pytest.param(random_rows(2, 500, 60), id="more rows than columns"),
        pytest.param(random_rows(3, 30, 4), id="four columns"),
    ],
)
def test_every_spectral_metric_equals_plain_arithmetic(
    rows: Array, route: type[Moments | Gram]
) -> None:
    summary = summarize(route.from_rows(rows), Demand.of(SPECTRAL))
    expected = reference(rows)
    assert set(expected) == {metric.name for metric in SPECTRAL}
    for metric in SPECTRAL:
        # a zero singular value of the centred rows is the root of a rounding
        close = 1e-6 if metric.name == "rankme" else 1e-9
        found = summary.value(metric)
        assert found == pytest.approx(expected[metric.name], rel=close, nan_ok=True), metric.name


def test_hand_values() -> None:
    assert stable_rank(np.array([4.0, 2.0, 2.0])) == 2.0
    assert rankme(np.array([4.0, 4.0])) == pytest.approx(2.0)
    assert column_share(np.array([1.0, 2.0, 5.0]), 1) == 0.625
    assert column_share(np.array([1.0, 2.0]), 5) == 1.0
    flat = power_law(np.ones(60))
    assert flat[0] == 0
    assert math.isnan(flat[1])  # nothing varies, so there is nothing to explain
    assert math.isnan(power_law(np.arange(39.0, 0, -1))[0])  # nine points


def test_identities() -> None:
    rows = random_rows(7, 300, 40)
    summary = summarize(Moments.from_rows(rows), Demand.of(SPECTRAL))
    value = {metric.name: summary.value(metric) for metric in SPECTRAL}
    assert value["stable_rank"] == pytest.approx(1 / value["top_share"])
    assert value["renyi2_entropy"] == pytest.approx(math.log(value["participation_ratio"]))
    assert value["von_neumann_entropy"] == pytest.approx(math.log(value["effective_rank"]))
    assert value["rankme"] > value["effective_rank"] > value["participation_ratio"]
    scaled = rows * np.logspace(-2, 3, 40, dtype=np.float32) + 9
    other = summarize(Moments.from_rows(scaled), Demand.of(SPECTRAL))
    for name in ("zscore_participation_ratio", "zscore_effective_rank_norm"):
        assert other.value(METRICS[name]) == pytest.approx(value[name], rel=1e-5)


def test_a_constant_column_has_no_z_score() -> None:
    rows = random_rows(8, 50, 3)
    rows[:, 1] = 7
    for route in (Moments, Gram):
        summary = summarize(route.from_rows(rows), Demand.of(SPECTRAL))
        r = np.corrcoef(rows[:, 0], rows[:, 2])[0, 1]
        expected = 4 / (2 + 2 * r * r)  # eigenvalues 1 + r, 1 - r and 0
        assert summary.value(METRICS["zscore_participation_ratio"]) == pytest.approx(expected)


def test_without_variance_there_is_no_dimension_and_no_entropy() -> None:
    rows = np.full((6, 3), 0.1, dtype=np.float32)
    summary = summarize(Moments.from_rows(rows), Demand.of(SPECTRAL))
    for metric in SPECTRAL:
        value = summary.value(metric)
        assert (
            math.isnan(value)
            if metric.unit in {"nats", "1"} or "r2" in metric.name
            else (value == 0)
        ), metric.name


def test_a_metric_must_say_what_it_needs() -> None:
    summary = summarize(Moments.from_rows(random_rows(9, 9, 2)), Demand())
    for name in ("effective_rank", "zscore_participation_ratio"):
        with pytest.raises(LookupError):
            summary.value(METRICS[name])


def test_a_scatter_metric_solves_nothing(make_run: MakeRun, work: Counter[str]) -> None:
    made = make_run()
    final = pl.col("site") == "final"
    of_scatter = [m.name for m in SPECTRAL if m.needs == "scatter"]
    found = scan_metrics(made.root, metrics=of_scatter).filter(final).collect()
    assert work == {"reads": 1}
    assert found["metric"].unique(maintain_order=True).to_list() == of_scatter
    everything = scan_metrics(made.root).filter(final)
    everything.filter(metric="rankme").collect()
    assert work == {"reads": 2, "solves": 10}
    everything.select("metric", "unit").collect()
    assert work == {"reads": 2, "solves": 10}
    everything.filter(metric="zscore_effective_rank").collect()
    assert work == {"reads": 3, "solves": 20}


def counted(needs: Any) -> Metric[Any]:
    """A metric of rows or tokens: how many there are."""
    return Metric(
        name=f"n_{needs}", unit="1", definition="N", source="2026", needs=needs, compute=len_of
    )


def len_of(given: SiteRows | pl.DataFrame) -> float:
    """Rows of what a metric was given."""
    return float(len(given.values if isinstance(given, SiteRows) else given))


def total(given: SiteRows) -> float:
    """A number that every row, prompt and position has a part in."""
    weight = (given.prompt_id + 1) * (given.position + 1.0)
    return float((given.values * weight[:, None]).sum(dtype=np.float64))


def estimated(*work: Any) -> Estimates:
    """The estimates of one site."""
    return next(LOCAL.estimates([SiteRequest(*work)]))


def test_rows_are_read_once_for_every_kind(make_run: MakeRun, work: Counter[str]) -> None:
    made = make_run()
    (view,) = views(made.root)
    cache = Cache(made.root, view.run)
    metric = Metric(
        name="total", unit="1", definition="sum", source="2026", needs="rows", compute=total
    )
    cells = [Cell(n, prefix) for n in (3, 6) for prefix in (4, 20)]
    request = Request(metrics=[metric, METRICS["participation_ratio"]])
    found = estimated(view, cache, "block.1", cells, request)
    assert work == {"reads": 1}
    for cell in cells:
        some = made.hidden["block.1"][: cell.n_prompts]
        expected = sum(
            (rows[:L].astype(np.float64) * (np.arange(L)[:, None] + 1)).sum() * (i + 1)
            for i, rows in enumerate(some)
            for L in (min(cell.prefix, len(rows)),)
        )
        assert found[cell, "total"].value == pytest.approx(expected)
        ratio = spectrum.participation_ratio(
            Moments.from_rows(made.rows("block.1", cell.prefix, cell.n_prompts))
        )
        assert found[cell, "participation_ratio"].value == pytest.approx(ratio, rel=1e-9)
    assert estimated(view, cache, "block.1", cells, request) == found
    assert work == {"reads": 1}


@pytest.mark.parametrize("needs", ["rows", "tokens"])
def test_a_group_of_prompts_leaves_rows_and_tokens(make_run: MakeRun, needs: str) -> None:
    made = make_run()
    (view,) = views(made.root)
    cell = Cell(6, 10)
    metric = counted(needs)
    request = Request(metrics=[metric], errors=[metric.name], groups=6)
    if needs == "rows":
        found = estimated(view, Cache(made.root, view.run), "final", [cell], request)
    else:
        found = token_estimates(view, [cell], request)
    lengths = np.minimum([len(p) for p in made.prompts], 10)
    estimate = found[cell, metric.name]
    assert estimate.value == lengths.sum()
    assert estimate.stderr == pytest.approx(
        math.sqrt(5 / 6 * ((lengths - lengths.mean()) ** 2).sum())
    )
