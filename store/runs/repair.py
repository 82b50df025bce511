"""Which shards of a run differ from what was committed, by verification, SPEC.md section 8.

A shard is computed again as a whole: it is the smallest unit that one record covers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from lpp.store.committed.checked import holds_more_than_attempts, is_unsupported, open_checked
from lpp.store.committed.compare import Problem
from lpp.store.errors import FormatError, MachineError
from lpp.store.format.commit_record import CommitRecord
from lpp.store.format.keys import SHARDS_KEY, shard_key
from lpp.store.format.plan import Plan
from lpp.store.objects.place import Place
from lpp.store.objects.protocol import Objects
from lpp.store.runs.shards import run_directory
from lpp.store.runs.verify import verify_run

_SHARD: Final = re.compile(rf"{SHARDS_KEY}/([0-9]{{5,}})(?:/|$)")


@dataclass(frozen=True, kw_only=True)
class Damage:
    """The problems of a run, grouped by what would repair them."""

    shards: Mapping[int, tuple[Problem, ...]]
    """Shards that exist and are wrong: altered, incomplete, of another run or index, or with
    unexpected objects."""
    missing: tuple[int, ...]
    """Shards that do not exist: never captured, or removed whole."""
    beyond: tuple[Problem, ...]
    """Problems that computing shards again cannot repair: plan, prompts, the run's record,
    unexpected entries among the shards, shards of another format."""

    @property
    def whole(self) -> bool:
        """Whether nothing that exists is wrong."""
        return not self.shards and not self.beyond


def find_damage(path: Place, plan: Plan | None) -> Damage:
    """Verify the run in the directory `path`, every byte. plan: its own; None if unreadable."""
    run = run_directory(path)
    shards: dict[int, tuple[Problem, ...]] = {}
    missing, beyond = [], []
    for problem in verify_run(path):
        match = _SHARD.match(problem.where)
        index = int(match[1]) if match is not None else -1
        if plan is None or not 0 <= index < plan.n_shards or shard_key(index) != (match or "_")[1]:
            beyond.append(problem)
            continue
        shard = run.below(f"{SHARDS_KEY}/{shard_key(index)}")
        if not _there(shard):
            missing.append(index)
        elif is_unsupported(shard, CommitRecord):
            beyond.append(problem)
        else:
            shards[index] = (*shards.get(index, ()), problem)
    return Damage(shards=shards, missing=tuple(missing), beyond=tuple(beyond))


def records_by_shard(path: Place, plan: Plan, bad: Mapping[int, object]) -> dict[int, CommitRecord]:
    """The intact records that lie in bad shards, by the shard that each was written for.

    Two shards that changed places have each other's.
    """
    run, records = run_directory(path), {}
    for index in bad:
        try:
            record = open_checked(
                run.below(f"{SHARDS_KEY}/{shard_key(index)}"), CommitRecord
            ).record
        except MachineError:
            raise
        except (FormatError, OSError):
            continue
        if record.plan == plan.hash and record.shard is not None:
            records[record.shard] = record
    return records


def _there(shard: Objects) -> bool:
    try:
        return holds_more_than_attempts(shard)
    except FormatError:  # a link
        return True
