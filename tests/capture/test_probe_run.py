"""The synthetic tasks on the packaged model: through the command, and through lm-eval's own."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lpp.capture.cli.command import main
from lpp.capture.models.load import describe_model
from lpp.capture.models.spec import ModelSpec
from lpp.capture.synthetic.items import TASKS
from lpp.capture.synthetic.scoring import parse_line
from lpp.sql import connect
from lpp.store import open_store, read_scores
from lpp.store.scores.items import read_items
from lpp.store.scores.scores import score_sets, verify_scores

QUICK = {"OMP_NUM_THREADS": "1"}  # more of them wait for each other on a busy machine
LIMIT = 4
OPTIONS = ("--limit", LIMIT, "--shots", 1, "--dtype", "float32")
SOURCE = f"lpp-probes-1 1-shot first-{LIMIT}"
AR = {"answer_acc", "answer_acc_plain", "ambiguity_acc", "joint_acc", "combined"} | {
    *("overconfidence", "underconfidence")
}


def probe(model: Path, root: Path, *extra: object) -> Result:
    words = ["eval", "--model", model, "--store", root, "--sites", "final", *extra]
    words += ["--tasks", "lpp_ar,lpp_spc"]
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def probed(
    packaged: Path, capture_packaged: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Result]:
    """A store with a run of the packaged model and some items of each probe; the command's end."""
    root = tmp_path_factory.mktemp("probed") / "store"
    done = capture_packaged(
        root, "--prompts", 2, "--context", 20, "--sites", "final", "--dtype", "float32"
    )
    assert done.returncode == 0, done.stderr
    result = probe(packaged, root, *OPTIONS)
    assert result.exit_code == 0, result.output
    return root, result


