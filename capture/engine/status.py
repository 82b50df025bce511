"""Progress and writers of the runs of a store, read from the store alone.

So any machine that reaches the store can show them. Committed shards and the times of their records
give progress and rate; heartbeats (`lpp.store.runs.heartbeat`) give the writers. Imports no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from lpp.capture.plan.parts import parse_part
from lpp.sql.database.connect import recorded_in
from lpp.store import Run, Store
from lpp.store.errors import InputError, LppError
from lpp.store.format.commit_record import CommitRecord
from lpp.store.format.keys import COMMIT_KEY, SHARDS_KEY, shard_key
from lpp.store.format.plan import Series
from lpp.store.format.quarantine import NOTHING, QuarantineSummary
from lpp.store.objects.protocol import Objects
from lpp.store.runs.heartbeat import Writer, writers
from lpp.store.store import LOST

State = Literal["complete", "running", "stopped", "unreadable"]
"""complete: every shard is committed. running: a writer has a recent heartbeat. stopped: no writer
has one. unreadable: its plan is damaged, or of a newer release, or its record is lost."""

PART_PREFIX: Final = "part "
"""Beginning of the text of a capture's heartbeat, which names its part: `part 2/8`."""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """Progress of one run."""

    run: str
    state: State
    shards: int = 0
    """Number of shards of the complete run."""
    shards_done: int = 0
    prompts: int = 0
    prompts_done: int = 0
    tokens: int = 0
    tokens_done: int = 0
    bytes: int = 0
    """Bytes on disk, from the records of committed shards."""
    tokens_per_second: float | None = None
    """Rate of all writers since the first living one started. Without living writers, from the
    first record to the last, pauses included. None before the first shard."""
    seconds_left: float | None = None
    """Time for the shards of living writers at that rate; None if it is unknown."""
    last_commit: float | None = None
    """Time at which the newest shard was committed, in seconds since the epoch."""
    unclaimed: int = 0
    """Missing shards that are assigned to no running writer."""
    damaged: tuple[str, ...] = ()
    """Shards that exist and cannot be read; capturing again replaces them."""
    writers: tuple[Writer, ...] = ()
    """Living writers, and those that ended without removing their heartbeat."""
    problem: str = ""
    """Why the run is unreadable; else empty."""
    set_aside: QuarantineSummary = NOTHING
    """Prompts and texts that were set aside, and why."""
    series: Series | None = None
    """The training that the model is a checkpoint of, and the step."""
    name: str = ""
    """Name of the run, distinct among those of its store; empty: unreadable."""
    outdated_prompts: int | None = None
    """Prompts of the run in the tables of `profiles.duckdb`, if its shards have changed since those
    were computed; else None."""


def store_status(store: Store, now: float) -> list[RunStatus]:
    """Every run of `store`, by id, then those whose record is lost. now: seconds since 1970."""
    names, recorded = store.names, recorded_in(store.path)
    statuses = []
    for run in store.runs.values():
        status = replace(run_status(run, now), name=names.get(run.id, ""))
        shards, prompts = recorded.get(run.id, ("", None))
        if not status.problem and shards and shards != run.fingerprint:
            status = replace(status, outdated_prompts=prompts)
        statuses.append(status)
    return [*statuses, *(_unreadable(run, LOST) for run in store.lost())]


def run_status(run: Run, now: float) -> RunStatus:
    """One run. Reads a record for each shard, and nothing else of it."""
    try:
        return _status(run, now)
    except PermissionError as error:
        return _unreadable(run, f"this user may not read {error.filename} ({error.strerror})")
    except (LppError, OSError) as error:
        return _unreadable(run, str(error))


