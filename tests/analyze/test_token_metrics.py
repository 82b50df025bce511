"""Metrics of the token statistics against plain Python over the same rows."""

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import MakeRun
from polars.testing import assert_frame_equal

from lpp.analyze import scan_tokens
from lpp.analyze.engine.estimates import Request
from lpp.analyze.engine.token_estimates import token_estimates
from lpp.analyze.metrics import token_sums
from lpp.analyze.metrics.tokens import (
    ECE_BINS,
    TOKEN_EXPRESSIONS,
    TOKEN_METRICS,
    calibration_error,
)
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.keys import views
from lpp.analyze.tables.metrics import scan_metrics
from lpp.store import open_store

NAMES = [metric.name for metric in TOKEN_METRICS]


def slow_ece(confidence: list[float], correct: list[bool], bins: int = ECE_BINS) -> float:
    """Bin by bin, edges compared one at a time."""
    total = 0.0
    for k in range(bins):
        low, high = k / bins, (k + 1) / bins
        inside = [i for i, p in enumerate(confidence) if low < p <= high or (k == 0 and p == 0)]
        if inside:
            accuracy = np.mean([correct[i] for i in inside])
            total += len(inside) * abs(float(accuracy - np.mean([confidence[i] for i in inside])))
    return total / len(confidence)


def slow_least(rows: list[dict[str, Any]], score: Callable[[dict[str, Any]], float]) -> float:
    """Mean over prompts of the mean of the least fifth of the scores; prompts without are out."""
    means = []
    for prompt in {row["prompt_id"] for row in rows}:
        scores = sorted(score(row) for row in rows if row["prompt_id"] == prompt)
        means.append(np.mean(scores[: max(int(len(scores) / 5), 1)]))
    return float(np.mean(means)) if means else float("nan")


def standard(row: dict[str, Any]) -> float:
    """Ln p of the next token about its mean, in deviations."""
    return float((row["next_logprob"] + row["entropy"]) / math.sqrt(row["varentropy"]))


def slow(tokens: pl.DataFrame) -> dict[str, float]:
    """Every metric over `tokens`, row by row."""
    rows = list(tokens.iter_rows(named=True))
    last = {row["prompt_id"]: row["position"] for row in rows}
    inner = [row for row in rows if row["position"] != last[row["prompt_id"]]]
    nan = float("nan")
    surprisal = np.mean([-row["next_logprob"] for row in inner]) if inner else nan
    correct = [row["next_rank"] == 1 for row in inner]
    ranks = sum(min(row["next_rank"], 100) for row in inner)
    return {
        "rsr": ranks / sum(-row["next_logprob"] for row in inner) if inner else nan,
        "surprisal": float(surprisal),
        "perplexity": float(np.exp(surprisal)),
        "margin": float(np.mean([row["margin"] for row in rows])),
        "varentropy": float(np.mean([row["varentropy"] for row in rows])),
        "top1_accuracy": float(np.mean(correct)) if inner else nan,
        "ece": slow_ece([math.exp(r["max_logprob"]) for r in inner], correct) if inner else nan,
        "min_k": slow_least(inner, lambda row: row["next_logprob"]),
        "min_k_pp": slow_least([row for row in inner if row["varentropy"] > 0], standard),
    }


def kept(tokens: pl.DataFrame, cell: Cell) -> pl.DataFrame:
    """The tokens of a cell."""
    ((first, end),) = cell.excluded or ((0, 0),)
    prompt = pl.col("prompt_id")
    return tokens.filter(
        pl.col("position").is_between(cell.first_position, cell.prefix - 1),
        prompt < cell.n_prompts,
        (prompt < first) | (prompt >= end),
    )


@pytest.mark.slow
def test_every_value_and_error_is_that_of_its_tokens(make_run: MakeRun) -> None:
    made = make_run(vary_tokens=True)
    tokens = scan_tokens(made.root).collect()
    assert all(tokens[name].n_unique() > 20 for name in ("margin", "max_logprob", "varentropy"))
    table = scan_metrics(made.root, metrics=NAMES, prompts=[4, 6], contexts=[7, 20], groups=3)
    found = table.collect()
    assert set(found["site"]) == {"logits"}
    assert len(found) == 17 * 2 * len(NAMES)
    for row in found.iter_rows(named=True):
        cell = Cell(row["n_prompts"], row["prefix"])
        expected = slow(kept(tokens, cell))[row["metric"]]
        value = float("nan") if row["value"] is None else row["value"]
        assert value == pytest.approx(expected, rel=1e-6, nan_ok=True), row
        parts = [slow(kept(tokens, part))[row["metric"]] for part in cell.parts(3)]
        error = np.sqrt(2 / 3 * np.square(np.array(parts) - np.mean(parts)).sum())
        if math.isfinite(expected) and math.isfinite(error):
            assert row["stderr"] == pytest.approx(error, rel=1e-5, abs=1e-9), row


