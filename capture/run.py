"""One capture from request to committed run."""

from pathlib import Path

import click

from lpp.capture.engine import capture_run
from lpp.capture.planning import CaptureRequest, prepare
from lpp.store import RunWriter, Store, create_store, open_store
from lpp.store.console import debugging, progress
from lpp.store.errors import ConflictError, ErrorKind, InputError
from lpp.store.plan import Plan, differences


def capture_into(root: Path, request: CaptureRequest, *, resume: str | None = None) -> str:
    """Capture what `request` asks into the store at `root`, making it where there is none.

    resume: id of the one run that may be written; anything else is refused with the fields that
    differ. Returns the run's id. Every committed shard survives whatever stops this.
    """
    # before the model loads: a bad path should not cost minutes
    store = create_store(root) if resume is None else open_store(root)
    if resume is not None and resume not in store.runs:
        raise InputError(
            f"{root} has no run {resume}; it has {', '.join(store.runs) or 'none'}.",
            kind=ErrorKind.NOT_FOUND,
        )
    with progress("prepare", 1, "model") as bar:
        prepared = prepare(request, progress=bar, quiet=not debugging())
        bar.advance()
    plan = prepared.plan
    if resume is not None:
        _refuse_another(plan, store, resume)
    writer = RunWriter(store.path, plan, prepared.prompts)
    click.echo(f"{describe(plan)}\n  into {writer.run.path}", err=True)
    with progress("capture", plan.prompts.tokens, "tokens") as bar:
        capture_run(plan, prepared.prompts, writer, prepared.backend, bar)
    return plan.run_id


def describe(plan: Plan) -> str:
    """Two lines: what runs on what."""
    model = plan.model
    untrained = "" if model.untrained_seed is None else f", untrained (seed {model.untrained_seed})"
    return (
        f"{model.id}{untrained}\n  {plan.prompts.count} prompts of {plan.corpus.name}, "
        f"{plan.prompts.tokens:,} tokens; {len(plan.sites)} sites in {plan.compute.dtype}"
    )


def _refuse_another(plan: Plan, store: Store, resume: str) -> None:
    if plan.run_id != resume:
        fields = "\n  ".join(differences(plan, store.runs[resume].plan))
        raise ConflictError(
            f"this would be run {plan.run_id}, not {resume}. What differs:\n  {fields}\n"
            "Repeat the command that made it, or leave --resume out to start the new run.",
            kind=ErrorKind.PLAN_DIFFERS,
        )
