"""Connections to the tables of a store, with views over its Arrow files: `token_stats`,
`vocabulary`.

The database is attached to one in memory, not opened directly: DuckDB keeps one instance per path
and process, so a notebook that opened the file again after a rebuild would still see the old one,
and a second connection with another mode would be refused.
"""

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lpp.sql.confinement.connection_lock import Access, attach_locked
from lpp.sql.confinement.temporary import folder_of, misread
from lpp.sql.database.files import profiles_path
from lpp.sql.database.outdated import recorded_runs, warn_of_doubts
from lpp.sql.database.views import STORED, add_store_tables, add_views
from lpp.sql.place import store_root
from lpp.store.errors import ErrorKind, InputError, LppError
from lpp.store.objects.place import Place, Url, is_read_only, read_only

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

DATABASE: Final = "lpp"
"""Name of the attached database inside a connection: `lpp.main.profiles`."""


def connect(
    url: Url,
    *,
    write: bool = False,
    allow_files: bool = False,
    token_stats: bool = True,
) -> "DuckDBPyConnection":
    """A DuckDB connection to the profiles of the store at `url`, read-only unless `write`.

    Its SQL can access the tables only: no file, no Python variable, no network, no extension, and
    no disk for data that does not fit into memory. With `write` it may change the tables, and can
    damage the file that holds them. `allow_files` adds files, variables, and a private folder for
    data that does not fit into memory. Registered frames can always be read.

    The tables of `lpp.sql.TABLES` need no qualification. `token_stats` is a view over the token
    files of all committed shards, without quarantined prompts. Each file is compared with its
    checksum first; a query reads only the columns and runs that it needs. `vocabulary` is a view
    over the tokens of the runs' tokenizers as text. With `token_stats=False` both views are listed
    but cannot be read, and connecting does not import pyarrow (0.2 s). A connection keeps the
    tables it opened, even if they are rebuilt. The logger `lpp.sql` names the runs whose shards
    have changed since the tables were computed.

    If nothing was profiled yet, the views and the tables `runs` and `prompts` are read from the
    store; every other table fails when it is used.

    For a store in a bucket the database, and with `token_stats` every token file and vocabulary, is
    downloaded first, once per process.

    Raises FormatError (not a store, a damaged database or token file), InputError(NOT_FOUND) if
    nothing was profiled yet and `write` or `token_stats=False` needs the file,
    InputError(READ_ONLY) for `write` in a bucket, ConflictError(IN_USE) while this or another
    process writes.

    >>> con = connect("./lpp")  # doctest: +SKIP
    >>> con.sql("SELECT run, entropy_floor FROM profiles")  # doctest: +SKIP
    """
    access = Access(write=write, files=allow_files, variables=allow_files, spill=allow_files)
    connection = connect_with(access, url, read=STORED if token_stats else ())
    warn_of_doubts(connection, store_root(url))
    return connection


@contextmanager
def reading(url: Url, *, token_stats: bool = False) -> "Iterator[DuckDBPyConnection]":
    """`connect` for this project's own queries: a damaged database raises FormatError(CORRUPT), and
    nothing is logged.
    """
    from lpp.sql.database.faults import damage_named

    read = STORED if token_stats else ()
    with damage_named(store_root(url)), connect_with(Access(), url, read=read) as connection:
        yield connection


def connect_with(access: Access, url: Url, *, read: Collection[str]) -> "DuckDBPyConnection":
    """Like `connect`, with the caller's `access`. read: names of the views that can be read."""
    import duckdb

    from lpp.sql.database.faults import opening_fault

    root = store_root(url)
    if access.write:
        refuse_in_bucket(root)
    try:
        database = profiles_path(root)
    except InputError:
        if access.write or not read:
            raise
        return _of_store(access, root, read)
    connection = duckdb.connect()
    if misread(database):
        database = _copy(database, connection, access)
    try:
        attach_locked(connection, {DATABASE: database}, access)
        connection.execute(f"USE {DATABASE}")
    except duckdb.Error as error:
        connection.close()
        raise opening_fault(error, database, root) from error
    try:
        add_views(connection, root, read)
    except BaseException:
        connection.close()
        raise
    return connection


def recorded_in(root: Place) -> dict[str, tuple[str, int]]:
    """`recorded_runs` of the database of the store at `root`; empty if none can be read."""
    try:
        with connect_with(Access(), root, read=()) as connection:
            return recorded_runs(connection)
    except LppError:
        return {}


def _of_store(access: Access, root: Place, read: Collection[str]) -> "DuckDBPyConnection":
    """A connection to a store without profiles: what the store itself answers."""
    import duckdb

    connection = duckdb.connect()
    try:
        attach_locked(connection, {}, access)
        add_views(connection, root, read)
        add_store_tables(connection, root, read)
    except BaseException:
        connection.close()
        raise
    return connection


def _copy(database: Path, connection: "DuckDBPyConnection", access: Access) -> Path:
    """A copy of `database` at a path that DuckDB reads correctly; it exists as long as
    `connection`.
    """
    if access.write:
        raise InputError(
            f"{database}: DuckDB cannot write below a directory with ? or \\ in its name. "
            "Rename the directory, or leave --write out.",
            kind=ErrorKind.READ_ONLY,
        )
    copy = folder_of(connection) / database.name
    shutil.copyfile(database, copy)
    return copy


def refuse_in_bucket(root: Place) -> None:
    """Raise InputError(READ_ONLY) for a store in a bucket, whose database is only replaced as a
    whole, and MachineError(READ_ONLY) for one at an address.
    """
    if is_read_only(root):
        raise read_only(root)
    if not isinstance(root, Path):
        raise InputError(
            f"{root}: the tables of a store in a bucket are not written in place. Leave --write "
            "out, or copy the store to a disk; each lpp-analyze command replaces its own tables.",
            kind=ErrorKind.READ_ONLY,
        )
