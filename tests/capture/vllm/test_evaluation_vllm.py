"""Evaluations inside vLLM: the scores and the answers of torch, and a command that was killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from eval_tasks import write_task

from lpp.capture.cli.command import main
from lpp.capture.corpus.selection import Selection
from lpp.capture.evaluation.evaluate import evaluate_into
from lpp.capture.evaluation.request import EvalRequest
from lpp.capture.models.spec import ModelSpec
from lpp.capture.plan.request import BackendName, CaptureRequest, CorpusSpec
from lpp.store import open_store, read_scores
from lpp.store.scores.items import read_items
from lpp.store.scores.scores import score_sets


def evaluated(root: Path, model: Path, tasks: Path, backend: BackendName) -> None:
    capture = CaptureRequest(
        model=ModelSpec(id=str(model), dtype="float32"),
        corpus=CorpusSpec(name="lm-eval"),
        selection=Selection(prompts=1, min_bytes=0),
        sites=("final",),
        backend=backend,
    )
    evaluate_into(root, EvalRequest(capture=capture, tasks=(str(tasks),), context=48))


def test_evaluations_score_alike_in_both_backends(packaged: Path, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for kind in ("multiple_choice", "loglikelihood_rolling", "generate_until"):
        write_task(tasks, kind, items=3)
    for backend in ("torch", "vllm"):
        evaluated(tmp_path / backend, packaged, tasks, backend)
    agree(tmp_path / "vllm", tmp_path / "torch", tasks=3)


def agree(vllm: Path, torch: Path, *, tasks: int) -> None:
    """Two stores with the same scores, answers and log-likelihoods, but for rounding."""
    assert [run.plan.compute.backend for run in open_store(vllm).runs.values()] == ["vllm"] * tasks
    ours, theirs = (read_scores(root).to_pylist() for root in (vllm, torch))
    assert [(row["benchmark"], row["metric"]) for row in ours] == [
        (row["benchmark"], row["metric"]) for row in theirs
    ]
    assert np.allclose([r["value"] for r in ours], [r["value"] for r in theirs], rtol=1e-4)
    mine, others = (read_items(root).to_pylist() for root in (vllm, torch))
    for one, other in zip(mine, others, strict=True):
        assert one["prompt_ids"] == other["prompt_ids"]
        assert np.allclose(one["log_likelihoods"], other["log_likelihoods"], atol=2e-3)
    assert responses(vllm) == responses(torch)


def responses(root: Path) -> list[object]:
    """What the model wrote, item by item."""
    logs = [
        data.decode()
        for found in score_sets(root)
        for name, data in found.original().items()
        if "samples_tiny_gen" in name
    ]
    return [json.loads(line)["resps"] for log in logs for line in log.splitlines()]


def test_a_killed_command_resumes_and_a_finished_one_starts_no_engine(
    wide_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    model, tasks = tmp_path / "model", tmp_path / "tasks"
    shutil.copytree(wide_folder("qwen2"), model)
    tasks.mkdir()
    for kind in ("multiple_choice", "generate_until"):
        write_task(tasks, kind, items=4)
    names = f"{tasks / 'tiny_mc.yaml'},{tasks / 'tiny_gen.yaml'}"

    def words(backend: str) -> list[str]:
        asked = ["eval", "--model", str(model), "--tasks", names, "--backend", backend]
        asked += ["--store", str(tmp_path / backend), "--dtype", "float32", "--context", "48"]
        return [*asked, "--sites", "final"]

    def commits() -> dict[str, bytes]:
        found = (tmp_path / "vllm").glob("runs/*/shards/*/COMMIT.json")
        return {str(path): path.read_bytes() for path in found}

    command = [str(Path(sys.executable).with_name("lpp-capture")), *words("vllm")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not commits() and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == -signal.SIGKILL, said
    kept = commits()
    assert len(kept) == 1  # the shard of the first of two tasks

    resumed = CliRunner().invoke(main, words("vllm"))
    assert resumed.exit_code == 0, resumed.output
    assert {path: data for path, data in commits().items() if path in kept} == kept
    assert CliRunner().invoke(main, words("torch")).exit_code == 0
    agree(tmp_path / "vllm", tmp_path / "torch", tasks=2)

    scores, items = read_scores(tmp_path / "vllm"), read_items(tmp_path / "vllm")
    for file in model.glob("*.safetensors"):  # weights of this size and time that do not load
        found = file.stat()
        file.write_bytes(bytes(found.st_size))
        os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    again = CliRunner().invoke(main, words("vllm"))
    assert again.exit_code == 0, again.output
    assert " ".join(again.stderr.split()).count("was complete already") == 2
    assert read_scores(tmp_path / "vllm").equals(scores)
    assert read_items(tmp_path / "vllm").equals(items)
