"""An exported direction in a plain hook of torch."""

from pathlib import Path

import pytest
from direction_contract import check_program


@pytest.mark.slow
def test_a_direction_gives_the_scores_of_the_store(tmp_path: Path) -> None:
    check_program(tmp_path, "transformers", 1e-3)  # rounding
