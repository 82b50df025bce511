"""`lpp-analyze catalogue`: a page of many published stores."""

from pathlib import Path

import click

from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.units import counted


@click.command(cls=LppCommand)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--duckdb-wasm",
    "client",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="NODE_MODULES",
    help="Copy DuckDB's client for browsers from this folder node_modules, and add a page for SQL.",
)
@debug_option
def catalogue(*, folder: Path, client: Path | None) -> None:
    """Write a page that lists the published stores in FOLDER.

    FOLDER holds folders that `lpp-analyze publish` wrote. index.html lists them and sorts their
    profiles by any column; it opens from a disk. catalogue.parquet has all profiles. Put FOLDER on
    any web server; repeat the command after a change.

    --duckdb-wasm adds sql.html, which asks catalogue.parquet in SQL, in the browser and of no other
    host. It needs a web server, such as python -m http.server, and version 1.28.0 of the client,
    which `npm install @duckdb/duckdb-wasm@1.28.0` puts into node_modules.

    \b
        lpp-analyze publish ./lpp --to ./catalogue/lpp
        lpp-analyze catalogue ./catalogue
        lpp-analyze catalogue ./catalogue --duckdb-wasm node_modules
    """
    from lpp.analyze.publish.catalogue import write_catalogue

    page, entries = write_catalogue(folder, client)
    click.echo(f"{page}: {counted(len(entries), 'store')}")
