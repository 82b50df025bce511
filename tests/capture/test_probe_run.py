"""The probes on the packaged model: through the command, and through lm-eval's own."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lpp.capture.models.load import ModelSpec, describe_model
from lpp.capture.probes.items import TASKS
from lpp.store import open_store, read_scores
from lpp.store.scores import score_sets

QUICK = {"OMP_NUM_THREADS": "1"}  # more of them wait for each other on a busy machine
SOURCE = "lpp-probes-1 1-shot first-5"


@pytest.fixture(scope="module")
def probed(
    packaged: Path, run_command: Any, capture_packaged: Any, tmp_path_factory: Any
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A store with a run of the packaged model and 5 items of each probe; the command's end."""
    root = tmp_path_factory.mktemp("probed") / "store"
    done = capture_packaged(root, "--prompts", 2, "--context", 20, "--sites", "final")
    assert done.returncode == 0, done.stderr
    words = ("lpp-capture", "probe", "--model", packaged, "--store", root, "--limit", 5)
    done = run_command(*words, "--shots", 1, **QUICK)
    assert done.returncode == 0, done.stderr
    return root, done


def scores(root: Path) -> dict[tuple[str, str], dict[str, Any]]:
    rows = read_scores(root).to_pylist()
    return {(row["benchmark"], row["metric"].removesuffix(",none")): row for row in rows}


def test_every_score_is_in_the_store(probed: Any) -> None:
    root, _ = probed
    rows = scores(root)
    ar = {"answer_acc", "answer_acc_plain", "ambiguity_acc", "joint_acc", "combined"}
    ar |= {"overconfidence", "underconfidence"}
    assert {metric for task, metric in rows if task == "lpp_ar_options"} == ar
    assert {metric for task, metric in rows if task == "lpp_ar_generate"} == ar | {"parsed"}
    assert {metric for task, metric in rows if task == "lpp_spc"} == {
        *("exact_match", "char_f1", "parsed")
    }
    assert {(row["source"], row["kind"]) for row in rows.values()} == {(SOURCE, "probe")}
    assert rows["lpp_ar_options", "answer_acc"]["n"] == 2
    assert rows["lpp_ar_options", "ambiguity_acc"]["n"] == 5
    assert rows["lpp_spc", "char_f1"]["n"] == 5
    assert rows["lpp_ar_options", "ambiguity_acc"]["stderr"] > 0


def test_a_model_of_135_million_parameters_knows_the_format_and_little_else(probed: Any) -> None:
    rows = scores(probed[0])
    assert rows["lpp_ar_generate", "parsed"]["value"] > 0.5
    assert 0 <= rows["lpp_ar_options", "answer_acc"]["value"] <= 0.9
    assert rows["lpp_spc", "exact_match"]["value"] < 0.5


def test_scores_belong_to_the_run_of_the_same_weights(probed: Any) -> None:
    root, _ = probed
    (run,) = open_store(root).runs
    assert {row["run"] for row in scores(root).values()} == {run}


def test_lm_eval_s_own_results_lie_beside_them(probed: Any) -> None:
    root, _ = probed
    (only,) = score_sets(root)
    found = {}
    names = [name for name in only.original() if Path(name).name.startswith("results_")]
    for name in names:
        document = json.loads(only.original()[name])
        assert document["model_name"] == "SmolLM2-135M-Instruct.Q4_1"
        assert document["n-shot"] == dict.fromkeys(document["n-shot"], 1)
        for task, metrics in document["results"].items():
            found |= {(task, k): v for k, v in metrics.items() if k.endswith(",none")}
    rows = scores(root)
    assert len(rows) == 18
    for (task, metric), row in rows.items():
        assert found[task, f"{metric},none"] == pytest.approx(row["value"])
        own = found[task, f"{metric}_stderr,none"]
        assert row["stderr"] >= own - 1e-12  # scenes are no less uncertain than items
    assert rows["lpp_spc", "char_f1"]["stderr"] == pytest.approx(
        found["lpp_spc", "char_f1_stderr,none"]
    )


def test_what_is_printed(probed: Any) -> None:
    root, done = probed
    rows = scores(root)
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    shown = {tuple(line.split()[:2]): line.split()[2:] for line in lines if line.startswith("lpp_")}
    assert {key: values[0] for key, values in shown.items()} == {
        key: f"{row['value']:.3f}" for key, row in rows.items()
    }
    assert {values[-1] for values in shown.values()} == {"2", "3", "5"}  # answerable, not, all
    assert next(iter(open_store(root).runs)) in done.stdout
    assert "Next: lpp-analyze profile" in done.stdout
    assert re.search(r"probe: 30/30 requests after \d+ s: spc", done.stderr)
    assert "it/s" not in done.stderr  # none of the libraries' own bars
    assert "Warning" not in done.stderr


def test_they_become_rows_of_benchmarks(probed: Any, run_command: Any) -> None:
    root, _ = probed
    done = run_command("lpp-analyze", "profile", root)
    assert done.returncode == 0, done.stderr
    query = (
        "SELECT count(*) AS n, count(DISTINCT benchmark) AS tasks, any_value(run) = "
        "any_value(r.run) AS same FROM benchmarks JOIN runs r USING (run) WHERE kind = 'probe'"
    )
    done = run_command("lpp-sql", root, query, "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [{"n": 18, "tasks": 3, "same": True}]


def test_the_same_again_is_refused(probed: Any, packaged: Path, run_command: Any) -> None:
    root, _ = probed
    words = ("lpp-capture", "probe", "--model", packaged, "--store", root, "--limit", 5)
    done = run_command(*words, "--shots", 1)
    assert done.returncode == 2
    assert "--replace" in done.stderr
    assert "Traceback" not in done.stderr


def test_prompts_that_do_not_fit_are_refused(
    tiny_folder: Callable[[str], Path], tmp_path: Path, run_command: Any
) -> None:
    done = run_command(
        *("lpp-capture", "probe", "--model", tiny_folder("llama"), "--store", tmp_path / "s")
    )
    assert done.returncode == 2
    assert re.search(r"10 shots takes up to \d+ tokens, and llama has \d+ positions", done.stderr)
    assert not (tmp_path / "s").exists()


def test_plain_lm_eval_runs_the_tasks(packaged: Path, tmp_path: Path) -> None:
    """As in capture/README.md: `lm_eval --include_path ... --tasks lpp_ar,lpp_spc`."""
    folder = describe_model(ModelSpec(id=str(packaged))).folder
    arguments = ["--model", "hf", "--model_args", f"pretrained={folder},dtype=bfloat16"]
    arguments += ["--device", "cpu", "--batch_size", "2", "--num_fewshot", "1", "--limit", "2"]
    arguments += ["--include_path", str(TASKS), "--tasks", "lpp_ar,lpp_spc"]
    arguments += ["--metadata", '{"item_seed": 3}', "--output_path", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **QUICK},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(path.read_text("utf-8"))["results"]
    for task in ("lpp_ar_options", "lpp_ar_generate"):
        assert 0 <= results[task]["ambiguity_acc,none"] <= 1
        assert results[task]["ambiguity_acc_stderr,none"] >= 0
    assert 0 <= results["lpp_spc"]["char_f1,none"] <= 1
