"""`lpp-capture repair`: compute bad shards again, from what the run itself says."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from lpp.capture.cli.store_type import STORE
from lpp.capture.models.machine import require
from lpp.capture.plan.options import grace_option
from lpp.store.commands.console import debug_option
from lpp.store.errors import ErrorKind, InputError
from lpp.store.objects.place import Place

if TYPE_CHECKING:
    from lpp.capture.engine.repair import Repair
    from lpp.store import Run
    from lpp.store.repair import Damage
    from lpp.store.verify import Problem

SHOWN = 3
"""Problems of a shard that are told; the rest are counted."""


@click.command()
@click.argument("store", type=STORE)
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("--model", metavar="MODEL", help="Where the model lies; by default the plan's own.")
@click.option("--device", help="cpu, cuda or cuda:1; by default the plan's kind of device.")
@click.option(
    "--trust-remote-code", is_flag=True, help="Run Python code that comes with the model."
)
@click.option("--missing", is_flag=True, help="Compute also the shards that are not there at all.")
@click.option("--dry-run", is_flag=True, help="Say what is bad and compute nothing.")
@grace_option
@debug_option
def repair(store: Place, runs: tuple[str, ...], dry_run: bool, **options: Any) -> int:
    """Compute the bad shards of STORE again, and no others.

    \b
    Examples:
      lpp-capture repair ./lpp --dry-run
      lpp-capture repair ./lpp my-model-1a2b3c4d --model ./my-model

    Every byte is verified first. A shard is bad when anything in it is altered,
    missing, of another shard, or not part of what was committed. Token ids and
    settings come from the run itself, so no corpus is needed, but the same model
    in the same releases; anything else is refused with the list of what differs.
    What is bad stays until the new shard is whole.

    Exit code 0 when all is whole, 1 when something is not.
    """
    from lpp.capture.engine.repair import Repair, look_at, repair_run
    from lpp.capture.plan.from_plan import RepairOptions

    results = []
    for run in _chosen(store, runs):
        damage, _ = look_at(run)
        if dry_run:
            results.append(Repair(run=run.id, damage=damage, repaired={}))
            continue
        if damage.shards or options["missing"]:
            require("torch", "transformers", "safetensors")
        results.append(repair_run(run, damage, RepairOptions(**options)))
    click.echo(table(results))
    return int(not all(result.whole for result in results))


def _chosen(store: Place, names: Sequence[str]) -> "list[Run]":
    from lpp.store import open_store

    runs = open_store(store).runs
    if unknown := [name for name in names if name not in runs]:
        raise InputError(
            f"{store} has no run {', '.join(unknown)}; it has {', '.join(runs) or 'none'}.",
            kind=ErrorKind.NOT_FOUND,
        )
    return [runs[name] for name in names or runs]


def table(results: "Sequence[Repair]") -> str:
    """What was wrong with each run and what came of it, within 80 columns; then a line in all."""
    lines = []
    for result in results:
        lines.append(result.run)
        for line in _details(result):
            lines += textwrap.wrap(line, 80, initial_indent="  ", subsequent_indent="    ")
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
        yield "every byte that is there is as it was committed"
    for index, problems in sorted(damage.shards.items()):
        yield _told(f"shard {index:05d}: ", problems)
        yield from _outcome(result, index)
    if damage.beyond:
        yield _told("not repaired: ", damage.beyond)
        yield _advice(damage)
    for index in sorted(set(result.repaired) - set(damage.shards)):
        yield f"shard {index:05d}: was not there; {result.repaired[index]}"
    if left := [index for index in damage.missing if index not in result.repaired]:
        yield (
            f"{len(left)} shards are not there at all: the command that made the run resumes it, "
            "or repeat this with --missing"
        )
    if result.reason:
        # the list of what differs keeps its lines
        yield from f"not repaired: {result.reason}".splitlines()


def _told(start: str, problems: "Sequence[Problem]") -> str:
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return start + "; ".join(str(problem) for problem in problems[:SHOWN]) + more


def _outcome(result: "Repair", index: int) -> Iterator[str]:
    if index in result.repaired:
        yield f"shard {index:05d}: {result.repaired[index]}"


def _advice(damage: "Damage") -> str:
    if any(not problem.where.startswith("shards/") for problem in damage.beyond):
        return (
            "what says how to compute it is damaged itself: remove the run and repeat the "
            "`lpp-capture run` command that made it"
        )
    return "remove by hand what does not belong there; upgrade lpp-engine for what is newer"
