"""`--list` and `--run`: the saved queries, and how to read their answers."""

import shlex
import shutil
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import click

from lpp.sql.cli.answer import Request, answer
from lpp.sql.database.files import profiles_path
from lpp.sql.queries.saved import Query, saved_queries
from lpp.store.errors import ErrorKind, FormatError, InputError
from lpp.store.format.run_names import name_lines

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_SAVED: Final = "saved_query"
"""Temporary table that holds the answer of a saved query."""

_OF_RUNS: Final = ("run", "run_a", "run_b")
"""Columns of answers that hold run ids."""


def listing(store: str | None) -> str:
    """Name and title of every saved query, and how to run one."""
    queries = saved_queries()
    margin = max(map(len, queries))
    lines = [f"{name:<{margin}}  {query.title}" for name, query in queries.items()]
    quoted = shlex.quote(store or "STORE")
    return "\n".join([*lines, "", f"Run one: lpp-sql {quoted} --run {next(iter(queries))}", ""])


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
    names = _names(connection) if for_reader else {}
    answer(connection, _with_names(connection, names), request)
    ((rows,),) = connection.execute(f"SELECT count(*) FROM {_SAVED}").fetchall()
    quoted = shlex.quote(str(request.root))
    if not rows:
        without = _without_profile(connection) if "FROM profiles" in query.text else ""
        click.echo(f"No rows: {query.when_empty.replace('STORE', quoted)}{without}", err=True)
    elif for_reader:
        answered = _runs_answered(connection)
        runs_text = name_lines({run: names[run] for run in names if run in answered})
        click.echo(f"\n{runs_text}" if runs_text else "", nl=False)
        reading = query.reading.replace("STORE", quoted)
        width = shutil.get_terminal_size().columns
        click.echo(textwrap.fill(reading, width, break_long_words=False, break_on_hyphens=False))


def _names(connection: "DuckDBPyConnection") -> dict[str, str]:
    """The name of each run of the database by its id; nothing where another release made it."""
    import duckdb

    try:
        rows = connection.execute("SELECT run, name FROM runs ORDER BY run").fetchall()
    except duckdb.Error:
        return {}
    return dict(rows) if len({name for _, name in rows}) == len(rows) else {}


def _without_profile(connection: "DuckDBPyConnection") -> str:
    """A sentence with the names of the runs that have no profile; empty if every run has one."""
    missing = connection.execute(
        "SELECT name FROM runs WHERE run NOT IN (SELECT run FROM profiles) ORDER BY name"
    ).fetchall()
    return f"\nWithout a profile: {'; '.join(name for (name,) in missing)}" if missing else ""


def _with_names(connection: "DuckDBPyConnection", names: Mapping[str, str]) -> str:
    """The statement that reads the answer, with names of runs in place of their ids."""
    columns = _run_columns(connection)
    if not names or not columns:
        return f"FROM {_SAVED}"
    cases = " ".join(f"WHEN {_quoted(run)} THEN {_quoted(name)}" for run, name in names.items())
    replaced = ", ".join(
        f"CASE {column} {cases} ELSE {column} END AS {column}" for column in columns
    )
    return f"SELECT * REPLACE ({replaced}) FROM {_SAVED}"


def _run_columns(connection: "DuckDBPyConnection") -> list[str]:
    answered = connection.execute(f"FROM {_SAVED} LIMIT 0").description or []
    return [column[0] for column in answered if column[0] in _OF_RUNS]


def _runs_answered(connection: "DuckDBPyConnection") -> set[str]:
    """Ids of the runs in the answer."""
    return {
        run
        for column in _run_columns(connection)
        for (run,) in connection.execute(f"SELECT DISTINCT {column} FROM {_SAVED}").fetchall()
    }


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
