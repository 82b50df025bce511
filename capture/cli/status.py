"""`lpp-capture status`: how far the runs of a store are, also while jobs run elsewhere."""

import json
import sys
import time

import click

from lpp.store.commands.console import clear_screen, debug_option


@click.command()
@click.argument("store")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="json: exact numbers, times in seconds since 1970.",
)
@click.option(
    "--watch",
    type=click.FloatRange(0.1),
    metavar="SECONDS",
    help="Show it again at this interval, until Ctrl-C.",
)
@debug_option
def status(store: str, form: str, watch: float | None) -> None:
    """Show every run of STORE: how much is done, how fast, who works on it.

    \b
    Examples:
      lpp-capture status ./lpp
      lpp-capture status ./lpp --watch 10

    Read from the store alone, so from any machine that sees it. A run is

    \b
      complete    every shard is committed
      running     a writer gave a sign of life in the last three minutes,
                  and has not ended since, where this machine can tell
      stopped     shards are missing and no writer gives signs of life
      unreadable  its plan is damaged, or of a newer release

    The rate is that of all writers since the first of them began; of a run that
    nobody works on, its average, pauses included. Time left counts the shards
    of the parts that someone works on.
    """
    if watch is None:
        click.echo(_shown(store, form, indent=1))
        return
    try:
        while True:
            text = _shown(store, form, indent=None)  # JSON: a line each time
            if sys.stdout.isatty() and form == "table":
                clear_screen()
            click.echo(text)
            time.sleep(watch)
    except KeyboardInterrupt:  # the way to end it, not an accident
        return


def _shown(store: str, form: str, indent: int | None) -> str:
    from lpp.capture.cli.status_text import status_table
    from lpp.capture.engine.status import status_document, store_status
    from lpp.store import open_store

    now = time.time()
    opened = open_store(store)
    statuses = store_status(opened, now)
    if form == "json":
        runs = [status_document(status, now) for status in statuses]
        return json.dumps(
            {"store": str(opened.path), "now": round(now), "runs": runs}, indent=indent
        )
    if not statuses:
        return (
            f"{opened.path} holds no run yet. One appears once its model is loaded: "
            "`lpp-capture run --help`."
        )
    return status_table(statuses, now)
