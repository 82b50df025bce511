"""`lpp-analyze index`: list a store for readers over HTTP."""

import click

from lpp.store.format.keys import INDEX_KEY
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.units import counted


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
