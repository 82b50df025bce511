"""`lpp-capture repair`: compute bad shards again, from the plan and the prompts of the run."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from lpp.capture.cli.options import STORE
from lpp.capture.models.machine import require
from lpp.capture.plan.settings import CaptureSettings
from lpp.store.format.keys import RUNS_KEY
from lpp.store.format.run_names import matching_runs, name_and_id
from lpp.store.objects.place import Place
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import options_of, runs_argument
from lpp.store.terminal.progress import SHOWN

if TYPE_CHECKING:
    from lpp.capture.engine.repair import Repair
    from lpp.store import Run, Store
    from lpp.store.committed.compare import Problem
    from lpp.store.runs.repair import Damage

_SHOWN = 3
"""Problems of a shard that are listed; the rest are counted."""


@click.command(cls=LppCommand, params=[options_of(CaptureSettings)["trust-remote-code"]])
@click.argument("store", type=STORE)
@runs_argument
@click.option(
    "--model", metavar="MODEL", help="Load the model from here. Default: where the plan says."
)
@click.option(
    "--device",
    metavar="DEVICE",
    help="Compute on this device: auto, cpu, cuda, xpu, mps, or cuda:1. Default: as the plan says.",
)
@click.option("--missing", is_flag=True, help="Compute the missing shards too.")
@click.option("--dry-run", is_flag=True, help="List the bad shards and compute nothing.")
@debug_option
def repair(store: Place, runs: tuple[str, ...], dry_run: bool, **options: Any) -> int:
    """Compute the bad shards of STORE again, and only those.

    \b
    Examples:
      lpp-capture repair ./lpp --dry-run
      lpp-capture repair ./lpp my-model --model ./my-model

    Every byte is verified first. A shard is bad when one of its objects is
    altered, missing, from another shard, or not part of the commit. Token ids
    and settings come from the run, so the corpus is not needed. The model must
    be the same, in the same releases; otherwise the command lists what differs.
    A bad shard stays until the new one is complete.

    Without RUN, damaged directories that runs share (heads/, matrices/,
    vocabularies/) are removed: every run is read without them, and the command
    that captured a run writes them again when it is repeated.

    Exit code 0 when every run is whole, 1 otherwise.
    """
    from lpp.capture.engine.repair import Repair, look_at, repair_run
    from lpp.capture.plan.from_plan import RepairOptions
    from lpp.store import open_store
    from lpp.store.runs.verify import verify_root

    results = []
    opened = open_store(store)
    for run in _chosen(opened, runs):
        damage, _ = look_at(run)
        if dry_run:
            results.append(Repair(run=run.id, damage=damage, repaired={}))
            continue
        if damage.shards or options["missing"]:
            require("torch", "transformers", "safetensors")
        results.append(repair_run(run, damage, RepairOptions(**options), SHOWN))
    click.echo(format_repairs(results, opened.names))
    damaged = [] if runs else _repair_shared(store, dry_run)
    lost = [] if runs else [p for p in verify_root(store) if p.where.startswith(f"{RUNS_KEY}/")]
    for problem in lost:
        click.echo(f"{problem}; repeat the `lpp-capture run` command that made it")
    bad = lost or (dry_run and damaged)
    return int(not all(result.whole for result in results) or bool(bad))


def _repair_shared(store: Place, dry_run: bool) -> "list[Problem]":
    """Remove damaged objects that runs share, or only list them; prints each problem."""
    from lpp.store.shared.verify import remove_damaged

    problems = remove_damaged(store, dry_run=dry_run)
    for problem in problems:
        click.echo(str(problem))
    if problems:
        click.echo(
            f"{'would be removed' if dry_run else 'removed'}: every run is read without these; "
            "repeat the `lpp-capture run` commands that made the runs to write them again."
        )
    return problems


def _chosen(store: "Store", names: Sequence[str]) -> "list[Run]":
    if not names:
        return [*store.runs.values()]
    return [store.runs[run] for run in matching_runs(names, store.plans, evaluations=True)]


def format_repairs(results: "Sequence[Repair]", names: Mapping[str, str]) -> str:
    """Problems and outcome of each run in 80 columns, then a summary line."""
    lines = []
    for result in results:
        run = result.run
        lines += name_and_id(names[run], run).split("\n") if run in names else [run]
        for line in _details(result):
            lines += textwrap.wrap(
                line, 80, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
            )
    bad = sum(len(result.damage.shards) for result in results)
    repaired = sum(len(result.repaired) for result in results)
    whole = sum(result.whole for result in results)
    lines += [
        "",
        f"{whole} of {len(results)} runs are whole: {bad} bad shards, {repaired} computed.",
    ]
    return "\n".join(lines)


def _details(result: "Repair") -> Iterator[str]:
    damage = result.damage
    if damage.whole:
        yield "every committed byte is intact"
    for index, problems in sorted(damage.shards.items()):
        yield _format_problems(f"shard {index:05d}: ", problems)
        yield from _outcome(result, index)
    if damage.beyond:
        yield _format_problems("not repaired: ", damage.beyond)
        yield _advice(damage)
    for index in sorted(set(result.repaired) - set(damage.shards)):
        yield f"shard {index:05d}: was missing; {result.repaired[index]}"
    if left := [index for index in damage.missing if index not in result.repaired]:
        yield (
            f"{len(left)} shards are missing: resume the run with the command that made it, or "
            "repeat this with --missing"
        )
    if result.reason:
        # keeps the lines of a list of differences
        yield from f"not repaired: {result.reason}".splitlines()


def _format_problems(start: str, problems: "Sequence[Problem]") -> str:
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return start + "; ".join(str(problem) for problem in problems[:_SHOWN]) + more


def _outcome(result: "Repair", index: int) -> Iterator[str]:
    if index in result.repaired:
        yield f"shard {index:05d}: {result.repaired[index]}"


def _advice(damage: "Damage") -> str:
    if any(not problem.where.startswith("shards/") for problem in damage.beyond):
        return (
            "repeat the `lpp-capture run` command that made the run: it writes the record, the "
            "plan and the prompts again, and keeps every whole shard"
        )
    return "remove foreign files by hand; upgrade lpp-engine for objects of a newer release"