@pytest.fixture(scope="module")
def by_lm_eval(packaged: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same items asked by plain lm-eval, as in synthetic-tasks.md: its result file."""
    out = tmp_path_factory.mktemp("plain")
    folder = describe_model(ModelSpec(id=str(packaged))).folder
    arguments = ["--model", "hf", "--model_args", f"pretrained={folder},dtype=float32"]
    arguments += ["--device", "cpu", "--batch_size", "4", "--num_fewshot", "1"]
    arguments += ["--limit", str(LIMIT)]
    arguments += ["--include_path", str(TASKS), "--tasks", "lpp_ar,lpp_spc"]
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *arguments, "--output_path", str(out)],
        capture_output=True,
        text=True,
        check=False,
        cwd=out,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **QUICK},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = out.rglob("results_*.json")
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def scores(root: Path) -> dict[tuple[str, str], dict[str, Any]]:
    rows = read_scores(root).to_pylist()
    return {(row["benchmark"], row["metric"].removesuffix(",none")): row for row in rows}


def test_every_score_is_in_the_store(probed: tuple[Path, Result]) -> None:
    root, _ = probed
    rows = scores(root)
    assert {metric for task, metric in rows if task == "lpp_ar_options"} == AR
    assert {metric for task, metric in rows if task == "lpp_ar_generate"} == AR | {"parsed"}
    assert {metric for task, metric in rows if task == "lpp_spc"} == {
        *("exact_match", "char_f1", "parsed")
    }
    assert {(row["source"], row["kind"]) for row in rows.values()} == {(SOURCE, "probe")}
    assert rows["lpp_ar_options", "answer_acc"]["n"] == LIMIT / 2
    assert rows["lpp_ar_options", "ambiguity_acc"]["n"] == LIMIT
    assert rows["lpp_spc", "char_f1"]["n"] == LIMIT
    assert verify_scores(root) == []


def test_scores_are_those_of_plain_lm_eval(
    probed: tuple[Path, Result], by_lm_eval: dict[str, Any]
) -> None:
    theirs = {
        (task, name.removesuffix(",none")): value
        for task, entry in by_lm_eval["results"].items()
        for name, value in entry.items()
        if name.endswith(",none")
    }
    rows = scores(probed[0])
    assert len(rows) == 18
    for (task, metric), row in rows.items():
        assert row["value"] == pytest.approx(theirs[task, metric], rel=1e-12), (task, metric)
        own = theirs[task, f"{metric}_stderr"]
        assert row["stderr"] >= own - 1e-12  # scenes are no less uncertain than items
    assert rows["lpp_spc", "char_f1"]["stderr"] == pytest.approx(
        theirs["lpp_spc", "char_f1_stderr"]
    )


def test_scores_belong_to_the_run_of_a_corpus_and_items_to_their_own(
    probed: tuple[Path, Result],
) -> None:
    root, _ = probed
    runs = open_store(root).runs
    (corpus,) = (run.id for run in runs.values() if run.plan.corpus.name == "pydoc")
    assert {row["run"] for row in scores(root).values()} == {corpus}
    of_task = {run.plan.corpus.name: run for run in runs.values()}
    items = read_items(root).to_pylist()
    assert len(items) == 3 * LIMIT
    for row in items:
        assert row["run"] == of_task[row["task"]].id
        assert [site.name for site in of_task[row["task"]].plan.sites] == ["final"]


def test_items_say_what_was_right(probed: tuple[Path, Result]) -> None:
    """Of each task by a rule of its own, and again from what the model wrote."""
    root, _ = probed
    documents = {
        (line["doc"]["answer"], line["doc"]["ambiguous"], line["doc_id"]): line["filtered_resps"][0]
        for found in score_sets(root)
        for name, data in found.original().items()
        if "samples_lpp_ar_generate" in name
        for line in map(json.loads, data.decode().splitlines())
    }
    rows = read_items(root).to_pylist()
    right = {(row["task"], row["item"]): row["correct"] for row in rows}
    for (answer, ambiguous, item), response in documents.items():
        verdict = parse_line(response)
        said = verdict is not None and (verdict.answer, verdict.ambiguous) == (answer, ambiguous)
        assert right["lpp_ar_generate", item] == said
    for row in rows:
        metrics = json.loads(row["metrics"])
        if row["task"] == "lpp_spc":
            assert row["correct"] == (metrics["exact_match"] == 1)
        if row["task"] == "lpp_ar_options":
            assert row["correct"] == (row["gold"] == row["chosen"])
    groups = {row["item_group"] for row in rows if row["task"] == "lpp_spc"}
    assert groups <= {"periodic", "alternating", "mirror", "brackets", "increment"}
    assert len(groups) == LIMIT


def test_the_same_again_asks_nothing(probed: tuple[Path, Result], packaged: Path) -> None:
    root, _ = probed
    sets = [found.path.name for found in score_sets(root)]
    again = probe(packaged, root, *OPTIONS)
    assert again.exit_code == 0, again.output
    assert " ".join(again.stderr.split()).count("was complete already") == 3
    assert [found.path.name for found in score_sets(root)] == sets


def test_scores_and_items_are_tables(probed: tuple[Path, Result], run_command: Any) -> None:
    root, _ = probed
    done = run_command("lpp-analyze", "profile", root)
    assert done.returncode == 0, done.stderr
    with connect(root) as connection:
        query = (
            "SELECT count(*), count(DISTINCT benchmark), bool_and(corpus = 'pydoc') "
            "FROM benchmarks JOIN runs USING (run) WHERE kind = 'probe'"
        )
        assert connection.sql(query).fetchall() == [(18, 3, True)]
        query = "SELECT task, avg(correct::INT) FROM items GROUP BY task"
        found = dict(connection.sql(query).fetchall())
    rows = scores(root)
    assert found["lpp_spc"] == rows["lpp_spc", "exact_match"]["value"]
    assert found["lpp_ar_generate"] == rows["lpp_ar_generate", "joint_acc"]["value"]


@pytest.mark.slow
def test_prompts_that_do_not_fit_are_refused(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    done = probe(tiny_folder("llama"), tmp_path / "s", "--limit", 2)
    assert done.exit_code == 2
    assert re.search(r"lpp_ar_options: a prompt takes up to \d+ tokens.* 96", done.stderr)
    assert "--shots 2" in done.stderr
    assert not (tmp_path / "s").exists()
