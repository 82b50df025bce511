"""`lpp-analyze diff`: what changed between two models, or between one and each of several."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpp.analyze.cli.database import in_database
from lpp.analyze.cli.options import chosen_executor, executor_options
from lpp.analyze.cli.show import PICTURES, check_page, page_options, show
from lpp.analyze.questions import DiffSettings, GateSettings
from lpp.store.errors import InputError
from lpp.store.terminal.completion import complete_runs
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import taken, with_options
from lpp.store.terminal.output import suffix_of
from lpp.store.terminal.progress import progress

if TYPE_CHECKING:
    from lpp.analyze.drift.against import Against
    from lpp.analyze.drift.drift import Drift
    from lpp.analyze.drift.gate import Verdict
    from lpp.analyze.evaluations.flips import Flips
    from lpp.analyze.quantities.conditions import Condition


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
    *,
    store: str,
    runs: tuple[str, ...],
    base: str | None,
    form: str | None,
    output: Path | None,
    everything: bool,
    jobs: int | None,
    executor: Any,
    address: str | None,
    **options: Any,
) -> int:
    """Show what changed from RUN_A to RUN_B of STORE.

    Both models must have read the same token ids. Predictions are compared by KL and other
    divergences over the full vocabulary, flips and perplexity; each site by distance, CKA and
    ranks. Numbers have errors over prompts. They say how much changed and where, not whether it
    matters. If both runs evaluated one task, the items that flipped are listed; `lpp-analyze items
    --against` shows what distinguishes them.

    Name a run by its id, its short name, a pattern, or a beginning that no other run has.
    STORE::RUN is a run of another store.

    With --against BASE, every run of STORE that read the same prompts, or every RUN that you name,
    is compared with BASE. The output is one table and a picture of distance by depth. Runs that
    cannot be compared are listed on standard error.

    With --fail-if, the exit code is 1 if any run meets a condition: a name, >, <, >= or <=, and a
    number. The whole interval must be past the number; the intervals of all conditions and runs
    hold together at 98 % (Bonferroni). `lpp-analyze metrics` lists the names, under two runs: of
    predictions, each also with .mean, .median, .p99 or .max (shares that are counts: the mean
    alone); of sites, for one site with its name, as in cka.block.12. Shares of the prompts of RUN_A
    or BASE: set_aside, missing. The exit code is also 1 if a condition cannot be decided: its
    number does not exist, more prompts take no part than --allow-missing says, or a run that
    should be compared cannot be.

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
    from lpp.analyze.drift.against import against, compared, in_order
    from lpp.analyze.drift.drift import drift, n_steps
    from lpp.analyze.drift.pages import gate_page
    from lpp.analyze.drift.pages.against_page import against_page
    from lpp.analyze.drift.pages.drift_page import drift_page
    from lpp.analyze.drift.pair import Pair, pair_of, require_rows, run_of
    from lpp.analyze.drift.sites import common_sites
    from lpp.analyze.evaluations.pages.flips_page import flips_section, item_documents
    from lpp.analyze.quantities.conditions import (
        check_conditions,
        family,
        needs_errors,
        parse_condition,
    )

    asked, decided = taken(DiffSettings, options), taken(GateSettings, options)
    _check_usage(runs, base, decided)
    check_page(form, output)
    gate = [parse_condition(condition) for condition in decided.conditions]
    pairs: Sequence[Pair]
    several: Against | None = None
    if base is None:
        a, b = (run_of(store, name).run for name in runs)
        pairs = [pair_of(a, b, asked.prompts, cluster=asked.cluster)]
        require_rows(pairs[0])
    else:
        several = against(store, base, runs or None, asked)
        pairs = several.pairs
        for line in several.lines:
            click.echo(line, err=True)
    chosen = [common_sites(pair, asked.sites) for pair in pairs]
    for pair, common in zip(pairs, chosen, strict=True):
        with _of_run(pair.b.run.id if several else None):
            check_conditions(gate, sites=common, no_logits=pair.no_logits)
    steps = [n_steps(pair, asked) for pair in pairs]
    comparisons, failed = [], bool(gate and several and several.undecided)
    with (
        progress("Drift", sum(steps), "tokens") as bar,
        chosen_executor(executor, address, jobs) as who,
    ):
        for pair, common in zip(pairs, chosen, strict=True):
            with _of_run(pair.b.run.id if several else None):
                sure = not decided.strict and needs_errors(gate, common)
                errors = asked.errors or ("all" if sure else "final")
                found = drift(pair, replace(asked, errors=errors), executor=who, progress=bar)
                verdicts = _verdicts(found, gate, decided, of=family(gate, len(pairs)))
            _keep(found)
            failed |= any(one.failed for one in verdicts)
            items = _items(found)
            if several is not None:
                comparisons.append(compared(found, verdicts, item_documents(items)))
    if several is None:
        sections = [flips_section(task, place) for place, task in enumerate(items)]
        page = drift_page(found, verdicts, sections, item_documents(items))
        gate_lines = gate_page.as_lines(verdicts)
    else:
        page = against_page(several, comparisons, store)
        gate_lines = gate_page.lines_by_run(
            {one.b: one.verdicts for one in in_order(comparisons) if one.verdicts},
            several.names,
            several.undecided,
        )
    if output is not None and not (form and suffix_of(output) in PICTURES):
        click.echo(gate_lines, nl=False)
    show(page, form, output, everything=everything)
    return int(failed)


def _verdicts(
    found: "Drift", gate: "Sequence[Condition]", decided: GateSettings, *, of: int
) -> "list[Verdict]":
    """What each condition says of a comparison, one of `of` intervals that hold together."""
    from lpp.analyze.drift.gate import ALLOWED, verdict

    allowed = ALLOWED if decided.allow_missing is None else decided.allow_missing
    return [
        verdict(
            condition,
            found.predictions,
            found.sites,
            lost=found.pair.lost,
            strict=decided.strict,
            allowed=allowed,
            of=of,
        )
        for condition in gate
    ]


def _keep(found: "Drift") -> None:
    """Put the comparison into the database of its store."""
    from lpp.analyze.drift.tables import stores, write_drift

    in_database("The comparison is", lambda: write_drift(found))
    if len(stores(found.pair)) > 1:
        click.echo("A and B lie in two stores: the comparison is in no database.", err=True)


def _items(found: "Drift") -> "list[Flips | str]":
    """The items of each task that both runs were asked, or why they cannot be compared."""
    from lpp.analyze.evaluations.flips import flips_of_runs

    return flips_of_runs(found.pair.a, found.pair.b)


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


@contextmanager
def _of_run(run: str | None) -> Iterator[None]:
    """Name `run`, one of several, in front of what is wrong with it."""
    try:
        yield
    except InputError as error:
        if run is None:
            raise
        raise InputError(f"{run}: {error}", kind=error.kind) from None
