"""The fingerprint of a run's committed shards: it stays while none is added or written again.

The table `runs` of the database keeps it. Imports no reader: `lpp-sql` compares it at each start.
"""

import json
from collections.abc import Iterable
from itertools import chain, islice

from lpp.store.errors import FormatError
from lpp.store.format.commit_record import SEAL, checksum
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
    runs = [entry.name for entry in store.entries(RUNS_KEY)]
    shards = store.map(lambda run: _shards(store, f"{RUNS_KEY}/{run}/{SHARDS_KEY}"), runs)
    digests = iter(store.map(lambda key: _digest(store, key), chain(*shards)))
    by_run = {run: islice(digests, len(keys)) for run, keys in zip(runs, shards, strict=True)}
    return {run: fingerprint(filter(None, stated)) for run, stated in by_run.items()}


def _shards(store: Objects, folder: str) -> list[str]:
    try:
        names = [entry.name for entry in store.entries(folder)]
    except FormatError:  # a link, a pipe
        return []
    return [f"{folder}/{name}/{COMMIT_KEY}" for name in names if name.isdecimal()]


def _digest(store: Objects, key: str) -> str:
    """The digest that the record of a shard states; empty without one."""
    try:
        data = store.get(key, MAX_DOCUMENT_BYTES)
        before, _, seal = data.rpartition(b'"%s":"' % SEAL.encode())
        if checksum(before + seal[34:]).encode() == seal[:32]:  # intact: not parsed
            return seal[:32].decode()
        return str(json.loads(data)[SEAL])
    except (FormatError, FileNotFoundError, NotADirectoryError):
        return ""
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
