"""The committed stores of every format version since 0.2.0."""

from collections.abc import Mapping
from pathlib import Path

from lpp.store import Run, open_store
from lpp.store.format.commit_record import CommitRecord

GOLDEN = Path(__file__).parents[1] / "store" / "golden"
"""Folder of the stores, by version. Those of 1 and 2 are what 0.1.0 wrote, which is refused."""

READ = tuple(GOLDEN / version for version in ("v3", "v4", "planes", "v5"))
"""The stores that are read."""

OF_3 = "model-1b-untrained-2e503a04"
"""The run with rows and moments of the store of format 3."""


def golden_3() -> Mapping[str, Run]:
    """Runs of the store of format 3, by id."""
    return open_store(GOLDEN / "v3").runs


def records_of(run: Run) -> list[CommitRecord]:
    """Records of a run and of its shards."""
    return [run.commit, *(shard.record for shard in run.shards)]
