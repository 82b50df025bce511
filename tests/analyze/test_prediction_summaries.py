"""Means, quantiles and errors of the drift of predictions, by hand."""

import json
import math
from collections.abc import Callable, Mapping
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
    assert found["same_top_p"].mean == 0.5
    ratio, rms = found["perplexity_ratio"], found["rms_logprob"]
    assert (ratio.mean, ratio.max) == (math.exp(0.5), math.exp(2.0))
    assert (rms.mean, rms.max) == (math.sqrt((4 + 1) / 2), 2.0)


def test_errors_of_numbers_that_are_no_means() -> None:
    """The root of a mean, and the exponential of one, without each of ten groups of prompts."""
    rng = np.random.default_rng(1)
    prompt = np.repeat(np.arange(20), rng.integers(1, 9, 20))
    loss = rng.normal(0.2, 1.0, len(prompt))
    frame = {"prompt_id": prompt, "next_logprob_a": loss, "next_logprob_b": np.zeros(len(loss))}
    frame |= {"tv": rng.uniform(size=len(loss))}
    found = prediction_drift(frame_of(frame).cast({"next_logprob_a": pl.Float64}))

    def parts(number: Callable[[Any], float]) -> tuple[float, Any]:
        """The standard error, and the number without each group."""
        some = np.array([number(~np.isin(prompt, [2 * g, 2 * g + 1])) for g in range(10)])
        return math.sqrt(9 / 10 * ((some - some.mean()) ** 2).sum()), some

    rms, ratio, ear = (found[name] for name in ("rms_logprob", "perplexity_ratio", "ear"))
    assert rms.mean == pytest.approx(math.sqrt((loss**2).mean()), rel=1e-12)
    assert rms.stderr == pytest.approx(
        parts(lambda some: math.sqrt((loss[some] ** 2).mean()))[0], rel=1e-9
    )
    assert ear.stderr == pytest.approx(parts(lambda some: 1 - frame["tv"][some].mean())[0])
    assert ratio.stderr == pytest.approx(parts(lambda some: math.exp(loss[some].mean()))[0])
    ends = ratio.ci_low, ratio.ci_high
    signed = found["log_perplexity"]
    assert ends == pytest.approx([math.exp(e) for e in (signed.ci_low, signed.ci_high) if e])


def test_a_perplexity_that_no_float64_holds_is_infinite() -> None:
    """And its interval begins above 0, however wide."""
    losses = {"prompt_id": [0, 1], "next_logprob_b": [0.0, 0.0]}
    wide = prediction_drift(frame_of(losses | {"next_logprob_a": [-9.0, 9.0]}))
    assert wide["perplexity_ratio"].ci_low > 0  # type: ignore[operator]
    lost = prediction_drift(frame_of(losses | {"next_logprob_a": [800.0, 800.0]}))
    assert lost["perplexity_ratio"].mean == math.inf


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