@pytest.mark.slow
def test_sums_by_shard_are_the_expressions_over_all_rows(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_sums, "CHUNK_ROWS", 7)
    made = make_run(vary_tokens=True, lengths=[12, 7, 20, 1, 3, 15, 20, 9, 2])
    (view,) = views(made.root)
    tokens = scan_tokens(made.root).collect()
    cells = [Cell(n, L, first_position=k) for n in (1, 4, 9) for L in (1, 5, 20) for k in (0, 1, 6)]
    request = Request(metrics=TOKEN_METRICS, errors=NAMES, groups=3)
    found = token_estimates(view, cells, request)
    numbers = 0
    for cell in cells:
        frame = kept(tokens, cell)
        parts = [kept(tokens, part) for part in cell.parts(3)]
        for metric in TOKEN_METRICS:
            one = found[cell, metric.name]
            value = float("nan") if one.value is None else one.value
            expected = metric.compute(frame)
            assert value == pytest.approx(expected, rel=1e-12, abs=1e-14, nan_ok=True), metric.name
            if one.groups:
                again = [metric.compute(part) for part in parts]
                assert one.groups == pytest.approx(again, rel=1e-12, abs=1e-14)
                numbers += 1
    assert numbers > 60


@pytest.mark.slow
def test_what_is_kept_does_not_grow_with_tokens(make_run: MakeRun) -> None:
    kept_bytes = []
    for length in (20, 200):
        made = make_run(lengths=[length] * 6, context=length, vary_tokens=True, seed=length)
        tokens = scan_tokens(made.root).filter(run=made.run_id).collect()
        cells = [Cell(6, 10), Cell(6, 20)]
        sums = {metric.name: metric.sums for metric in TOKEN_METRICS}
        by_row = {n: s for n, s in sums.items() if isinstance(s, token_sums.RowSums)}
        by_prompt = {n: s for n, s in sums.items() if isinstance(s, token_sums.LeastMeans)}
        assert by_row | by_prompt == sums
        collectors: list[Any] = [
            token_sums.RowSumCollector(cells, by_row, False),
            token_sums.RowSumCollector(cells, by_row, True),
            token_sums.LeastMeanCollector(cells, by_prompt),
        ]
        for collector in collectors:
            collector.add(tokens)
        kept_bytes.append(len(pickle.dumps(collectors)))
    assert kept_bytes[0] == kept_bytes[1]


def test_a_prefix_equals_a_capture_cut_there(make_run: MakeRun, tmp_path: Path) -> None:
    whole = make_run(vary_tokens=True)
    cut = make_run(vary_tokens=True, context=10, root=tmp_path / "cut")
    asked = scan_metrics(whole.root, metrics=NAMES, contexts=[10]).drop("run").collect()
    alone = scan_metrics(cut.root, metrics=NAMES).drop("run").collect()
    assert_frame_equal(asked, alone, rel_tol=1e-12)  # sums may go in another order


def test_expressions_stand_in_a_query_over_several_runs(make_run: MakeRun) -> None:
    make_run(vary_tokens=True, model="a")
    made = make_run(vary_tokens=True, model="b", seed=3, lengths=[9, 20, 14])
    lazy = scan_tokens(made.root).group_by("run").agg(**TOKEN_EXPRESSIONS)
    found = {row["run"]: row for row in lazy.collect().iter_rows(named=True)}
    for run in open_store(made.root).runs:
        expected = slow(scan_tokens(made.root).filter(run=run).collect())
        assert {k: found[run][k] for k in NAMES} == pytest.approx(expected, rel=1e-6)


def least_frame() -> pl.DataFrame:
    """Ten tokens with a next one in prompt 3, one in prompt 5, none in prompt 6."""
    prompt = [3] * 11 + [5] * 2 + [6]
    logprob = [-1.0, -9.0, -2.0, -3.0, -5.0, -1.0, -1.0, -1.0, -1.0, -1.0, None, -4.0, None, None]
    return pl.DataFrame({"prompt_id": prompt, "next_logprob": logprob}).with_columns(
        entropy=1.0, varentropy=4.0
    )


