"""What an export takes of a run: where it has no loss mask, the tokens that the model wrote."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_capture import make_capture
from written_run import write_run

from lpp.store.errors import InputError
from lpp.store.exchange.export import export
from lpp.store.exchange.selection import Exported
from lpp.store.format.plan import SiteSpec


@pytest.mark.parametrize("given", [[2, 2, 2], []])
def test_the_loss_mask_is_of_written_tokens(tmp_path: Path, given: list[int]) -> None:
    lengths = (3, 4, 4)
    run = write_run(tmp_path / "store", shards=[lengths[:2], lengths[2:]], given=given).run
    selection = Exported(run=run, sites=("final",))
    mask = [value for part in selection.parts() for value in part.loss_mask.tolist()]
    first = given or [0, 0, 0]
    assert mask == [t >= g for n, g in zip(lengths, first, strict=True) for t in range(n)]


def test_the_loss_mask_is_without_prompts_set_aside(tmp_path: Path) -> None:
    made = write_run(tmp_path / "store", shards=[[3, 4], [4]], given=[2, 2, 2], quarantined=[1])
    (part,) = Exported(run=made.run, sites=("final",)).parts()
    assert part.loss_mask.tolist() == [False, False, True, False, False, True, True]


def test_speculators_take_rows_of_one_type(tmp_path: Path) -> None:
    """Its files have one: the bits of one site would be read as numbers of another type."""
    hidden: dict[str, np.ndarray] = {
        "embed": np.ones((21, 4), np.uint16),
        "block.1": np.ones((21, 4), np.float32),
    }
    sites = (
        SiteSpec(name="embed", convention="residual", width=4),
        SiteSpec(name="block.1", convention="residual", width=4, dtype="float32"),
    )
    capture = make_capture(hidden=hidden)
    run = replace(capture, plan=replace(capture.plan, sites=sites)).write(tmp_path / "store")
    with pytest.raises(InputError, match=r"embed is bfloat16, block.1 is float32"):
        export(run, "speculators", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export(run, "speculators", tmp_path / "out", sites=["block.1"])
    export(run, "safetensors", tmp_path / "each")
