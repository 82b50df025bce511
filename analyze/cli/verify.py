"""`lpp-analyze verify`: compare a store with its checksums."""

import contextlib
import shlex
from typing import TYPE_CHECKING, Final

import click

from lpp.store.format.keys import BENCHMARKS_KEY, ROOT_KEY, RUNS_KEY, SHARDS_KEY
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.progress import progress
from lpp.store.units import counted

if TYPE_CHECKING:
    from lpp.store.committed.compare import Problem

MISSING: Final = "missing"
REPAIRS: Final = {
    SHARDS_KEY: "`lpp-capture repair STORE` computes damaged shards again and removes damaged "
    "directories that runs share.",
    MISSING: "`lpp-capture run` with the options of the capture resumes what was not captured.",
    RUNS_KEY: "`lpp-capture run` writes the record, plan and prompts of a run again.",
    BENCHMARKS_KEY: "Delete the damaged source under benchmarks/ and add its scores again.",
}
"""What mends a problem, by where it is: in a shard or beside the runs, in a missing shard, in a run
outside its shards, among the scores."""


@click.command(cls=LppCommand)
@click.argument("store")
@debug_option
def verify(store: str) -> int:
    """Compare every byte of STORE with its checksums.

    The exit code is 1 if any byte differs. If the store keeps the unembedding of a model, entropy
    and log_z of 256 tokens of each run are computed again from `final` and compared as well.

    Checksums find accidents; anybody who writes a store can write fitting ones. Commands compute
    numbers again that another user kept in a store, unless you give --trust-kept.

    \b
        lpp-analyze verify ./lpp
    """
    from lpp.analyze.logits.proof import check_logits, logits_problems
    from lpp.store import open_store
    from lpp.store.errors import FormatError
    from lpp.store.runs.verify import verify_root
    from lpp.store.scores.scores import verify_scores
    from lpp.store.shared.verify import verify_shared

    opened = open_store(store)
    problems = verify_root(opened.path) + verify_scores(opened.path) + verify_shared(opened.path)
    for problem in problems:
        click.echo(str(problem))
    names = opened.names
    with progress("Verify", len(opened.runs), "runs") as bar:
        for run in opened.runs.values():
            run_problems = [problem.below(f"{RUNS_KEY}/{run.id}") for problem in run.verify()]
            for problem in run_problems:
                click.echo(str(problem))
            bar.advance()
            name = names.get(run.id, run.id)
            bar.note(f"{name} {'has problems' if run_problems else 'is as it was committed'}")
            # of damage, and of what this user may not read, which the lines above say
            with contextlib.suppress(FormatError, PermissionError):
                check = check_logits(run)
                for problem in logits_problems(run, check):
                    click.echo(str(problem))
                    run_problems.append(problem)
                if check is not None:
                    bar.note(f"{name}: {check}")
            problems += run_problems
    if not problems:
        sites = sum(len(run.sites) for run in opened.runs.values())
        click.echo(
            f"{counted(len(opened.runs), 'run')}, {counted(sites, 'site')}, every byte as committed"
        )
    else:
        needed = {_repair_of(problem) for problem in problems}
        advice = [text for place, text in REPAIRS.items() if place in needed]
        text = " ".join([f"{counted(len(problems), 'problem')}.", *advice])
        click.echo(text.replace("STORE", shlex.quote(store)), err=True)
    return int(bool(problems))


def _repair_of(problem: "Problem") -> str:
    """The key in `REPAIRS` of what mends this problem, by its place in the store."""
    top, *_ = problem.where.split("/")
    if top != RUNS_KEY:
        return top if top in (BENCHMARKS_KEY, ROOT_KEY) else SHARDS_KEY
    if f"/{SHARDS_KEY}/" not in problem.where:
        return RUNS_KEY
    return MISSING if "not committed" in problem.what else SHARDS_KEY
