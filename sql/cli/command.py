"""`lpp-sql`: ask the profiles of a store anything, in SQL."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import click

from lpp.sql.cli.answer import EXAMPLE, Request, answer, name_empty_tables
from lpp.sql.cli.saved_answer import answer_saved, listing
from lpp.sql.confinement.connection_lock import Access
from lpp.sql.confinement.temporary import misread, temporary_folder
from lpp.sql.database.connect import connect_with
from lpp.sql.database.outdated import warn_of_doubts
from lpp.sql.database.views import STORED
from lpp.sql.place import store_root
from lpp.sql.queries.saved import saved_queries, saved_query
from lpp.sql.schema import reference
from lpp.store.errors import ErrorKind, InputError
from lpp.store.terminal.completion import complete_names
from lpp.store.terminal.console import FiniteRange, LppCommand, debug_option, version_option
from lpp.store.terminal.output import chosen_format, output_file

_FORMATS: Final = ("table", "csv", "json", "parquet")

_SECONDS: Final = 600.0
"""How long a command may run by default."""


def _size(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    """A number of bytes with its unit, as DuckDB reads it."""
    if text and not re.fullmatch(r"\d+(\.\d+)? ?([KMGT]i?)?B", text, re.IGNORECASE):
        raise click.BadParameter(f"{text!r} is not a size such as 500MB or 50GiB.")
    return text


@click.command(cls=LppCommand)
@version_option
@click.argument("store", required=False)
@click.argument("sql", required=False)
@click.argument("extra", nargs=-1, metavar="")
@click.option(
    "--format",
    "format_",
    type=click.Choice(_FORMATS),
    help="Write in this format. Default: what the name of --output ends in, or table.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=output_file,
    metavar="FILE",
    help="Write to FILE, which appears only when it is whole. Default: standard output.",
)
@click.option("--write", is_flag=True, help="Let the SQL change the tables.")
@click.option(
    "--allow-files", is_flag=True, help="Let the SQL open files: COPY, ATTACH, read_csv and so on."
)
@click.option(
    "--timeout",
    type=FiniteRange(min=0, min_open=True),
    default=_SECONDS,
    metavar="SECONDS",
    help=f"Stop after this time, writing included. Default: {_SECONDS:g}.",
)
@click.option(
    "--spill-limit",
    callback=_size,
    metavar="SIZE",
    help="Let SQL spill at most SIZE to TMPDIR. Default: 10GiB, or half of the free disk.",
)
@click.option("--list", "list_", is_flag=True, help="Print the saved queries.")
@click.option(
    "--run",
    "name",
    metavar="NAME",
    help="Run a saved query instead of SQL.",
    shell_complete=complete_names(saved_queries),
)
@click.option(
    "--show",
    metavar="NAME",
    shell_complete=complete_names(saved_queries),
    help="Print the SQL of a saved query, to start from.",
)
@click.option("--schema", is_flag=True, help="Print tables, columns and units.")
@click.option("--shell", is_flag=True, help="Open DuckDB's own shell on the tables.")
@debug_option
def main(
    *,
    store: str | None,
    sql: str | None,
    extra: tuple[str, ...],
    format_: str | None,
    output: Path | None,
    write: bool,
    allow_files: bool,
    timeout: float,
    spill_limit: str | None,
    list_: bool,
    name: str | None,
    show: str | None,
    schema: bool,
    shell: bool,
) -> None:
    """Run SQL on the profiles of STORE, or on `token_stats`, its statistics of every token.

    SQL may be - to read it from standard input. Several statements run in order; the result of
    the last is written. A table shows at most 40 rows; where the terminal is too narrow, long texts
    take several lines, or each column has a line. The other formats write every row.

    SQL only reads the tables: --write lets it change them, --allow-files lets it open files. It
    never loads extensions or uses the network. The next `lpp-analyze` command replaces the rows
    that it computes, keeps the others of unchanged runs and items, and does not keep tables and
    views of your own.

    Saved queries answer frequent questions and say how to read the table.

    \b
        lpp-sql ./lpp --list
        lpp-sql ./lpp --run differences
        lpp-sql ./lpp "SELECT * FROM profiles ORDER BY entropy_floor"
        lpp-sql ./lpp "SELECT * FROM spectra" -o spectra.parquet
        lpp-sql ./lpp "SELECT avg(entropy) FROM token_stats" --format json
        lpp-sql --schema
    """
    if schema:
        click.echo(reference(shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
        return
    if list_ or show is not None:
        click.echo(listing(store) if show is None else saved_query(show).text, nl=False)
        return
    if extra:
        raise click.UsageError(f"Put the SQL in quotes, such as: {EXAMPLE}")
    if store is None or (sql is None and re.search(r"\s", store) and not os.path.exists(store)):
        raise click.UsageError(f"Name a store, and the SQL to run on it, such as: {EXAMPLE}")
    if shell:
        from lpp.sql.cli.shell import open_shell

        open_shell(store, write=write, allow_files=allow_files)
    if (sql is None) == (name is None):
        what = "No SQL to run" if sql is None else "SQL or --run NAME, not both"
        raise click.UsageError(f"{what}. Such as: {EXAMPLE}")
    query = None if name is None else saved_query(name)
    text = _text(sql or "") if query is None else query.text
    root = store_root(store)
    form = chosen_format(format_, output, _FORMATS)
    # Named nowhere, what the store holds stays unread: loading pyarrow takes longer than most
    # queries.
    named = [name for name in STORED if name in text.casefold()]
    with _parquet(form, output) as result:
        access = Access(
            write=write, files=allow_files, spill=True, spill_limit=spill_limit, result=result
        )
        with closing(connect_with(access, root, read=named)) as connection:
            warn_of_doubts(connection, root)
            request = Request(root, form, output, access, timeout)
            if query is None:
                answer(connection, text, request)
                name_empty_tables(connection, text, request)
            else:
                answer_saved(connection, query, request)


@contextmanager
def _parquet(format_: str, output: Path | None) -> Iterator[Path | None]:
    """The Parquet file to write, of which a locked connection must know; else None."""
    if format_ != "parquet":
        yield None
        return
    from lpp.sql.database.faults import full_disk_named
    from lpp.sql.results.output import binary_output

    if output is None and sys.stdout.isatty():
        raise click.UsageError("Parquet is not for a terminal: add --output FILE, or a pipe.")
    with full_disk_named(output or Path("standard output")), binary_output(output) as path:
        if not misread(path):
            yield path
            return
        with temporary_folder() as folder:
            result = folder / "result"
            yield result
            if result.exists():  # the last statement had rows
                shutil.copyfile(result, path)


def _text(sql: str) -> str:
    """The SQL itself, read from standard input for `-`."""
    try:
        # the bytes of an argument: in an ASCII locale what is UTF-8 arrives with surrogates
        return (sys.stdin.buffer.read() if sql == "-" else os.fsencode(sql)).decode()
    except UnicodeError as error:
        raise InputError(
            f"the SQL is not UTF-8 ({error}). Save it as UTF-8 and try again.",
            kind=ErrorKind.BAD_SQL,
        ) from None
