"""The fingerprint of a run's committed shards: it stays while none is added or written again.

The table `runs` of the database keeps it. Imports no reader: `lpp-sql` compares it at each start.
"""

import json
from collections.abc import Iterable

from lpp.store.errors import FormatError
from lpp.store.format.commit_record import checksum
from lpp.store.format.keys import COMMIT_KEY, MAX_DOCUMENT_BYTES, RUNS_KEY, SHARDS_KEY
from lpp.store.objects.locate import objects_at
from lpp.store.objects.place import Place
from lpp.store.objects.protocol import Objects


def fingerprint(digests: Iterable[str]) -> str:
    """The fingerprint of shards with these digests, in order."""
    return checksum(" ".join(digests).encode())[:16]


def stated_fingerprints(root: Place) -> dict[str, str]:
    """The fingerprint of each run of the store at `root`, by id, from the digests that the records
    state: that of `Run`, unless a record is damaged, which whatever reads the shard says.
    """
    store = objects_at(root)
    runs = [store.below(f"{RUNS_KEY}/{entry.name}") for entry in store.entries(RUNS_KEY)]
    shards = [
        run.below(f"{SHARDS_KEY}/{name}")
        for run, names in zip(runs, store.map(_shards, runs), strict=True)
        for name in names
    ]
    by_run: dict[str, list[str]] = {run.place.name: [] for run in runs}
    for shard, digest in zip(shards, store.map(_digest, shards), strict=True):
        if digest:
            by_run[shard.place.parent.parent.name].append(digest)
    return {run: fingerprint(digests) for run, digests in by_run.items()}


def _shards(run: Objects) -> list[str]:
    try:
        return [entry.name for entry in run.entries(SHARDS_KEY) if entry.name.isdecimal()]
    except FormatError:  # a link, a pipe
        return []


def _digest(shard: Objects) -> str:
    """The digest that the record of a shard states; empty without one."""
    try:
        return str(json.loads(shard.get(COMMIT_KEY, MAX_DOCUMENT_BYTES))["self_xxh3_128"])
    except (FormatError, FileNotFoundError, NotADirectoryError):
        return ""
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
