"""`lpp-capture status`: progress of the runs of a store, also while jobs run elsewhere."""

import json
import shlex
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from lpp.store.format.run_names import name_and_id
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.units import duration, short_bytes, short_count

if TYPE_CHECKING:
    from lpp.capture.engine.status import RunStatus
    from lpp.store.runs.heartbeat import Writer


@click.command(cls=LppCommand)
@click.argument("store")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Print in this format. json has exact numbers, and times in seconds since 1970.",
)
@debug_option
def status(store: str, form: str) -> None:
    """Show every run of STORE: its progress, its rate and its writers.

    \b
    Examples:
      lpp-capture status ./lpp
      watch -n 10 lpp-capture status ./lpp

    Reads the store alone, so it works on any machine that sees it. A run is

    \b
      complete    every shard is committed
      running     a writer had a heartbeat in the last three minutes and, if
                  it runs on this machine, has not ended since
      stopped     shards are missing and no writer has a heartbeat
      unreadable  its plan is damaged, or of a newer release, or its
                  record is lost

    The rate is that of all writers since the first of them started; without a
    writer, the average of the run, pauses included. Time left covers the parts
    that have a writer.
    """
    from lpp.capture.engine.status import status_document, store_status
    from lpp.store import open_store

    now = time.time()
    opened = open_store(store)
    statuses = store_status(opened, now)
    if form == "json":
        runs = [status_document(status, now) for status in statuses]
        document = {"store": str(opened.path), "now": round(now), "runs": runs}
        click.echo(json.dumps(document, indent=1))
    elif statuses:
        click.echo(status_table(statuses, now, store))
    else:
        click.echo(
            f"{opened.path} holds no run yet. One appears once its model is loaded: "
            "`lpp-capture run --help`."
        )


def status_table(statuses: "Sequence[RunStatus]", now: float, store: str = "STORE") -> str:
    """For each run its name and id, its numbers and its writers, in 80 columns.

    store: as the commands that it names call it.
    """
    columns = "  {:<11}{:>11}{:>15}{:>9}{:>10}{:>10}{:>12}"
    head = columns.format("", "shards", "prompts", "tokens", "on disk", "tokens/s", "left")
    lines = [head]
    for status in statuses:
        lines += name_and_id(status.name, status.run).split("\n") if status.name else [status.run]
        rate = status.tokens_per_second
        lines.append(
            columns.format(
                status.state,
                f"{status.shards_done}/{status.shards}",
                f"{status.prompts_done}/{status.prompts}",
                short_count(status.tokens_done),
                short_bytes(status.bytes),
                "-" if rate is None else short_count(round(rate)),
                "-" if status.seconds_left is None else duration(status.seconds_left),
            )
        )
        for line in _details(status, now, store):
            lines += textwrap.wrap(
                line, 80, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
            )
    return "\n".join(lines)


def _details(status: "RunStatus", now: float, store: str) -> Iterator[str]:
    """Problems and writers of a run."""
    if status.problem:
        yield status.problem
    if status.series is not None:
        yield str(status.series)
    yield from status.set_aside.lines()
    for writer in status.writers:
        yield _writer(writer, now)
    if status.state == "stopped":
        last = status.last_commit
        when = "no shard yet" if last is None else f"last shard {duration(now - last)} ago"
        yield f"no writer, {when}; resume it with the command that made it"
    elif status.unclaimed:
        yield f"{status.unclaimed} missing shards are assigned to no running writer"
    if status.damaged:
        shards = ", ".join(status.damaged[:4]) + (", ..." if len(status.damaged) > 4 else "")
        yield f"damaged: shards {shards}; lpp-capture repair computes them again"
    if status.outdated_prompts is not None:
        yield (
            f"captured or repaired since its numbers were computed, of {status.outdated_prompts} "
            f"prompts: lpp-analyze profile {shlex.quote(store)}"
        )


def _writer(writer: "Writer", now: float) -> str:
    who = f"pid {writer.pid} on {'this machine' if writer.here else writer.host}"
    if writer.doing:
        who = f"{writer.doing}: {who}"
    if writer.ended:
        return f"{who} ended without finishing"
    if not writer.alive(now):
        return f"{who}, no heartbeat for {duration(now - writer.last_sign)}: killed or cut off"
    since = "" if writer.since is None else f", for {duration(now - writer.since)}"
    return f"{who}{since}"
