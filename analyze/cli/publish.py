"""`lpp-analyze publish` and `index`: a store for others."""

import shlex
from typing import Any

import click

from lpp.analyze.cli.options import trust_option
from lpp.analyze.questions import PublishSettings
from lpp.store.format.keys import INDEX_KEY
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import runs_argument, taken, with_options
from lpp.store.terminal.progress import progress
from lpp.store.units import counted


@click.command(cls=LppCommand)
@click.argument("store")
@runs_argument
@click.option(
    "--to",
    required=True,
    metavar="PLACE",
    help="Publish in this new folder or prefix of a bucket (s3://...), or complete it.",
)
@trust_option
@with_options(PublishSettings)
@debug_option
def publish(*, store: str, runs: tuple[str, ...], to: str, **options: Any) -> None:
    """Publish STORE, or some RUNs of it, in a folder or a bucket.

    Written are profiles.duckdb, its tables as Parquet, README.md (a card: what it is, how it was
    captured, its numbers, flags, licence, how to open it), card.json, the report and index.json.
    Commands read the result like any store, also at an address.

    Without --with-texts, no text, token id, label, hidden state or number of a single prompt is
    published: hidden states tell the tokens they are of, so they go with the texts. A run with
    fewer sites, or fewer values by token, has another id; card.json names the run that it comes
    from.

    STORE is not changed. Nothing else in PLACE is overwritten: it is a new folder, or one that this
    command wrote. Repeat the command after an interruption, or after new numbers.

    \b
        lpp-analyze publish ./lpp --to ./public --licence CC-BY-4.0
        lpp-analyze publish ./lpp base tuned --sites final --to s3://lab/public
        lpp-analyze publish ./lpp --to ./open --with-texts --fields topic \\
            --licence CC-BY-SA-4.0 --source 'https://example.org/corpus'
    """
    from lpp.analyze.publish.publish import publish as publish_store

    with progress("Publish", 0, "steps") as bar:
        published = publish_store(
            store, to, taken(PublishSettings, options), runs=runs, progress=bar
        )
    held = counted(len(published.copies), "run") if published.copies else "no rows and no texts"
    click.echo(f"{published.place}: {counted(len(published.tables), 'table')}, {held}")
    click.echo(f"Read {shlex.quote(str(published.place / 'README.md'))} before you share it.")


@click.command(cls=LppCommand)
@click.argument("store")
@debug_option
def index(store: str) -> None:
    """Write index.json of STORE, which lists its objects.

    A web server, or a dataset of the Hugging Face hub, sends files and does not list them. Publish
    the directory of STORE with its index.json, and the commands read the store at its address.
    Readers see the store as it was indexed: repeat this after each change.

    \b
        lpp-analyze index ./lpp
        lpp-analyze profile https://lab.example/lpp
        lpp-sql hf://datasets/lab/states/lpp --run profiles
    """
    from lpp.store import write_index

    path, count = write_index(store)
    click.echo(f"{path}: {counted(count, 'object')}. Publish {INDEX_KEY} with the rest of STORE.")
