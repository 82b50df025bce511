"""Means, quantiles and errors of the drift of predictions, by hand."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from kept_heads import keep_head
from made_runs import MakeRun

from lpp.analyze import diff
from lpp.analyze.cli.command import main
from lpp.analyze.drift.predictions import TOKEN_DRIFT
from lpp.analyze.drift.summaries import prediction_drift
from lpp.analyze.quantities.drift import PREDICTIONS


def frame_of(values: Mapping[str, Any]) -> pl.DataFrame:
    rows = pl.DataFrame(values)
    return rows.with_columns(
        pl.lit(None, dtype=kind).alias(name)
        for name, kind in TOKEN_DRIFT.items()
        if name not in rows.columns
    ).select(TOKEN_DRIFT.names())


@pytest.mark.slow
def test_ties_stand_beside_the_numbers_that_they_decide(make_run: MakeRun) -> None:
    a = make_run(model="tiny/base", vary_tokens=True)
    make_run(model="tiny/tuned", seed=1, vary_tokens=True)
    keep_head(a.root, a.plan, dtype="bfloat16")
    tokens = diff(a.root, "base", "tuned").tokens
    shown = {
        form: CliRunner(env={"COLUMNS": "80"})
        .invoke(main, ["diff", str(a.root), "base", "tuned", "--format", form])
        .stdout
        for form in ("json", "text", "md")
    }
    (found,) = json.loads(shown["json"])["tables"]["comparisons"]
    for name, column in (("flips", "flip_tie"), ("top10", "top10_tie")):
        share = float(np.mean(tokens[column].to_numpy()))
        assert share
        assert found[f"ties_{name}"] == pytest.approx(share)
        for form in ("text", "md"):
            assert f"{name} at {100 * share:.2g} %" in " ".join(shown[form].split())


@pytest.mark.parametrize("share", [0, 1])
def test_a_share_of_equal_counts_has_wilsons_interval(share: int) -> None:
    """Twelve tokens of six prompts: the observations are the prompts."""
    some = {"prompt_id": [*range(6)] * 2, "flip": [bool(share)] * 12, "top10": [float(share)] * 12}
    found = prediction_drift(frame_of(some), only=("flips", "top10"))
    z = 1.959964
    width = z**2 / (6 + z**2)
    for one in found.values():
        ends = (0.0, width) if not share else (1 - width, 1.0)
        assert (one.mean, one.stderr) == (share, 0.0)
        assert (one.ci_low, one.ci_high) == pytest.approx(ends, abs=1e-6)


def test_a_summary_by_hand() -> None:
    """Prompts of two and one tokens: means 2 and 6, without each 6 and 2."""
    frame = frame_of(
        {
            "prompt_id": [0, 0, 4],
            "kl": [1.0, 3.0, 6.0],
            "flip": [True, False, None],
            "flip_tie": [True, False, None],
            "next_logprob_a": [-1.0, None, -2.0],
            "next_logprob_b": [-3.0, None, -1.0],
        }
    )
    found = prediction_drift(frame)
    assert found.keys() == PREDICTIONS.keys() - {"entropy"}
    assert (found["flips"].ties, found["top10"].ties, found["kl"].ties) == (0.5, None, None)
    kl = found["kl"]
    assert (kl.mean, kl.median, kl.max, kl.n_tokens) == (10 / 3, 3.0, 6.0, 3)
    assert kl.p99 == pytest.approx(3 + 0.98 * 3)
    assert kl.stderr == pytest.approx(math.sqrt(1 / 2 * (4 + 4)))
    assert kl.ci_low == 0.0  # no divergence is below
    assert (found["flips"].mean, found["flips"].n_tokens, found["flips"].stderr) == (0.5, 2, None)
    moved, signed = found["next_logprob"], found["log_perplexity"]
    assert (moved.mean, moved.max) == (1.5, 2.0)
    assert (signed.mean, signed.max) == (0.5, 2.0)
    assert signed.ci_low < 0  # type: ignore[operator]
    assert found["js"].mean is None


def test_errors_are_those_of_leaving_neighbouring_prompts_out() -> None:
    """23 prompts of other lengths, some without a token; ten groups as `group_boundaries` cuts."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 9, 27)
    lengths[[3, 10, 11, 26]] = 0
    prompt = np.repeat(np.arange(27), lengths)
    kl = rng.exponential(size=len(prompt)) * (1 + prompt)
    order = rng.permutation(len(kl))
    found = prediction_drift(frame_of({"prompt_id": prompt[order], "kl": kl[order]}))["kl"]
    there = np.unique(prompt)
    parts = []
    for g in range(10):
        group = there[len(there) * g // 10 : len(there) * (g + 1) // 10]
        parts.append(kl[~np.isin(prompt, group)].mean())
    deviations = np.array(parts) - np.mean(parts)
    assert found.stderr == pytest.approx(math.sqrt(9 / 10 * (deviations**2).sum()), rel=1e-12)
    assert found.mean == pytest.approx(kl.mean())


def test_infinite_divergences_stay_infinite() -> None:
    found = prediction_drift(frame_of({"prompt_id": [0, 1, 2], "kl": [0.5, math.inf, 0.25]}))["kl"]
    assert (found.mean, found.median, found.p99, found.max) == (math.inf, 0.5, math.inf, math.inf)
    assert found.stderr is None
