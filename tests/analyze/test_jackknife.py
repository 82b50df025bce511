"""Errors against prompts that were really removed: float64 SVDs of the rows that are left."""

import logging
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import Made, MakeRun
from polars.testing import assert_frame_equal
from scipy import stats

from lpp.analyze import METRICS, scan_entropy, scan_metrics, scan_spectra
from lpp.analyze.numerics import spectrum
from lpp.analyze.numerics.jackknife import (
    ERRORS,
    Estimate,
    jackknife,
    jackknife_of_log,
    student,
)
from lpp.analyze.numerics.moments import (
    Gram,
    Moments,
    Rows,
    ShiftedSums,
    Workspace,
    shift_of,
)
from lpp.analyze.runs.cells import Cell, n_tokens

Array = npt.NDArray[np.float32]


def test_by_hand() -> None:
    # mean 3, squares 4 + 0 + 4, times 2/3; t of two degrees of freedom is 4.303
    found = jackknife(3.5, [1.0, 3.0, 5.0])
    assert found.value == 3.5
    assert found.stderr == pytest.approx(math.sqrt(16 / 3))
    assert found.ci_low == pytest.approx(3.5 - 4.302653 * math.sqrt(16 / 3))
    assert found.ci_high == pytest.approx(3.5 + 4.302653 * math.sqrt(16 / 3))


def test_a_perplexity_has_the_interval_of_its_logarithm() -> None:
    """One group of ten is far more surprising: an interval about the number itself passes 0."""
    logs = np.array([2.0, 2.1, 1.9, 2.2, 1.8, 2.0, 2.1, 1.9, 2.0, 9.0])
    without = (logs.sum() - logs) / 9
    value, parts = float(np.exp(logs.mean())), np.exp(without).tolist()
    plain = jackknife(value, parts)
    assert plain.ci_low is not None
    assert plain.ci_low < 0
    found = jackknife_of_log(value, parts)
    half = stats.t(9).ppf(0.975) * logs.std(ddof=1) / math.sqrt(10)
    ends = np.exp([logs.mean() - half, logs.mean() + half])
    assert found[2:4] == pytest.approx(ends, rel=1e-9)
    assert found[:2] == plain[:2]
    assert found.groups == plain.groups
    assert jackknife_of_log(value, parts, 4.0).ci_low == 4.0
    assert jackknife_of_log(value, parts[:1])[1:4] == (None, None, None)
    assert METRICS["perplexity"].of_log


def test_of_a_mean_it_is_the_standard_error_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=12)
    left = [np.delete(values, i).mean() for i in range(12)]
    found = jackknife(values.mean(), left)
    assert found.stderr == pytest.approx(stats.sem(values))
    assert found[2:4] == pytest.approx(
        stats.t.interval(0.95, 11, values.mean(), stats.sem(values)), rel=1e-12
    )


@pytest.mark.parametrize("parts", [[], [1.0], [1.0, math.nan, 2.0], [1.0, math.inf]])
def test_no_error_where_there_is_none(parts: list[float]) -> None:
    assert jackknife(2.0, parts) == Estimate(2.0)
    assert jackknife(math.nan, [1.0, 2.0]) == Estimate(None)
    assert student(1.0, 0.5, 0) == Estimate(1.0)


@given(st.integers(1, 60), st.integers(2, 12))
def test_groups_part_the_prompts(n: int, groups: int) -> None:
    gaps = [gap for part in Cell(n, 10).parts(groups) for gap in part.excluded]
    assert len(gaps) == (min(n, groups) if n > 1 else 0)
    covered = [i for first, end in gaps for i in range(first, end)]
    assert covered == (list(range(n)) if gaps else [])
    assert len({end - first for first, end in gaps}) <= 2


def test_tokens_without_a_group() -> None:
    lengths = np.array([5, 2, 9, 4])
    parts = Cell(n_prompts=4, prefix=4).parts(2)
    assert [n_tokens(lengths, part) for part in parts] == [8, 6]


def rows_of(seed: int, n: int, dim: int) -> Rows:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, dim)) * 3 + rng.normal(size=dim) * 20).astype(np.float32)


def less(rows: Rows, leaving: npt.NDArray[np.bool_]) -> Moments:
    """The moments of `rows` less those that leave, by a subtraction of sums."""
    sums = [ShiftedSums.empty(shift_of(rows)) for _ in range(2)]
    work = Workspace(rows.shape[1])
    for one, some in zip(sums, (rows, rows[leaving]), strict=True):
        one.add_rows(some, work)
    return sums[0].without(sums[1]).moments()


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 40), st.integers(1, 9), st.data())
def test_subtraction_undoes_a_merge(seed: int, n: int, dim: int, data: st.DataObject) -> None:
    rows = rows_of(seed, n, dim)
    leaving = np.zeros(n, dtype=bool)
    leaving[data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n - 1, unique=True))] = 1
    whole, expected = Moments.from_rows(rows), Moments.from_rows(rows[~leaving])
    rest = less(rows, leaving)
    assert rest.n == expected.n
    np.testing.assert_allclose(rest.mean, expected.mean, rtol=1e-10, atol=1e-10)
    tolerance = 1e-10 * whole.scatter.max()
    np.testing.assert_allclose(rest.scatter, expected.scatter, atol=tolerance)
    products = Gram.from_rows(rows).only(~leaving).products
    np.testing.assert_allclose(products, Gram.from_rows(rows[~leaving]).products, atol=tolerance)


