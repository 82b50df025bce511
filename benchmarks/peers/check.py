"""Whether the sides of a task compute the same: a side that computes another thing is no peer."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.peers.outputs import (
    ENTROPY,
    read_batches,
    read_profile,
    read_store,
    relative_distances,
)
from benchmarks.peers.sides import REFERENCE, SIDES
from benchmarks.peers.work import Work

LIMITS: Final = {"rows": 0.1, "entropy": 0.1, "profile": 0.02}
"""Most that a side may differ by. rows: ||a - b|| / ||b|| of a token, on average, at the worst
site. entropy: mean difference of a token, in nats. profile: of any number, a share from 0 to 1.

They leave room for what another attention kernel (0.014 and 0.04 nats) or another batch (0.006 of a
profile) changes in bfloat16. Rows of two neighbouring sites of the packaged model are 0.2 apart or
more, entropies of neighbouring tokens 1.5 nats."""

Numbers = dict[str, npt.NDArray[Any]]


def differences(work: Work, outputs: dict[str, Path]) -> dict[str, dict[str, float]]:
    """How far each side is from the reference of its task, by the names of `LIMITS`.

    outputs: the folder of each side; the references are among them. Sides that keep nothing are
    left out.
    """
    read = {name: _read(name, out, work) for name, out in outputs.items() if SIDES[name].keeps}
    found = {}
    for name, ours in read.items():
        task = SIDES[name].task
        reference = read[REFERENCE[task]]
        if task == "profile":
            worst = max(float(np.abs(ours[key] - reference[key]).max()) for key in reference)
            found[name] = {"profile": worst}
        else:
            tokens = float(np.abs(ours[ENTROPY] - reference[ENTROPY]).mean())
            rows = max(relative_distances(ours, reference).values())
            found[name] = {"rows": rows, "entropy": tokens}
    return found


def problems(found: dict[str, dict[str, float]]) -> Iterable[str]:
    """Every difference beyond its limit."""
    for name, measured in found.items():
        for kind, value in measured.items():
            if not value <= LIMITS[kind]:  # NaN is a problem, too
                yield f"{name}: {kind} differ by {value:.3g}, should be at most {LIMITS[kind]}"


def _read(name: str, out: Path, work: Work) -> Numbers:
    if SIDES[name].task == "profile":
        return dict(read_profile(out))
    return dict(read_store(out) if name == "lpp-capture" else read_batches(out, work))
