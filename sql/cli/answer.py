"""Running the statements of a command and writing the result of the last one."""

import contextlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from lpp.sql.confinement.connection_lock import Access
from lpp.sql.schema import TABLES
from lpp.store.errors import ErrorKind, InputError, LppError
from lpp.store.objects.place import Place

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, Statement

EXAMPLE: Final = 'lpp-sql ./lpp "SELECT run, entropy_floor FROM profiles"'


@dataclass(frozen=True, slots=True)
class Request:
    """The store that is queried, where the result goes and in what format, and how long it may
    take.
    """

    root: Place
    format: str
    output: Path | None
    access: Access
    seconds: float


def answer(connection: "DuckDBPyConnection", text: str, request: Request) -> None:
    """Run every statement of `text`, if all are allowed; write the result of the last one."""
    import duckdb

    from lpp.sql.confinement.statement_filter import refuse
    from lpp.sql.confinement.time_limit import run_limited
    from lpp.sql.database.faults import query_fault

    try:
        statements = connection.extract_statements(text)
        if not statements:
            raise click.UsageError(f"The SQL is empty. Such as: {EXAMPLE}")
        refuse(connection, statements, files=request.access.files)
        run_limited(connection, lambda: _run_all(connection, statements, request), request.seconds)
    except duckdb.Error as error:
        fault = query_fault(error, request.root, text)
        if fault is None:
            raise
        if isinstance(error, duckdb.CatalogException | duckdb.BinderException):
            _refuse_outdated(request, fault)
        raise fault from error


def _refuse_outdated(request: Request, fault: LppError) -> None:
    """Raise `fault` with the tables that another release made and the command that makes them
    again, if there are such tables: the SQL may be right.
    """
    from lpp.sql.database.catalogue import refuse_outdated

    try:
        refuse_outdated(request.root, whole=True)
    except LppError as outdated:
        if outdated.kind is ErrorKind.UNSUPPORTED_VERSION:
            raise InputError(f"{fault}\n{outdated}", kind=fault.kind) from outdated


def name_empty_tables(connection: "DuckDBPyConnection", text: str, request: Request) -> None:
    """For a reader: say which of the tables that the SQL reads are empty, and what fills them."""
    import duckdb

    if request.format != "table" or request.output is not None or request.access.write:
        return  # with --write, the user's own statement may have emptied a table
    words = set(re.findall(r"\w+", text.casefold()))  # the tables behind a view are not named
    store = shlex.quote(str(request.root))
    for name in sorted(words & TABLES.keys() & _tables_read(connection, text)):
        with contextlib.suppress(duckdb.Error):  # the SQL may have dropped it
            if not connection.execute(f"FROM {name} LIMIT 1").fetchall():
                command = TABLES[name].filled_by.replace("STORE", store)
                click.echo(f"The table {name} is empty. To fill it: {command}", err=True)


def _tables_read(connection: "DuckDBPyConnection", text: str) -> set[str]:
    """Names of the tables that the statements read, also through views."""
    import duckdb

    read: set[str] = set()
    for statement in connection.extract_statements(text):
        with contextlib.suppress(duckdb.Error):  # PIVOT is several statements to DuckDB
            read |= {name.casefold() for name in connection.get_table_names(statement.query)}
    return read


def _run_all(
    connection: "DuckDBPyConnection", statements: "list[Statement]", request: Request
) -> None:
    from lpp.sql.database.faults import full_disk_named
    from lpp.sql.results.formats import discard

    for statement in statements[:-1]:
        discard(connection, statement)
    with full_disk_named(request.output or Path("standard output")):
        _write_result(connection, statements[-1], request)


def _write_result(
    connection: "DuckDBPyConnection", statement: "Statement", request: Request
) -> None:
    from lpp.sql.results import formats
    from lpp.sql.results.output import text_output
    from lpp.sql.results.table import write_table

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
