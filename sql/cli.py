"""`lpp-sql`: ask the profiles of a store anything, in SQL."""

import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

from lpp.sql.connect import connect_with, profiles_path, refuse_in_bucket
from lpp.sql.lock import Access
from lpp.sql.place import store_root
from lpp.sql.saved import Query, saved_queries, saved_query
from lpp.sql.schema import TOKEN_STATS, reference
from lpp.store.commands.console import LppCommand, debug_option
from lpp.store.errors import ErrorKind, FormatError, InputError, MachineError
from lpp.store.objects.place import Place

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, Statement

FORMATS: Final = ("table", "csv", "json", "parquet")

_SAVED: Final = "saved_query"
"""Temporary table that holds the answer of a saved query."""

_EXAMPLE: Final = 'lpp-sql ./lpp "SELECT run, entropy_floor FROM profiles"'


@click.command(cls=LppCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("store", required=False)
@click.argument("sql", required=False)
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    help="How to write the result. Default: by the ending of --output, else table.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write to FILE, which appears only when it is whole. Default: standard output.",
)
@click.option("--write", is_flag=True, help="Let the SQL change the tables.")
@click.option(
    "--allow-files", is_flag=True, help="Let the SQL open files: COPY, ATTACH, read_csv and so on."
)
@click.option("--list", "list_", is_flag=True, help="Print the saved queries.")
@click.option("--run", "name", metavar="NAME", help="Run a saved query in place of SQL.")
@click.option("--show", metavar="NAME", help="Print the SQL of a saved query, to start from.")
@click.option("--schema", is_flag=True, help="Print tables, columns and units.")
@click.option("--shell", is_flag=True, help="Open DuckDB's own shell on the tables.")
@debug_option
def main(
    *,
    store: str | None,
    sql: str | None,
    format_: str | None,
    output: Path | None,
    write: bool,
    allow_files: bool,
    list_: bool,
    name: str | None,
    show: str | None,
    schema: bool,
    shell: bool,
) -> None:
    """Run SQL on the profiles of STORE, or on `token_stats`, its statistics of every token.

    SQL may be - to read it from standard input. Several statements run in order; the result of
    the last is written. A table shows the first and last of more than 40 rows, and one column
    per line where the terminal is too narrow; the other formats write every row.

    The tables are open read-only and the SQL opens no files: --write lifts the one, --allow-files
    the other. It never loads extensions or uses the network. Each `lpp-analyze` command replaces
    its own tables whole, and with them whatever --write added to those.

    Saved queries answer what people ask most; a table comes with how to read it.

    \b
        lpp-sql ./lpp --list
        lpp-sql ./lpp --run hourglass
        lpp-sql ./lpp "SELECT * FROM profiles ORDER BY entropy_floor"
        lpp-sql ./lpp "SELECT * FROM spectra" -o spectra.parquet
        lpp-sql ./lpp "SELECT avg(entropy) FROM token_stats" --format json
        lpp-sql --schema
    """
    if schema:
        click.echo(reference())
        return
    if list_ or show is not None:
        click.echo(_listing(store) if show is None else saved_query(show).text, nl=False)
        return
    if store is None:
        raise click.UsageError(f"Name a store, and the SQL to run on it, such as: {_EXAMPLE}")
    if shell:
        _open_shell(store, write=write, allow_files=allow_files)
    if (sql is None) == (name is None):
        what = "No SQL to run" if sql is None else "SQL or --run NAME, not both"
        raise click.UsageError(f"{what}. Such as: {_EXAMPLE}")
    query = None if name is None else saved_query(name)
    text = _text(sql or "") if query is None else query.text
    root = store_root(store)
    form = format_ or _format_of(output)
    # Named nowhere, token_stats stays unread: loading pyarrow takes longer than most queries.
    named = TOKEN_STATS.name in text.casefold()
    with _parquet(form, output) as result:
        access = Access(files=allow_files, result=result)
        with closing(connect_with(access, root, write=write, token_stats=named)) as connection:
            request = _Request(root, form, output, access)
            if query is None:
                _answer(connection, text, request)
            else:
                _answer_saved(connection, query, request)


@dataclass(frozen=True, slots=True)
class _Request:
    """Which store is asked, and where and how the result goes."""

    root: Place
    format: str
    output: Path | None
    access: Access


@contextmanager
def _parquet(format_: str, output: Path | None) -> Iterator[Path | None]:
    """The Parquet file to write, of which a locked connection must know; else None."""
    if format_ != "parquet":
        yield None
        return
    from lpp.sql.faults import full_disk_named
    from lpp.sql.output import binary_output

    if output is None and sys.stdout.isatty():
        raise click.UsageError("Parquet is not for a terminal: add --output FILE, or a pipe.")
    with full_disk_named(output or Path("standard output")), binary_output(output) as path:
        yield path