def test_what_only_the_group_had_leaves_nothing_behind() -> None:
    rows = np.full((9, 3), 0.1, dtype=np.float32)
    rows[:3, 1] = (1e4, -3e4, 7.0)
    leaving = np.arange(9) < 3
    rest = less(rows, leaving)
    assert not rest.scatter.any()
    assert not Gram.from_rows(rows).only(~leaving).products.any()


def enormous(rows: Array) -> Array:
    rows[:, 3] *= 2000
    return rows


CASES: dict[str, dict[str, Any]] = {
    "more rows than columns": {"dim": 6},
    "fewer rows than columns": {"dim": 120},
    "columns between the prefixes": {"dim": 40},
    "one enormous dimension": {"scale": enormous},
    "as many prompts as groups": {"lengths": [17, 20, 9], "dim": 5},
    "fewer prompts than groups": {"lengths": [17, 20], "dim": 5},
}
GROUPS = 3


def reference(made: Made, metric: str, site: str, cell: Cell) -> float:
    """The metric of rows stacked anew, without any of our sums."""
    rows = np.concatenate(
        [
            rows[: cell.prefix]
            for i, rows in enumerate(made.hidden[site][: cell.n_prompts])
            if cell.stays[i]
        ]
    ).astype(np.float64)
    centred = rows - rows.mean(axis=0)
    if len(rows) == 1:
        return 0.0
    if metric.startswith("zscore_"):
        centred /= centred.std(axis=0, ddof=1)
    values = np.linalg.svd(centred, compute_uv=False) ** 2
    share = values[values > 0] / values.sum()
    found = {
        "participation_ratio": 1 / (share**2).sum(),
        "effective_rank": np.exp(-(share * np.log(share)).sum()),
        "top_share": share[0],
        "column": np.sort(centred.var(axis=0))[::-1][:5].sum() / centred.var(axis=0).sum(),
    }
    name = metric.removeprefix("zscore_")
    if name == "top5_column_share":
        return float(found["column"])
    if name.endswith("_norm"):
        return float(found[name.removesuffix("_norm")] / min(rows.shape))
    return float(found[name])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_errors_are_those_of_prompts_really_removed(
    make_run: MakeRun, case: dict[str, Any]
) -> None:
    made = make_run(**case)
    count = len(made.prompts)
    metrics = [
        *("participation_ratio", "effective_rank", "effective_rank_norm", "top_share"),
        *("zscore_participation_ratio", "zscore_effective_rank", "top5_column_share"),
    ]
    table = scan_metrics(
        made.root, metrics=metrics, contexts=[7, 20], prompts=[2, count], groups=GROUPS
    )
    rows = table.filter(pl.col("site").is_in(["block.2", "final"])).collect()
    assert len(rows) == 2 * (7 + 10) * len({2, count}) * len(metrics)
    for row in rows.iter_rows(named=True):
        cell = Cell(row["n_prompts"], row["prefix"])
        metric, site = row["metric"], row["site"]
        parts = [reference(made, metric, site, part) for part in cell.parts(GROUPS)]
        low, high = METRICS[metric].limits
        if METRICS[metric].unit == "dimensions":  # no interval ends above min(N, d)
            lengths = [len(one) for one in made.hidden[site][: cell.n_prompts]]
            n_rows = sum(min(length, cell.prefix) for length in lengths)
            high = min(n_rows, made.hidden[site][0].shape[1])
        expected = jackknife(reference(made, metric, site, cell), parts, (low, high))
        for name in ("value", *ERRORS):
            assert row[name] == pytest.approx(getattr(expected, name), rel=1e-5, abs=1e-9), row


def test_one_prompt_has_no_error(make_run: MakeRun) -> None:
    made = make_run(lengths=[20])
    table = scan_spectra(made.root, groups=10).filter(site="final", prefix=20).collect()
    assert table["effective_rank"].null_count() == 0
    assert table["effective_rank_stderr"].null_count() == 1


def test_equal_rows_have_an_error_of_nothing(make_run: MakeRun) -> None:
    made = make_run(scale=lambda rows: np.full_like(rows, 0.1))
    table = scan_spectra(made.root, groups=GROUPS).collect()
    assert table["effective_rank"].unique().item() == 0
    assert table["effective_rank_stderr"].unique().item() == 0


@pytest.mark.parametrize("dim", [3, 80])
def test_variance_of_one_prompt_alone_is_gone_without_it(make_run: MakeRun, dim: int) -> None:
    def lonely(rows: Array) -> Array:
        return rows if len(rows) == 12 else np.full_like(rows, 0.1)

    made = make_run(lengths=[12, 20, 20, 20], dim=dim, scale=lonely)
    table = scan_spectra(made.root, groups=4).filter(site="final", prefix=20).collect()
    value = table["participation_ratio"].item()
    left = [0.0]  # without the first prompt no variance is left
    for gone in (1, 2, 3):
        rows = np.concatenate([r for i, r in enumerate(made.hidden["final"]) if i != gone])
        left.append(spectrum.participation_ratio(Moments.from_rows(rows)))
    expected = jackknife(value, left).stderr
    assert table["participation_ratio_stderr"].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dim", [4, 90])
