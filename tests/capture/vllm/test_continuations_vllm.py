"""Continuations inside vLLM as a user has them: resumed, compared with torch, captured by both."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lpp.store import Run, open_store
from lpp.store.runs.replay import replay

TEXTS = "\n\n".join(f"{n} dogs and a fox " * (1 + n % 4) for n in range(70))


@pytest.fixture
def capture(
    wide_folder: Callable[[str], Path],
    tmp_path: Path,
    run_command: Callable[..., subprocess.CompletedProcess[str]],
) -> Callable[..., Run]:
    """`capture("vllm")`: 70 prompts, two blocks, continued and captured into a store of its own."""
    (tmp_path / "texts.txt").write_text(TEXTS)

    def run(backend: str, *extra: str, store: str = "store") -> Run:
        done = run_command(
            *("lpp-capture", "run"),
            *("--model", wide_folder("qwen2"), "--corpus", tmp_path / "texts.txt"),
            *("--store", tmp_path / store, "--backend", backend, "--sites", "final"),
            *("--prompts", 70, "--min-bytes", 0, "--context", 16, "--continue", 6),
            *extra,
        )
        assert done.returncode == 0, done.stderr
        (found,) = open_store(tmp_path / store).runs.values()
        assert found.verify() == []
        return found

    return run


def written(run: Run) -> list[list[int]]:
    prompts = run.prompts("n_given").to_pylist()
    return [prompt["token_ids"][prompt["n_given"] :] for prompt in prompts]


def test_the_most_likely_tokens_are_those_of_torch(capture: Callable[..., Run]) -> None:
    runs = [capture(backend, store=backend) for backend in ("vllm", "torch", "vllm+torch")]
    assert written(runs[0]) == written(runs[1]) == written(runs[2])
    for run in runs:
        found = replay(run)
        assert found is not None
        assert found.tokens == found.most_likely == sum(map(len, written(run)))
        assert found.largest < 1e-3


def test_a_drawn_continuation_is_resumed(capture: Callable[..., Run], tmp_path: Path) -> None:
    first = capture("vllm", "--temperature", "0.8")
    store = tmp_path / "store"
    kept = written(first)
    shutil.rmtree(store / "runs")
    shutil.rmtree(store / "requests")
    (last,) = store.glob("continuations/*-00064")  # as if it had been killed in the second block
    shutil.rmtree(last)
    again = capture("vllm", "--temperature", "0.8")
    assert written(again) == kept
    found = replay(again)
    assert found is not None
    assert found.largest < 1e-3
    assert found.most_likely < found.tokens
