"""Which shards of a run are not what was committed, from what verification says, SPEC.md section 8.

A shard is computed again as a whole: it is the smallest thing that one record covers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.keys import SHARDS_KEY, shard_key
from lpp.store.format.plan import Plan
from lpp.store.format.record import CommitRecord, read_commit
from lpp.store.objects.place import Place
from lpp.store.verify import Problem, verify_run

_SHARD: Final = re.compile(rf"{SHARDS_KEY}/([0-9]{{5,}})(?:/|$)")


@dataclass(frozen=True, kw_only=True)
class Damage:
    """What is wrong with a run, by what would help."""

    shards: Mapping[int, tuple[Problem, ...]]
    """Shards that are there and not right: altered, incomplete, another's, with strangers."""
    missing: tuple[int, ...]
    """Shards of which there is nothing at all: never captured, or removed whole."""
    beyond: tuple[Problem, ...]
    """What computing shards again does not help: plan, prompts, the run's record, strangers among
    the shards, shards of a newer release."""

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong with what is there."""
        return not self.shards and not self.beyond


def find_damage(run: Place, plan: Plan | None) -> Damage:
    """Verify the run in the directory `run`, every byte. plan: its own; None if unreadable."""
    shards: dict[int, tuple[Problem, ...]] = {}
    missing, beyond = [], []
    for problem in verify_run(run):
        match = _SHARD.match(problem.where)
        index = int(match[1]) if match is not None else -1
        if plan is None or not 0 <= index < plan.n_shards or shard_key(index) != (match or "_")[1]:
            beyond.append(problem)
        elif not _there(run / SHARDS_KEY / shard_key(index)):
            missing.append(index)
        elif _newer(run / SHARDS_KEY / shard_key(index)):
            beyond.append(problem)
        else:
            shards[index] = (*shards.get(index, ()), problem)
    return Damage(shards=shards, missing=tuple(missing), beyond=tuple(beyond))


def records_by_shard(run: Place, plan: Plan, bad: Mapping[int, object]) -> dict[int, CommitRecord]:
    """The intact records that lie in bad shards, by the shard that each was written for.

    Two shards that changed places have each other's.
    """
    found = {}
    for index in bad:
        try:
            record = read_commit(run / SHARDS_KEY / shard_key(index))
        except (FormatError, OSError):
            continue
        if record.plan == plan.hash and record.shard is not None:
            found[record.shard] = record
    return found


def _there(shard: Place) -> bool:
    return shard.exists() or (isinstance(shard, Path) and shard.is_symlink())


def _newer(shard: Place) -> bool:
    try:
        read_commit(shard)
    except FormatError as error:
        return error.kind is ErrorKind.UNSUPPORTED_VERSION
    except OSError:
        pass
    return False
