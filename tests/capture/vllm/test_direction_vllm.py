"""An exported direction inside vLLM."""

from pathlib import Path

from direction_contract import check_program


def test_a_direction_gives_the_scores_of_the_store(tmp_path: Path) -> None:
    check_program(tmp_path, "vllm", 5e-3)  # its kernels round otherwise
