"""`--list` and `--run`: the saved queries, and how to read their answers."""

import shlex
import shutil
import textwrap
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import click

from lpp.sql.cli.answer import Request, answer
from lpp.sql.database.files import profiles_path
from lpp.sql.queries.saved import Query, saved_queries
from lpp.store.errors import ErrorKind, FormatError, InputError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_SAVED: Final = "saved_query"
"""Temporary table that holds the answer of a saved query."""


def listing(store: str | None) -> str:
    """Name and title of every saved query, and how to run one."""
    queries = saved_queries()
    margin = max(map(len, queries))
    lines = [f"{name:<{margin}}  {query.title}" for name, query in queries.items()]
    place = shlex.quote(store or "STORE")
    return "\n".join([*lines, "", f"Run one: lpp-sql {place} --run {next(iter(queries))}", ""])


def answer_saved(connection: "DuckDBPyConnection", query: Query, request: Request) -> None:
    """Write the answer of `query`; for a reader also how to read it, or why it is empty."""
    # Stored in a table, so that it is computed once although it is written and counted: answers are
    # small.
    make = f"CREATE TEMP TABLE {_SAVED} AS\n{query.text}"
    try:
        answer(connection, make, replace(request, output=None))
    except InputError as error:
        if error.kind is not ErrorKind.BAD_SQL:
            raise
        raise FormatError(
            f"{profiles_path(request.root)} has not the tables that `{query.name}` reads: "
            f"{str(error).splitlines()[0]}\nAnother release made it. Write it anew: "
            f"lpp-analyze profile {request.root}",
            kind=ErrorKind.UNSUPPORTED_VERSION,
        ) from error
    for_reader = request.format == "table" and request.output is None
    if for_reader:
        click.echo(query.title)
    answer(connection, f"FROM {_SAVED}", request)
    ((rows,),) = connection.execute(f"SELECT count(*) FROM {_SAVED}").fetchall()
    place = shlex.quote(str(request.root))
    if not rows:
        click.echo(f"No rows: {query.when_empty.replace('STORE', place)}", err=True)
    elif for_reader:
        reading = query.reading.replace("STORE", place)
        width = shutil.get_terminal_size().columns
        click.echo(textwrap.fill(reading, width, break_long_words=False, break_on_hyphens=False))
