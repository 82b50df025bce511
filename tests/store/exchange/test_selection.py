"""What an export takes of a run: where it has no loss mask, the tokens that the model wrote."""

from pathlib import Path

import pytest
from written_run import write_run

from lpp.store.exchange.selection import Selection


@pytest.mark.parametrize("given", [[2, 2, 2], []])
def test_the_loss_mask_is_of_written_tokens(tmp_path: Path, given: list[int]) -> None:
    lengths = (3, 4, 4)
    run = write_run(tmp_path / "store", shards=[lengths[:2], lengths[2:]], given=given).run
    selection = Selection(run=run, sites=("final",))
    mask = [value for part in selection.parts() for value in part.loss_mask.tolist()]
    first = given or [0, 0, 0]
    assert mask == [t >= g for n, g in zip(lengths, first, strict=True) for t in range(n)]


def test_the_loss_mask_is_without_prompts_set_aside(tmp_path: Path) -> None:
    made = write_run(tmp_path / "store", shards=[[3, 4], [4]], given=[2, 2, 2], quarantined=[1])
    (part,) = Selection(run=made.run, sites=("final",)).parts()
    assert part.loss_mask.tolist() == [False, False, True, False, False, True, True]