def _status(run: Run, now: float) -> RunStatus:
    # before the shards are read: a writer may end meanwhile
    at_work = tuple(writers(run.path / SHARDS_KEY))
    plan, shards = run.plan, run.shards
    alive = [writer for writer in at_work if writer.alive(now)]
    tokens = sum(shard.rows for shard in shards)
    prompts = sum(shard.end_prompt - shard.first_prompt for shard in shards)
    commit_times = run.directory.map(lambda shard: _time(shard.directory), shards)
    times = {shard.index: time for shard, time in zip(shards, commit_times, strict=True)}
    missing = run.missing_shards
    state: State = "running" if alive else "stopped"
    if not missing:
        state, alive, at_work = "complete", [], ()
    rate = _rate(run, times, alive)
    claimed = [shard for shard in missing if any(_claims(writer, shard) for writer in alive)]
    left = None
    if rate and alive:
        waiting = (plan.prompts.tokens - tokens) * len(claimed) / len(missing)
        # time already spent on the current shards; a clock may have been set back since
        begun = max(0.0, now - max(times.values()))
        left = max(0.0, waiting / rate - begun)
    return RunStatus(
        run=run.id,
        state=state,
        shards=plan.n_shards,
        shards_done=len(shards),
        prompts=plan.prompts.count,
        prompts_done=prompts,
        tokens=plan.prompts.tokens,
        tokens_done=tokens,
        bytes=sum(map(_bytes, (run.commit, *(shard.record for shard in shards)))),
        tokens_per_second=rate,
        seconds_left=left,
        last_commit=max(times.values(), default=None),
        unclaimed=len(missing) - len(claimed),
        damaged=tuple(shard_key(k) for k in run.left_out),
        writers=at_work,
        set_aside=_set_aside(run),
        series=plan.model.series,
    )


def _set_aside(run: Run) -> QuarantineSummary:
    """What `run` set aside; empty if the list is damaged, which `verify` reports."""
    try:
        return run.set_aside()
    except (LppError, OSError):
        return NOTHING


def _rate(run: Run, times: Mapping[int, float], alive: Sequence[Writer]) -> float | None:
    """Tokens a second; times: when each shard was committed."""
    began = [writer.since for writer in alive if writer.since is not None]
    since = min(began) if began else _time(run.directory)
    new = [shard for shard in run.shards if times[shard.index] >= since]
    seconds = max((times[shard.index] for shard in new), default=since) - since
    return sum(shard.rows for shard in new) / seconds if seconds > 0 else None


def _claims(writer: Writer, shard: int) -> bool:
    """Whether `shard` belongs to the part of `writer`; without a part, every shard does."""
    if not writer.doing.startswith(PART_PREFIX):
        return True
    try:
        part = parse_part(writer.doing.removeprefix(PART_PREFIX), {})
    except InputError:
        return True
    return shard % part.count == part.index


def _bytes(record: CommitRecord) -> int:
    return sum(item.bytes for item in record.objects.values())


def _time(committed: Objects) -> float:
    return committed.stat(COMMIT_KEY).modified


def _unreadable(run: Run, problem: str) -> RunStatus:
    return RunStatus(run=run.id, state="unreadable", problem=problem)


def status_document(status: RunStatus, now: float) -> dict[str, Any]:
    """For JSON: times as whole seconds since the epoch, unknown values as null."""
    numbers = ("shards", "prompts", "tokens")
    document: dict[str, Any] = {"run": status.run, "name": status.name or None}
    document["state"] = status.state
    for name in numbers:
        document[f"{name}_done"] = getattr(status, f"{name}_done")
        document[name] = getattr(status, name)
    return document | {
        "bytes": status.bytes,
        "tokens_per_second": _rounded(status.tokens_per_second, 3),
        "seconds_left": _rounded(status.seconds_left, 0),
        "last_commit": _rounded(status.last_commit, 0),
        "unclaimed_shards": status.unclaimed,
        "damaged_shards": list(status.damaged),
        "writers": [
            {
                "host": writer.host,
                "pid": writer.pid,
                "doing": writer.doing,
                "alive": writer.alive(now),
                "since": _rounded(writer.since, 0),
                "last_sign": _rounded(writer.last_sign, 0),
            }
            for writer in status.writers
        ],
        "outdated_prompts": status.outdated_prompts,
        "problem": status.problem or None,
        "set_aside_prompts": status.set_aside.prompts,
        "not_finite_from": status.set_aside.first_site,
        "series": None if status.series is None else status.series.name,
        "step": None if status.series is None else status.series.step,
    }


def _rounded(value: float | None, digits: int) -> float | int | None:
    if value is None:
        return None
    return round(value, digits) if digits else round(value)
