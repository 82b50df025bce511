"""An exported direction in a hook of TransformerLens."""

from pathlib import Path

from direction_contract import check_program


def test_a_direction_gives_the_scores_of_the_store(tmp_path: Path) -> None:
    check_program(tmp_path, "transformer_lens", 0.05)  # attention in another order
