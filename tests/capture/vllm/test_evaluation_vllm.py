"""Evaluations inside vLLM: the scores and the answers of torch."""

import json
from pathlib import Path

import numpy as np
from eval_tasks import write_task

from lpp.capture.corpus.selection import Selection
from lpp.capture.evaluation.evaluate import evaluate_into
from lpp.capture.evaluation.request import EvalRequest
from lpp.capture.models.spec import ModelSpec
from lpp.capture.plan.request import BackendName, CaptureRequest, CorpusSpec
from lpp.store import open_store, read_scores
from lpp.store.items import read_items
from lpp.store.scores import score_sets


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
    torch, vllm = tmp_path / "torch", tmp_path / "vllm"
    assert [run.plan.compute.backend for run in open_store(vllm).runs.values()] == ["vllm"] * 3
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
