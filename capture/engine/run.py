"""One capture from request to committed run.

Everything that can be refused is refused before anything is written: a bad --store before the model
loads, too little disk or memory once the plan is known. A refused capture leaves no store behind.
"""

import time
from collections.abc import Sequence, Set
from contextlib import closing, nullcontext
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lpp.capture.engine.capture import capture_run
from lpp.capture.engine.heads import KeptHead, keep_head, missing_head_bytes
from lpp.capture.engine.outcome import Outcome
from lpp.capture.engine.prepare import Prepared, prepare
from lpp.capture.engine.run_cache import check_noted, name_run, remember, request_key
from lpp.capture.engine.stopping import Stop, stoppable
from lpp.capture.engine.vocabulary import keep_vocabulary
from lpp.capture.models.device import why_device
from lpp.capture.plan.batches import tokens_of
from lpp.capture.plan.parts import WHOLE, Part
from lpp.capture.plan.request import NOTHING, CaptureRequest, InMemory
from lpp.capture.plan.sizes import (
    available_memory,
    check_memory,
    check_room,
    format_memory,
    format_size,
    free_bytes,
    host_bytes,
    remaining,
    run_size,
)
from lpp.store import Run, RunWriter, create_store
from lpp.store.format.keys import RUNS_KEY, SHARDS_KEY
from lpp.store.format.plan import Plan
from lpp.store.objects.place import Url, place
from lpp.store.process.debugging import debugging
from lpp.store.progress import BLANK, SILENT, Display
from lpp.store.runs.heartbeat import at_work
from lpp.store.runs.replay import replay
from lpp.store.runs.write import sweep_run
from lpp.store.store import open_if_any
from lpp.store.units import counted


def capture_into(
    root: Url,
    request: CaptureRequest,
    *,
    part: Part = WHOLE,
    signals: bool = False,
    given: InMemory = NOTHING,
    display: Display = BLANK,
) -> Outcome:
    """Capture `request` into the store at `root`, which is created once the plan is known to fit.

    part: the shards of this process. signals: whether the current shards may be finished after a
    request to stop (`lpp.capture.engine.stopping`). given: those things of `request` that are in
    memory already. display: shows plan, sizes and progress. Committed shards stay, whatever stops
    the capture.
    """
    open_if_any(root)  # before the model loads: a bad path should not cost minutes
    # computed before the files are read, from their state then
    key = request_key(request) if given == NOTHING else given.key
    check_noted(root, key, request)
    with display.step("prepare", 1, "model") as bar:
        prepared = prepare(
            request, given=given, root=root, part=part, progress=bar, quiet=not debugging()
        )
        bar.advance()
    plan = prepared.plan
    patience = stoppable(plan.n_shards, display=display) if signals else nullcontext(Stop())
    # The model closes before `stoppable` ends: a stop request during that time ends a complete run.
    with patience as stop, closing(prepared):
        device = f"on {plan.compute.device}: {why_device(plan.compute.device)}"
        display.say("\n  ".join([describe(plan), device, *prepared.carried]))
        lengths = prepared.prompts["n_tokens"].to_numpy()
        todo = uncommitted_shards(root, plan, part)
        check_disk(request, plan, lengths, root, todo, display=display)
        if todo:
            check_host_memory(plan, lengths, display)
        store = create_store(root)
        writer, head = begin_run(store.path, request, prepared)
        remember(store, key, plan.run_id, head.directories)
        for line in head.lines:
            display.say(f"  {line}")
        display.say(f"  into {writer.run.path}")
        return _capture(prepared, writer, part, todo, stop=stop, display=display)


def uncommitted_shards(root: Url, plan: Plan, part: Part) -> list[int]:
    """Shards of `part` that the store at `root`, if there is one, does not hold yet.

    The run's own record and plan are not read: damaged ones are written again, and shards stay.
    """
    shards, store = part.shards(plan.n_shards), open_if_any(root)
    if store is None or plan.run_id not in {e.name for e in store.objects.entries(RUNS_KEY)}:
        return list(shards)
    return Run(store.path / RUNS_KEY / plan.run_id).uncommitted(shards, plan)


