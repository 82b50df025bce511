"""Metrics of one run as numbers of two: their differences, and gates on them."""

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from click.testing import CliRunner, Result
from made_runs import Made, MakeRun

from lpp.analyze import ProfileSettings, analyze, diff, scan_tokens
from lpp.analyze.cli.command import main
from lpp.analyze.drift.gate.conditions import parse_condition
from lpp.analyze.drift.gate.verdicts import verdict
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.numerics.jackknife import jackknife
from lpp.analyze.quantities.quantity import legend
from lpp.store.format.schedule import group_boundaries

LENGTHS = (12, 7, 20, 20, 3, 15, 9, 11, 20, 6, 8, 14)
KINDS = (
    *("top1_column_share", "zscore_effective_rank", "anisotropy", "robust_participation_ratio"),
    *("sink_end", "perplexity", "min_k", "ece"),
)
"""Metrics of each kind: of a scatter, of eigenvalues, of rows, of token statistics."""

METRIC_PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "metric.md"


@pytest.fixture
def two(make_run: MakeRun) -> tuple[Made, Made]:
    return both(make_run)


def both(make_run: MakeRun, **of_b: Any) -> tuple[Made, Made]:
    a = make_run(LENGTHS, model="tiny/base", vary_tokens=True)
    return a, make_run(LENGTHS, model="tiny/tuned", seed=1, **of_b)  # other token statistics


def invoke(root: Path, *words: str) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(
        main, ["diff", str(root), "base", "tuned", *words]
    )


def kept_prompts(aside: Sequence[int] = ()) -> list[list[int]]:
    """Every compared prompt, then those without each group of neighbours."""
    edges = itertools.pairwise(group_boundaries(len(LENGTHS)))
    every = [k for k in range(len(LENGTHS)) if k not in aside]
    return [every, *([k for k in every if not first <= k < end] for first, end in edges)]


def stable_rank(made: Made, prompts: Sequence[int]) -> float:
    rows = np.concatenate([made.hidden["final"][k] for k in prompts]).astype(np.float64)
    squares: npt.NDArray[np.float64] = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    return float(squares.sum() / squares.max())


def rsr(made: Made, prompts: Sequence[int]) -> float:
    tokens = scan_tokens(made.root).filter(
        pl.col("run") == made.run_id,
        pl.col("prompt_id").is_in(prompts),
        pl.col("position") < pl.col("position").max().over("run", "prompt_id"),
    )
    ranks, surprisal = (
        tokens.select(
            pl.col("next_rank").clip(upper_bound=100).cast(pl.Float64).sum().alias("ranks"),
            -pl.col("next_logprob").cast(pl.Float64).sum(),
        )
        .collect()
        .row(0)
    )
    return float(ranks / surprisal)


@pytest.mark.slow
@pytest.mark.parametrize("aside", [(), (2, 7)])
def test_a_difference_has_the_paired_error_of_a_plain_computation(
    aside: tuple[int, ...], make_run: MakeRun
) -> None:
    a, b = both(make_run, set_aside=aside)
    found = diff(a.root, "base", "tuned", metrics=["rsr", "stable_rank"])
    of_rows, of_tokens = found.sites[-1]["stable_rank"], found.predictions["rsr"]
    assert found.pair.excluded.tolist() == list(aside)

    def plain(metric: Callable[[Made, Sequence[int]], float]) -> Any:
        change, *without = (metric(b, k) - metric(a, k) for k in kept_prompts(aside))
        return jackknife(change, without)

    assert of_rows[:4] == pytest.approx(plain(stable_rank)[:4], rel=1e-6)
    expected = plain(rsr)
    assert (of_tokens.mean, of_tokens.stderr) == pytest.approx(expected[:2], rel=1e-5)
    assert (of_tokens.ci_low, of_tokens.ci_high) == pytest.approx(expected[2:4], rel=1e-5)
    assert of_tokens.groups == 10


@pytest.mark.slow
def test_every_metric_differs_by_what_both_profiles_have(two: tuple[Made, Made]) -> None:
    a, b = two
    analysis = analyze(a.root, ProfileSettings(metrics=KINDS))
    context = max(LENGTHS)
    rows = pl.concat(
        [
            analysis.metrics.select("run", "site", "prefix", "metric", "value"),
            analysis.spectra.unpivot(
                [name for name in METRICS if name in analysis.spectra.columns],
                index=["run", "site", "prefix"],
                variable_name="metric",
            ).select("run", "site", "prefix", "metric", "value"),
        ]
    ).filter(prefix=context)
    numbers = {(run, site, name): value for run, site, _, name, value in rows.iter_rows()}
    found = diff(a.root, "base", "tuned", metrics=KINDS)
    for name, metric in ((name, METRICS[name]) for name in KINDS):
        if metric.needs == "tokens":
            changes = {"logits": (found.predictions[name].mean, found.predictions[name].stderr)}
        else:
            changes = {"final": found.sites[-1][name][:2]}
        for site, (value, stderr) in changes.items():
            one, other = (numbers[made.run_id, site, name] for made in (a, b))
            if one is None or other is None:
                assert value is None, (name, site)
                continue
            assert value == pytest.approx(other - one, rel=1e-12, abs=1e-15), (name, site)
            assert (stderr is None) == bool(metric.no_error), (name, site)


