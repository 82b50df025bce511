"""The benchmark against vLLM alone runs, once and untimed, so that it cannot rot."""

import pytest

from benchmarks import vllm_cost


def test_every_side_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_cost, "REPEATS", 1)
    rows = list(vllm_cost.measure(prompts=4))
    assert [row.bar for row in rows] == [1.15, 1.15, 1.0, 1.3]