def begin_run(root: Url, request: CaptureRequest, prepared: Prepared) -> tuple[RunWriter, KeptHead]:
    """Create the run of `prepared` in the store at `root`, or find it; store head and vocabulary.

    The lines say what was done with both.

    Raises what `name_run` does; ConflictError if the run exists and its prompts lack columns that
    `request` asks for, or have other values; MachineError for a full or read-only disk.
    """
    plan, model = prepared.plan, prepared.backend.model
    name_run(root, plan.run_id, request.name)
    writer = RunWriter(root, plan, prepared.prompts, set_aside=prepared.set_aside)
    writer.run.require_columns(request.corpus.columns)
    head = keep_head(root, plan, request, prepared.backend)
    of_vocabulary = keep_vocabulary(root, model.tokenizer_info, model.tokenizer)
    return writer, replace(head, lines=tuple(filter(None, (*head.lines, of_vocabulary))))


def check_disk(
    request: CaptureRequest,
    plan: Plan,
    lengths: npt.NDArray[np.int32],
    root: Url,
    todo: Sequence[int],
    *,
    display: Display,
) -> None:
    """Show the disk that the run takes; refuse it if the shards `todo` and the head do not fit."""
    where = place(root)
    free = free_bytes(where)
    display.say(f"  {format_size(run_size(plan), free)}")
    needed = remaining(plan, lengths, todo) + missing_head_bytes(root, plan, request)
    check_room(needed, free, where)


def check_host_memory(plan: Plan, lengths: npt.NDArray[np.int32], display: Display) -> None:
    """Show the memory of the shard buffers; refuse it if it does not fit."""
    needed, available = host_bytes(plan, lengths), available_memory()
    display.say(f"  {format_memory(needed, available, plan.compute.device)}")
    check_memory(needed, available)


def _capture(
    prepared: Prepared,
    writer: RunWriter,
    part: Part,
    todo: Sequence[int],
    *,
    stop: Stop,
    display: Display,
) -> Outcome:
    """Capture the shards `todo` of a part."""
    plan = prepared.plan
    lengths = prepared.prompts["n_tokens"].to_numpy()
    mine = part.shards(plan.n_shards)
    if part != WHOLE:
        listed = ", ".join(str(shard + 1) for shard in mine[:5]) or "none"
        more = ", ..." if len(mine) > 5 else ""
        display.say(f"  part {part}: shards {listed}{more} of {plan.n_shards}")
        if idle := max(part.count - plan.n_shards, 0):
            display.say(
                f"  {counted(idle, 'part has', 'parts have')} nothing to do: give a smaller "
                "--shard-mib or more --prompts"
            )
    start = time.monotonic()
    heartbeat = at_work(writer.run.path / SHARDS_KEY, f"part {part}") if todo else nullcontext()
    total = tokens_of(plan, lengths, mine)
    step = display.step("capture", total, "tokens") if todo else nullcontext(SILENT)
    with heartbeat, step as bar:
        bar.advance(total - tokens_of(plan, lengths, todo))
        capture_run(plan, prepared.prompts, writer, prepared.backend, bar, shards=todo, stop=stop)
    run = Run(writer.run.path)
    missing = run.missing_shards
    if not missing:
        sweep_run(run)
    if set(mine).isdisjoint(missing):
        stop.finish()
    seconds = time.monotonic() - start if todo else 0.0
    return outcome_of(run, part, writer.written, writer.lost_race, seconds)


def outcome_of(
    run: Run, part: Part, written: Set[int], lost_race: Set[int], seconds: float
) -> Outcome:
    """The outcome of a part of `run`. written, lost_race: its shards, as of `RunWriter`."""
    plan, missing = run.plan, run.missing_shards
    return Outcome(
        run=run.id,
        part=part,
        captured=len(written),
        lost_race=len(lost_race),
        tokens=tokens_of(plan, run.lengths, written | lost_race),
        seconds=seconds,
        missing=len(missing),
        set_aside=run.set_aside(),
        stopped=not set(part.shards(plan.n_shards)).isdisjoint(missing),
        replay=None if missing else replay(run),
    )


def describe(plan: Plan) -> str:
    """Two lines: the model, and what is captured of it; a third on what the model wrote."""
    model = plan.model
    untrained = "" if model.untrained_seed is None else f", untrained (seed {model.untrained_seed})"
    checkpoint = "" if model.series is None else f", {model.series}"
    lines = [
        f"{model.id}{untrained}{checkpoint}",
        f"  {plan.prompts.count} prompts of {plan.corpus.name}, {plan.prompts.tokens:,} tokens; "
        f"{counted(len(plan.sites), 'site')} in {plan.compute.dtype}",
    ]
    if (written := plan.continuation) is not None:
        how = "greedily"
        if written.temperature is not None:
            how = f"at --temperature {written.temperature} --generation-seed {written.seed}"
        lines.append(f"  each continued by up to {written.tokens} tokens, {how}")
    return "\n".join(lines)
