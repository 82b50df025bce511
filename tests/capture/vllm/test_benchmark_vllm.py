"""The benchmark against vLLM alone runs, once and untimed, so that it cannot rot."""

import pytest

from benchmarks import vllm_cost


def test_every_side_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_cost, "REPEATS", 1)
    rows = list(vllm_cost.measure(prompts=4))
    assert len(rows) == 4
    assert all(row.ratio > 0 for row in rows)