def test_rows_that_are_not_finite_have_neither_value_nor_error(make_run: MakeRun, dim: int) -> None:
    def broken(rows: Array) -> Array:
        rows[-1, 0] = np.nan  # the last position of each prompt
        return rows

    made = make_run(lengths=[20, 20, 20], dim=dim, scale=broken)
    table = scan_metrics(made.root, groups=GROUPS).filter(site="final").collect()
    of_lengths = pl.col("metric").is_in(
        ["n_sinks", "sink_end"]
    )  # rows without a length are left out
    last = table.filter(~of_lengths, prefix=20)
    assert last["value"].null_count() == last["stderr"].null_count() == len(last)
    ratio = table.filter(metric="participation_ratio")
    assert ratio["stderr"].null_count() == 1


def test_the_cache_answers_with_and_without_errors(
    make_run: MakeRun, work: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    made = make_run()
    plain = scan_spectra(made.root).filter(site="final").collect()
    final = scan_spectra(made.root, groups=GROUPS).filter(site="final")
    sure = final.collect()
    values = [metric for metric in METRICS if metric in plain.columns]
    assert_frame_equal(sure.select(values), plain.select(values))
    before = work.copy()
    with caplog.at_level(logging.WARNING, "lpp.analyze"):
        assert_frame_equal(final.collect(), sure)
        assert_frame_equal(scan_spectra(made.root).filter(site="final").collect(), plain)
        # variances, sums and eigenvalues were kept, so other metrics of them are free
        scan_metrics(made.root, metrics=["rankme", "top5_column_share"], groups=GROUPS).filter(
            site="final"
        ).collect()
    assert work == before
    assert not caplog.records
    scan_spectra(made.root, groups=2).filter(site="final").collect()
    assert work["reads"] > before["reads"]  # other groups are other numbers


@pytest.mark.parametrize("dim", [6, 200])
def test_what_is_known_already_does_not_change_the_rest(
    make_run: MakeRun, tmp_path: Path, dim: int
) -> None:
    """With some prefixes kept, the sizes of one read want different prefixes."""
    made, fresh = make_run(dim=dim), make_run(dim=dim, root=tmp_path / "fresh")
    options: dict[str, Any] = {"contexts": [10, 20], "groups": GROUPS}
    some = pl.col("prefix").is_in([3, 10, 16])
    scan_spectra(made.root, prompts=[6], **options).filter(some, site="final").collect()
    scan_spectra(made.root, prompts=[4], **options).filter(~some, site="final").collect()
    found = scan_spectra(made.root, prompts=[4, 6], **options).filter(site="final").collect()
    expected = scan_spectra(fresh.root, prompts=[4, 6], **options).filter(site="final").collect()
    assert_frame_equal(found, expected, rel_tol=1e-9)


@pytest.mark.parametrize(("factor", "tolerance"), [(1e2, 1e-4), (1e4, 1e-4), (3e5, 1e-2)])
def test_z_scores_without_the_prompt_that_outweighs_all_others(
    make_run: MakeRun, factor: float, tolerance: float
) -> None:
    """What the subtraction leaves of rounding, in each band, is blown up by the narrow columns."""

    def heavy(rows: Array) -> Array:
        return rows * np.float32(factor) if len(rows) == 5 else rows

    made = make_run(lengths=[5, 6, 6, 6], dim=20, scale=heavy)  # 18 rows are left
    metric = "zscore_effective_rank"
    table = scan_metrics(made.root, metrics=[metric], groups=4).filter(site="final", prefix=20)
    cell = Cell(4, 20)
    parts = [reference(made, metric, "final", part) for part in cell.parts(4)]
    expected = jackknife(reference(made, metric, "final", cell), parts)
    row = table.collect().row(0, named=True)
    assert (row["value"], row["stderr"]) == pytest.approx(expected[:2], rel=tolerance)


def test_no_interval_leaves_the_range_of_its_metric(make_run: MakeRun) -> None:
    made = make_run(
        lengths=[20, 3, 4], dim=3, scale=lambda rows: rows * np.array([9, 1, 1], np.float32)
    )
    table = scan_metrics(made.root, groups=GROUPS).collect()
    assert table.filter(metric="top_share")["ci_high"].max() == 1.0
    for row in table.filter(pl.col("stderr").is_not_null()).iter_rows(named=True):
        low, high = METRICS[row["metric"]].limits
        assert low <= row["ci_low"] <= row["ci_high"] <= high
    ends = scan_entropy(made.root).filter(pl.col("entropy_stderr").is_not_null()).collect()
    assert ends["entropy_norm_ci_high"].max() <= 1  # type: ignore[operator]
    assert ends["entropy_ci_low"].min() >= 0  # type: ignore[operator]
