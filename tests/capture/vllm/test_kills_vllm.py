"""kill -9 inside vLLM, as `tests/capture/test_kills.py` does without: the bits of one undisturbed.

A child needs seconds for an engine of its own, so a few kills run always and many upon request.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from killer import kill_often


@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.soak)])
def test_killed_and_resumed(kills: int, wide_folder: Callable[[str], Path], tmp_path: Path) -> None:
    told = kill_often("vllm", tmp_path / "vllm", wide_folder("qwen2"), kills, seed=9)
    print(told)
    assert told["inside"] >= 0.5 * kills
