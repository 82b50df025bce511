"""One capture from request to committed run."""

import time
from contextlib import closing, nullcontext

import click
import numpy as np
import numpy.typing as npt

from lpp.capture.engine.capture import capture_run
from lpp.capture.engine.known_runs import remember, request_key
from lpp.capture.engine.outcome import Outcome
from lpp.capture.engine.stopping import Stop, stoppable
from lpp.capture.plan.batches import tokens_of
from lpp.capture.plan.parts import WHOLE, Part
from lpp.capture.plan.planning import Prepared, prepare
from lpp.capture.plan.request import CaptureRequest
from lpp.capture.plan.sizes import check_room, free_bytes, remaining, sizes, told
from lpp.store import Run, RunWriter, Store, create_store, open_store
from lpp.store.commands.console import debugging
from lpp.store.commands.progress import progress
from lpp.store.errors import ConflictError, ErrorKind, InputError
from lpp.store.format.keys import SHARDS_KEY
from lpp.store.format.plan import Plan, differences
from lpp.store.heartbeat import at_work
from lpp.store.objects.place import Url
from lpp.store.write import sweep_run


def capture_into(
    root: Url,
    request: CaptureRequest,
    *,
    resume: str | None = None,
    part: Part = WHOLE,
    grace: float | None = None,
) -> Outcome:
    """Capture what `request` asks into the store at `root`, making it where there is none.

    resume: id of the one run that may be written; anything else is refused with the fields that
    differ. part: which shards are this process's. grace: seconds that a request to end leaves for
    the shard under way (`lpp.capture.engine.stopping`); None: a request ends this at once. Every
    committed shard survives whatever stops this.
    """
    store = store_for(root, resume)
    key = request_key(request)  # of the files as they are before they are read
    with progress("prepare", 1, "model") as bar:
        prepared = prepare(request, progress=bar, quiet=not debugging())
        bar.advance()
    with closing(prepared):
        if resume is not None:
            refuse_another(prepared.plan, store, resume)
        click.echo(describe(prepared.plan), err=True)
        lengths = prepared.prompts["n_tokens"].to_numpy()
        check_size(prepared.plan, lengths, store, part, request.shard_bytes)
        writer = RunWriter(
            store.path, prepared.plan, prepared.prompts, set_aside=prepared.set_aside
        )
        remember(store, key, prepared.plan.run_id)
        click.echo(f"  into {writer.run.path}", err=True)
        return _capture(prepared, writer, part, grace)


def check_size(
    plan: Plan, lengths: npt.NDArray[np.int32], store: Store, part: Part, shard_bytes: int
) -> None:
    """Tell what each --keep would take; refuse the one that is asked for if it does not fit."""
    found, free = sizes(plan, lengths.tolist(), shard_bytes), free_bytes(store.path)
    click.echo(told(found, plan.keep, free), err=True)
    mine = part.shards(plan.n_shards)
    begun = store.runs.get(plan.run_id)
    todo = mine if begun is None else begun.uncommitted(mine)
    check_room(found, plan.keep, remaining(plan, lengths, todo), free, store.path)


def store_for(root: Url, resume: str | None) -> Store:
    """The store at `root`, made where there is none; with `resume` it must hold that run.

    Asked for before a model loads: a bad path should not cost minutes.
    """
    store = create_store(root) if resume is None else open_store(root)
    if resume is not None and resume not in store.runs:
        raise InputError(
            f"{root} has no run {resume}; it has {', '.join(store.runs) or 'none'}.",
            kind=ErrorKind.NOT_FOUND,
        )
    return store


def _capture(prepared: Prepared, writer: RunWriter, part: Part, grace: float | None) -> Outcome:
    plan = prepared.plan
    lengths = prepared.prompts["n_tokens"].to_numpy()
    mine = part.shards(plan.n_shards)
    if part != WHOLE:
        some = ", ".join(str(shard + 1) for shard in mine[:5]) or "none"
        more = ", ..." if len(mine) > 5 else ""
        click.echo(f"  part {part}: shards {some}{more} of {plan.n_shards}", err=True)
    todo = writer.uncommitted(mine)
    start = time.monotonic()
    sign = at_work(writer.run.path / SHARDS_KEY, f"part {part}") if todo else nullcontext()
    patience = nullcontext(Stop()) if grace is None else stoppable(plan.n_shards, grace)
    bar = progress("capture", tokens_of(plan, lengths, mine), "tokens")
    with patience as stop, sign, bar as told:
        capture_run(plan, prepared.prompts, writer, prepared.backend, told, part=part, stop=stop)
    run = Run(writer.run.path)
    if writer.written and not run.missing_shards:
        sweep_run(run)
    return Outcome(
        run=plan.run_id,
        part=part,
        captured=len(writer.written),
        outrun=len(writer.outrun),
        tokens=tokens_of(plan, lengths, writer.written | writer.outrun),
        seconds=time.monotonic() - start if todo else 0.0,
        missing=len(run.missing_shards),
        set_aside=run.set_aside(),
        stopped=bool(writer.uncommitted(mine)),
    )


def describe(plan: Plan) -> str:
    """Two lines: what runs on what."""
    model = plan.model
    untrained = "" if model.untrained_seed is None else f", untrained (seed {model.untrained_seed})"
    return (
        f"{model.id}{untrained}\n  {plan.prompts.count} prompts of {plan.corpus.name}, "
        f"{plan.prompts.tokens:,} tokens; {len(plan.sites)} sites in {plan.compute.dtype}"
    )


def refuse_another(plan: Plan, store: Store, resume: str) -> None:
    """Raise ConflictError, with the fields that differ, unless `plan` is that of `resume`."""
    if plan.run_id != resume:
        fields = "\n  ".join(differences(plan, store.runs[resume].plan))
        raise ConflictError(
            f"this would be run {plan.run_id}, not {resume}. What differs:\n  {fields}\n"
            "Repeat the command that made it, or leave --resume out to start the new run.",
            kind=ErrorKind.PLAN_DIFFERS,
        )
