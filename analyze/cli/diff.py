"""`lpp-analyze diff`: what changed between two models, or between one and each of several."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from lpp.analyze.cli.options import executor_options, page_options
from lpp.analyze.questions import DiffSettings, GateSettings
from lpp.store.terminal.completion import complete_runs
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import taken, with_options
from lpp.store.terminal.progress import progress

if TYPE_CHECKING:
    from lpp.analyze.pages.reply import Reply


@click.command(cls=LppCommand)
@click.argument("store")
@click.argument("runs", nargs=-1, metavar="RUN_A RUN_B", shell_complete=complete_runs)
@click.option(
    "--against",
    "base",
    metavar="BASE",
    shell_complete=complete_runs,
    help="Compare every run of STORE with BASE; or name runs in place of RUN_A RUN_B.",
)
@with_options(DiffSettings)
@with_options(GateSettings)
@page_options()
@executor_options
@debug_option
def diff(
    *, store: str, runs: tuple[str, ...], base: str | None, executor: Any, **options: Any
) -> "Reply":
    """Show what changed from RUN_A to RUN_B of STORE.

    Both models must have read the same token ids. Predictions are compared by KL and other
    divergences over the full vocabulary, flips and perplexity; each site by distance, CKA and
    ranks, each router by the experts that it chooses. Numbers have errors over prompts. They say
    how much changed and where, not whether it matters. If both runs evaluated one task, the items
    that flipped are listed; `lpp-analyze items --against` shows what distinguishes them.

    Name a run by its id, its name, a pattern, or a beginning that no other run has.
    STORE::RUN is a run of another store.

    With --against BASE, every run of STORE that read the same prompts, or every RUN that you name,
    is compared with BASE. The output is one table and a picture of distance by depth. Runs that
    cannot be compared are listed on standard error.

    With --fail-if, the exit code is 1 if any run meets a condition: a name, >, <, >= or <=, and a
    number. The whole interval must be past the number; the intervals of all conditions and runs
    hold together at 98 % (Bonferroni). `lpp-analyze metrics` lists the names: of predictions, each
    also with .mean, .median, .p99 or .max (shares that are counts: the mean alone); of sites, for
    one site with its name, as in cka.block.12. A metric of one run stands for its difference,
    RUN_B - RUN_A. Shares of the prompts of RUN_A or BASE: set_aside, missing. The exit code is also
    1 if a condition cannot be decided: its number does not exist, more prompts take no part than
    --allow-missing says, or a run that should be compared cannot be.

    \b
        lpp-analyze diff ./lpp base tuned
        lpp-analyze diff ./demo '*Q4_1' 'rounded to 4 bits'
        lpp-analyze diff ./lpp base ./other::tuned --skip-first 2 --tokens 20000
        lpp-analyze diff ./lpp base tuned -o drift.html
        lpp-analyze diff ./lpp base int4 --format md -o drift.md \\
            --fail-if 'kl.mean > 0.01' --fail-if 'flips > 0.02'
        lpp-analyze diff ./lpp --against base
        lpp-analyze diff ./lpp --against base int4 int8 -o depth.svg
    """
    from lpp.analyze.evaluations.answers import diff_answer

    settings, gate = taken(DiffSettings, options), taken(GateSettings, options)
    _check_usage(runs, base, gate)
    with progress("Drift", 0, "tokens") as bar:
        return diff_answer(store, runs, base, settings, gate, progress=bar, executor=executor)


def _check_usage(runs: Sequence[str], base: str | None, gate: GateSettings) -> None:
    """Refuse words that do not go together."""
    alone = {"--strict": gate.strict, "--allow-missing": gate.allow_missing is not None}
    if not gate.conditions and (given := [name for name, is_given in alone.items() if is_given]):
        raise click.UsageError(f"{given[0]} says how --fail-if decides: give one.")
    if base is None and len(runs) != 2:
        raise click.UsageError(
            f"name two runs, RUN_A and RUN_B; there {'is' if len(runs) == 1 else 'are'} "
            f"{len(runs)}. --against BASE compares every run of STORE, or those named, with BASE."
        )
