"""kill -9 inside vLLM, as `tests/capture/test_kills.py` does without: the bits of one undisturbed.

A child needs seconds for an engine of its own, so these run upon request (`make soak-vllm`); one
kill of the command runs always, in `test_commands_vllm.py`.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from killer import kill_often


@pytest.mark.soak
def test_killed_and_resumed(wide_folder: Callable[[str], Path], tmp_path: Path) -> None:
    told = kill_often("vllm", tmp_path / "vllm", wide_folder("qwen2"), kills=40, seed=9)
    print(told)
    assert told["inside"] >= 20
