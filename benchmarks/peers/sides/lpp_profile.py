"""Ours: `final` alone, captured at the positions of the schedule, then analysed."""

from pathlib import Path

from benchmarks.paper_procedure import one_pass
from benchmarks.peers.outputs import save_profile
from benchmarks.peers.sides import Run
from benchmarks.peers.sides.lpp_capture import loaded_plan
from benchmarks.peers.work import Work


def load(work: Work) -> Run:
    """Choose and tokenise the prompts, load the model."""
    ready = loaded_plan(work, sites=("final",), logit_positions="schedule")

    def run(out: Path) -> None:
        out.mkdir()
        save_profile(out, one_pass(ready, out / "store"))

    return run
