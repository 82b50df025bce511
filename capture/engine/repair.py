"""Compute again the shards of a run that differ from what was committed, and no others.

The run itself has the inputs: its plan has the settings, its prompts the token ids. So no corpus is
needed, only the same model and releases. Anything else would give other numbers under the same
plan, and is refused.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import pyarrow as pa

from lpp.capture.backends.open import open_backend
from lpp.capture.engine.capture import capture_run
from lpp.capture.engine.stopping import stoppable
from lpp.capture.plan.backend import Backend
from lpp.capture.plan.batches import tokens_of
from lpp.capture.plan.from_plan import RepairOptions, check_same, request_of_plan
from lpp.store import Run, RunWriter
from lpp.store.arrays.metadata import METADATA_KEY
from lpp.store.errors import ErrorKind, InputError, LppError
from lpp.store.format.commit_record import CommitRecord
from lpp.store.format.keys import SHARDS_KEY
from lpp.store.format.plan import Plan
from lpp.store.format.prompt_columns import BRANCH_COLUMNS, CONTINUATION_COLUMNS
from lpp.store.process.debugging import debugging
from lpp.store.progress import BLANK, Display
from lpp.store.runs.heartbeat import at_work
from lpp.store.runs.repair import Damage, find_damage, records_by_shard


@dataclass(frozen=True, kw_only=True)
class Repair:
    """The result for one run."""

    run: str
    damage: Damage
    repaired: Mapping[int, str]
    """Shard -> how it compares with what was committed there."""
    reason: str = ""
    """Why some shards were not repaired; empty if all were."""

    @property
    def whole(self) -> bool:
        """Whether no damage is left."""
        return not self.reason and not self.damage.beyond and not self.left

    @property
    def left(self) -> list[int]:
        """Shards that are still bad."""
        return [index for index in self.damage.shards if index not in self.repaired]


def look_at(run: Run) -> tuple[Damage, Plan | None]:
    """Verify every byte of `run`; also returns its plan if that is readable."""
    try:
        plan = run.plan
    except (LppError, OSError):
        plan = None
    return find_damage(run.path, plan), plan


def repair_run(
    run: Run, damage: Damage, options: RepairOptions, display: Display = BLANK
) -> Repair:
    """Compute the bad shards of `run` again.

    Raises nothing for the content of the store or for a model that is not the plan's:
    `Repair.reason` says it.
    """
    todo = sorted({*damage.shards, *(damage.missing if options.missing else ())})
    repaired: dict[int, str] = {}
    reason = ""
    if todo:
        try:
            reason = _repair(run, damage, todo, options, repaired=repaired, display=display)
        except LppError as error:
            reason = str(error)
    return Repair(run=run.id, damage=damage, repaired=repaired, reason=reason)


def _repair(
    run: Run,
    damage: Damage,
    todo: Sequence[int],
    options: RepairOptions,
    *,
    repaired: dict[int, str],
    display: Display,
) -> str:
    plan, prompts = run.plan, _prompts(run)
    records = records_by_shard(run.path, plan, damage.shards)
    request = request_of_plan(plan, options)
    with display.step("prepare", 1, "model") as bar:
        backend = open_backend(request, progress=bar, quiet=not debugging())
        bar.advance()
    with closing(backend):
        check_same(plan, request, backend)
        writer = RunWriter(run.path.parent.parent, plan, prompts, replacing=[*damage.shards])
        try:
            return _capture(writer, prompts, backend, todo, display)
        finally:
            # and those that another process computed meanwhile
            for index in sorted(writer.written | writer.lost_race):
                shard = writer.run.shard(index)
                if shard is not None:
                    repaired[index] = what_changed(records.get(index), shard.record)


def _capture(
    writer: RunWriter,
    prompts: pa.Table,
    backend: Backend,
    todo: Sequence[int],
    display: Display,
) -> str:
    """Run the shards `todo`; returns why some were not run, or ""."""
    plan = writer.run.plan
    tokens = tokens_of(plan, prompts["n_tokens"].to_numpy(), todo)
    sign = at_work(writer.run.path / SHARDS_KEY, "repair")
    step = display.step("repair", tokens, "tokens")
    with stoppable(plan.n_shards, display=display) as stop, sign, step as progress:
        done = capture_run(plan, prompts, writer, backend, progress, shards=todo, stop=stop)
    return "" if done == len(todo) else f"stopped as asked after {done} of {len(todo)} shards"


def _prompts(run: Run) -> pa.Table:
    """The token ids that the model got; without them nothing can be computed again."""
    try:
        continued = CONTINUATION_COLUMNS if run.plan.continuation is not None else ()
        branches = BRANCH_COLUMNS if run.plan.prompts.branches is not None else ()
        return run.prompts(*continued, *branches)
    except LppError as error:
        raise InputError(
            f"{error} Its shards cannot be computed again without their prompts: repeat the "
            "`lpp-capture run` command that made it, which writes them again.",
            kind=ErrorKind.CORRUPT,
        ) from None


def what_changed(before: CommitRecord | None, now: CommitRecord) -> str:
    """Whether the rows and tables of a shard equal those in its earlier record."""
    if before is None:
        return "computed again; its record was lost, so there is nothing to compare with"
    differ = sorted(
        key
        for key in {*before.objects, *now.objects}
        if before.objects.get(key) != now.objects.get(key)
    )
    otherwise = tuple(
        key.removesuffix(METADATA_KEY) for key in differ if key.endswith(f"/{METADATA_KEY}")
    )
    differ = [key for key in differ if not key.startswith(otherwise)]
    if otherwise and not differ:
        return (
            "computed again: tables byte for byte what was committed; rows are packed by another "
            "release, so their bytes cannot be compared"
        )
    if not differ:
        return "computed again, byte for byte what was committed"
    more = f" and {len(differ) - 1} more" if len(differ) > 1 else ""
    return f"computed again, not byte for byte what was committed: {differ[0]}{more}"