@pytest.mark.slow
def test_a_condition_on_a_metric_decides(two: tuple[Made, Made]) -> None:
    root = two[0].root
    found = diff(root, "base", "tuned", metrics=["rsr", "stable_rank"])
    change = found.predictions["rsr"]
    assert change.mean is not None
    assert change.stderr is not None
    for name, limit, fails in (
        ("rsr", change.mean - 9 * change.stderr, True),
        ("rsr", change.mean, False),
        ("stable_rank.final", 1e9, False),
    ):
        done = invoke(root, "--fail-if", f"{name} > {limit}", "--format", "json")
        (gate,) = json.loads(done.stdout)["tables"]["gate"]
        assert (done.exit_code, gate["failed"], gate["level"]) == (int(fails), fails, 0.98)
        shown = found.sites[-1]["stable_rank"].value if "." in name else change.mean
        assert gate["value"] == shown
    verdicts = verdict(parse_condition("stable_rank > 99"), found.predictions, found.sites)
    assert verdicts.outcome == "not decided"  # errors are at final alone
    done = invoke(root, "--fail-if", "stable_rank > 99", "--fail-if", "rsr > 99", "--all")
    assert done.exit_code == 0
    assert re.search(r"not met +stable_rank > 99", done.stdout)
    words = " ".join(done.stdout.split())
    for name in ("rsr", "stable_rank"):
        assert f"Second run - first: {legend([METRICS[name]])}." in words


@pytest.mark.slow
def test_a_metric_without_an_error_is_compared_itself(two: tuple[Made, Made]) -> None:
    done = invoke(two[0].root, "--fail-if", "two_nn.final > 1e9", "--format", "json")
    (gate,) = json.loads(done.stdout)["tables"]["gate"]
    assert (done.exit_code, gate["outcome"], gate["level"]) == (0, "not met", None)
    assert gate["value"] == gate["decisive"]


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("rsrr > 1", "there is no number 'rsrr'; did you mean rsr? `lpp-analyze metrics` lists"),
        ("stable_rnk > 1", "did you mean stable_rank?"),
        ("rsr.final > 1", "there is no number 'rsr.final'"),
        ("top_share > 1", "can never be met: top_share lies between -1 and 1."),
        ("stable_rank.block.9 > 1", "block.9 is not compared"),
    ],
)
def test_a_condition_that_is_a_mistake(condition: str, told: str, two: tuple[Made, Made]) -> None:
    done = invoke(two[0].root, "--fail-if", condition)
    assert (done.exit_code, done.stdout) == (2, "")
    assert told in " ".join(done.stderr.split())


@pytest.mark.slow
def test_a_metric_of_a_users_own_file_is_known_to_a_gate(
    two: tuple[Made, Made], tmp_path: Path
) -> None:
    """The declaration of docs/how-to/metric.md, put into its tuple."""
    page = METRIC_PAGE.read_text("utf-8")
    declaration = page.partition("```python\n")[2].partition("```")[0]
    program = tmp_path / "own_metric.py"
    program.write_text(
        f"{declaration}\n"
        "from lpp.analyze.metrics import spectral\n"
        "spectral.SPECTRAL = (*spectral.SPECTRAL, second_share)\n"
        "from lpp.analyze.cli.command import main\n"
        "main()\n"
    )

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(program), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    assert "second largest lambda" in run("metrics", "second_share").stdout
    condition = ("--fail-if", "second_share.final > 0.9", "--format", "json")
    done = run("diff", str(two[0].root), "base", "tuned", *condition)
    assert done.returncode == 0, done.stderr
    (gate,) = json.loads(done.stdout)["tables"]["gate"]
    assert (gate["outcome"], gate["level"], gate["site"]) == ("not met", 0.98, "final")
    rows = [np.concatenate(made.hidden["final"]).astype(np.float64) for made in two]
    shares = [np.linalg.svd(one - one.mean(0), compute_uv=False) ** 2 for one in rows]
    first, second = (one[1] / one.sum() for one in shares)
    assert gate["value"] == pytest.approx(second - first, rel=1e-6)