def test_the_least_likely_fifth_by_hand() -> None:
    frame = least_frame()
    both = [TOKEN_EXPRESSIONS["min_k"], TOKEN_EXPRESSIONS["min_k_pp"].alias("pp")]
    # prompt 3: two of ten, -9 and -5; prompt 5: its one; prompt 6 has none
    assert frame.select(both).row(0) == pytest.approx(((-7 - 4) / 2, ((-7 + 1) / 2 - 3 / 2) / 2))
    nine = frame[1:]  # without -1 there are nine: one of them
    assert nine.select(both[0]).item() == pytest.approx((-9 - 4) / 2)
    # where the distribution has no spread a token has no score: ten becomes nine
    certain = frame.with_columns(varentropy=pl.Series([4.0, 0.0] + [4.0] * 12))
    found = certain.select(both).row(0)
    assert found == pytest.approx(((-7 - 4) / 2, ((-5 + 1) / 2 - 3 / 2) / 2))
    assert certain.with_columns(varentropy=0.0).select(both).row(0) == (pytest.approx(-5.5), None)
    missing = frame.with_columns(varentropy=pl.Series([None, *[4.0] * 13]))
    assert missing.select(both).row(0) == (pytest.approx(-5.5), None)
    assert frame[-1:].select(both).row(0) == (None, None)


def test_the_order_of_prompts_and_a_shift_move_the_least_as_they_must() -> None:
    frame = least_frame()
    moved = frame.with_columns(pl.col("next_logprob") - 2, prompt_id=9 - pl.col("prompt_id"))
    for name, shift in (("min_k", -2.0), ("min_k_pp", -1.0)):
        one, other = (f.select(TOKEN_EXPRESSIONS[name]).item() for f in (frame, moved))
        assert other == pytest.approx(one + shift)


def test_calibration_by_hand() -> None:
    # ten of 0.8 with eight right are calibrated; ten of 0.75, in the same bin, cancel nothing
    frame = pl.DataFrame({"p": [0.8] * 10, "hit": [True] * 8 + [False] * 2})
    expression = calibration_error(pl.col("p"), pl.col("hit"))
    assert frame.select(expression).item() == pytest.approx(0, abs=1e-12)
    sure = frame.with_columns(p=1.0)
    assert sure.select(expression).item() == pytest.approx(0.2)
    two = pl.DataFrame({"p": [0.05, 0.95], "hit": [True, False]})
    assert two.select(expression).item() == pytest.approx((0.95 + 0.95) / 2)
    one_bin = calibration_error(pl.col("p"), pl.col("hit"), bins=1)
    assert two.select(one_bin).item() == pytest.approx(0)  # one bin sees means alone


def test_the_upper_edge_belongs_to_the_bin() -> None:
    frame = pl.DataFrame({"p": [0.5, 0.4, 0.0, 1.0], "hit": [False, True, False, True]})
    found = frame.select(calibration_error(pl.col("p"), pl.col("hit"), bins=2)).item()
    assert found == pytest.approx(abs(1 - 0.9) / 4)  # 0.5, 0.4 and 0 below, 1 above


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(st.floats(0, 1, allow_nan=False, width=32), st.booleans()),
        min_size=1,
        max_size=40,
    ),
    st.integers(1, 20),
)
@settings(max_examples=60, deadline=None)
def test_calibration_agrees_with_plain_code_and_is_bounded(
    pairs: list[tuple[float, bool]], bins: int
) -> None:
    frame = pl.DataFrame(pairs, schema={"p": pl.Float64, "hit": pl.Boolean}, orient="row")
    found = frame.select(calibration_error(pl.col("p"), pl.col("hit"), bins)).item()
    held = [p for p, _ in pairs]
    if all(min(abs(p * bins - round(p * bins)), 1) > 1e-9 or p in (0, 1) for p in held):
        assert found == pytest.approx(slow_ece(held, [h for _, h in pairs], bins), abs=1e-9)
    gap = abs(float(np.mean([h for _, h in pairs])) - float(np.mean(held)))
    assert gap - 1e-9 <= found <= 1 + 1e-9  # never below the gap of the means


def test_nothing_to_count_has_no_number(make_run: MakeRun) -> None:
    made = make_run(lengths=[1, 1])
    found = dict(
        scan_metrics(made.root, metrics=NAMES)
        .filter(prefix=20)
        .select("metric", "value")
        .collect()
        .iter_rows()
    )
    assert found == {
        **dict.fromkeys(NAMES),
        "margin": pytest.approx(0.5),
        "varentropy": pytest.approx(0.75),
    }


def test_a_statistic_that_was_not_captured_leaves_no_number(make_run: MakeRun) -> None:
    made = make_run(logit_positions="schedule")
    table = scan_metrics(made.root, metrics=NAMES).collect()
    assert table.filter(pl.col("prefix") > 2)["value"].null_count() == 9 * len(NAMES)
