"""The committed shards of a run: found by their records, opened with checks."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.store.committed.checked import Checked, open_checked
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.commit_record import CommitRecord, ends_sealed
from lpp.store.format.keys import (
    ADVICE,
    COMMIT_KEY,
    MAX_DOCUMENT_BYTES,
    QUARANTINE_KEY,
    RUNS_KEY,
    SHARDS_KEY,
    shard_key,
)
from lpp.store.format.plan import Plan
from lpp.store.format.quarantine import QUARANTINE_SCHEMA
from lpp.store.objects.locate import objects_at
from lpp.store.objects.place import Place
from lpp.store.objects.protocol import Objects

DETAIL_BYTES: Final = 64 << 20
"""Bytes of all `detail` texts of a shard's quarantine."""


def is_run(store: Objects, name: str) -> bool:
    """Whether a directory under `runs/` is a committed run. One that is closed to this user counts:
    reading it raises PermissionError, which names it.
    """
    try:
        return store.exists(f"{RUNS_KEY}/{name}/{COMMIT_KEY}")
    except PermissionError:
        return True


class Shard(Checked[CommitRecord]):
    """A committed shard."""

    def __init__(self, directory: Objects, record: CommitRecord, plan: Plan, index: int) -> None:
        super().__init__(directory, record)
        self.index = index
        self.first_prompt, self.end_prompt = plan.shards[index : index + 2]

    @property
    def rows(self) -> int:
        """Number of tokens of its prompts."""
        return self.record.rows

    @property
    def digest(self) -> str:
        """Checksum of its record, which covers every object of the shard."""
        return self.record.self_xxh3_128

    def only(self, keys: Callable[[str], bool]) -> "Shard":
        """The same shard with a record of those objects alone, for one who keeps many shards."""
        objects = {key: value for key, value in self.record.objects.items() if keys(key)}
        trimmed = copy.copy(self)
        trimmed.__dict__["record"] = replace(self.record, objects=objects)
        return trimmed

    def quarantine(self) -> pa.Table:
        """Prompts that it sets aside, (n, 5): `QUARANTINE_SCHEMA`. Usually empty."""
        if not self.record.quarantine:
            return QUARANTINE_SCHEMA.empty_table()
        rows = self.record.quarantine
        return self.table(QUARANTINE_KEY, QUARANTINE_SCHEMA, rows=rows, extra=DETAIL_BYTES)

    def quarantined(self) -> npt.NDArray[np.int32]:
        """(n,) their ids, ascending. FormatError for ids that do not belong to this shard."""
        if not self.record.quarantine:  # most shards: a feed opens 20,000
            return np.zeros(0, np.int32)
        ids: npt.NDArray[np.int32] = self.quarantine()["prompt_id"].to_numpy()
        inside = range(self.first_prompt, self.end_prompt)
        if len(ids) and not (ids[0] in inside and ids[-1] in inside and (np.diff(ids) > 0).all()):
            raise FormatError(
                f"{self.objects.place / QUARANTINE_KEY}: prompts that are not those of the shard. "
                f"{ADVICE}",
                kind=ErrorKind.CORRUPT,
            )
        return ids


def check_tokens(shard: Shard, tokens: int) -> None:
    """FormatError(CORRUPT) unless `shard` has a row for each of the tokens of its prompts."""
    if shard.rows != tokens:
        raise FormatError(
            f"{shard.path}: {shard.rows} rows, its prompts have {tokens} tokens. "
            f"`lpp-analyze verify {shard.directory.root}` says what was altered.",
            kind=ErrorKind.CORRUPT,
        )


def run_directory(path: Place) -> Objects:
    """The objects of the run in the directory `path` of a store."""
    return objects_at(path.parent.parent).below(f"{path.parent.name}/{path.name}")


def open_shard(run: Objects, plan: Plan, index: int) -> Shard | str | None:
    """Shard `index` of `plan` in the directory `run`; a text that says why the data there is not
    that shard; or None if nothing is committed.

    FormatError(UNSUPPORTED_VERSION) for a shard of a newer release, which must not be overwritten.
    """
    directory = run.below(f"{SHARDS_KEY}/{shard_key(index)}")
    try:
        record = open_checked(directory, CommitRecord).record
    except (FileNotFoundError, NotADirectoryError):
        return None
    except FormatError as error:
        if error.kind is ErrorKind.UNSUPPORTED_VERSION:
            raise
        return str(error)
    if record.plan != plan.hash or record.shard != index:
        whose = "another run" if record.plan != plan.hash else f"shard {record.shard}"
        return f"{directory.place}: holds the record of {whose}."
    return Shard(directory, record, plan, index)


def is_whole(run: Objects, plan: Plan, index: int, tokens: int) -> bool:
    """Whether shard `index` has an intact record that sets no prompt aside; False if that is not
    seen from the bytes around the seal. `tokens`: of its prompts.

    A sixth of the time of `open_shard`, for one who asks 20,000 shards.
    """
    try:
        data = run.get(f"{SHARDS_KEY}/{shard_key(index)}/{COMMIT_KEY}", MAX_DOCUMENT_BYTES)
    except (FileNotFoundError, NotADirectoryError, FormatError):
        return False
    # keys are sorted, and `quarantine` would be between these two
    before = b'"plan":"%s","rows":%d,' % (plan.hash.encode(), tokens)
    return ends_sealed(data, before, b'"shard":%d}' % index)