def _text(sql: str) -> str:
    """The SQL itself, read from standard input for `-`."""
    try:
        text = sys.stdin.buffer.read().decode() if sql == "-" else sql
        text.encode()  # an argument that is not UTF-8 arrives with surrogates
    except UnicodeError as error:
        raise InputError(
            f"the SQL is not UTF-8 ({error}). Save it as UTF-8 and try again.",
            kind=ErrorKind.BAD_SQL,
        ) from None
    return text


def _format_of(output: Path | None) -> str:
    ending = output.suffix.lower().removeprefix(".") if output else ""
    return ending if ending in FORMATS else "table"


def _listing(store: str | None) -> str:
    """Name and title of every saved query, and how to run one."""
    queries = saved_queries()
    margin = max(map(len, queries))
    lines = [f"{name:<{margin}}  {query.title}" for name, query in queries.items()]
    place = shlex.quote(store or "STORE")
    return "\n".join([*lines, "", f"Run one: lpp-sql {place} --run {next(iter(queries))}", ""])


def _answer_saved(connection: "DuckDBPyConnection", query: Query, request: _Request) -> None:
    """Write the answer of `query`, and to a reader how to read it, or why there is none."""
    # Kept whole, so that it is computed once though it is written and counted: answers are small.
    make = f"CREATE TEMP TABLE {_SAVED} AS\n{query.text}"
    try:
        _answer(connection, make, replace(request, output=None))
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
    _answer(connection, f"FROM {_SAVED}", request)
    ((rows,),) = connection.execute(f"SELECT count(*) FROM {_SAVED}").fetchall()
    place = shlex.quote(str(request.root))
    if not rows:
        click.echo(f"No rows: {query.when_empty.replace('STORE', place)}", err=True)
    elif for_reader:
        reading = query.reading.replace("STORE", place)
        width = shutil.get_terminal_size().columns
        click.echo(textwrap.fill(reading, width, break_long_words=False, break_on_hyphens=False))


def _answer(connection: "DuckDBPyConnection", text: str, request: _Request) -> None:
    """Run every statement of `text`, if all are allowed; write the result of the last one."""
    import duckdb

    from lpp.sql.faults import query_fault
    from lpp.sql.guard import refuse
    from lpp.sql.interrupt import interruptible

    try:
        statements = connection.extract_statements(text)
        if not statements:
            raise click.UsageError(f"The SQL is empty. Such as: {_EXAMPLE}")
        refuse(statements, files=request.access.files)
        interruptible(connection, lambda: _run_all(connection, statements, request))
    except duckdb.Error as error:
        fault = query_fault(error, request.root)
        if fault is None:
            raise
        raise fault from error


def _run_all(
    connection: "DuckDBPyConnection", statements: "list[Statement]", request: _Request
) -> None:
    from lpp.sql.faults import full_disk_named
    from lpp.sql.formats import discard

    for statement in statements[:-1]:
        discard(connection, statement)
    with full_disk_named(request.output or Path("standard output")):
        _write_result(connection, statements[-1], request)


def _write_result(
    connection: "DuckDBPyConnection", statement: "Statement", request: _Request
) -> None:
    from lpp.sql import formats
    from lpp.sql.output import text_output
    from lpp.sql.table import write_table

    if not _has_result(statement):
        if request.output is not None:
            raise click.UsageError("The last statement has no rows to write: leave --output out.")
        formats.discard(connection, statement)
    elif request.access.result is not None:
        formats.write_parquet(connection, statement, str(request.access.result))
    else:
        writer = {"csv": formats.write_csv, "json": formats.write_json, "table": write_table}
        with text_output(request.output) as stream:
            writer[request.format](connection, statement, stream)


def _has_result(statement: "Statement") -> bool:
    import duckdb

    may_return = duckdb.ExpectedResultType.QUERY_RESULT in statement.expected_result_type
    return may_return and statement.type.name != "CREATE"


def _open_shell(store: str, *, write: bool, allow_files: bool) -> NoReturn:
    """Become DuckDB's shell on the tables of `store`, in its safe mode unless `allow_files`."""
    root = store_root(store)
    if write:
        refuse_in_bucket(root)
    database = profiles_path(root)
    program = shutil.which("duckdb")
    if program is None:
        raise MachineError(
            "no `duckdb` program on the PATH. Install DuckDB's shell with "
            "`pip install duckdb-cli`, then repeat the command.",
            kind=ErrorKind.NO_PACKAGE,
        )
    click.echo(f"token_stats is not in this shell: `lpp-sql {store} ...` has it.", err=True)
    sys.stdout.flush()
    # Not its flag -safe, which makes some releases (1.5.6) refuse to start.
    safe = [] if allow_files else ["-cmd", ".safe_mode"]
    words = [program, *safe, *([] if write else ["-readonly"]), str(database)]
    if not isinstance(root, Path):
        import subprocess

        sys.exit(subprocess.call(words))  # this process stays, to remove its copy at the end
    os.execv(program, words)
