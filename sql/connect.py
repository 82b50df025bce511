"""Connections to the tables of a store, with `token_stats` over its Arrow files.

The database is attached to one in memory, not opened: DuckDB keeps one instance per path and
process, so a notebook that opened the file again after a rebuild would still see the old one,
and a second connection with another mode would be refused.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lpp.sql.ddl import comment_view, literal, unread_view
from lpp.sql.lock import Access, lock
from lpp.sql.place import store_root, token_files
from lpp.sql.schema import TOKEN_STATS, arrow_schema
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.keys import DATABASE_KEY, QUARANTINE_KEY, RUNS_KEY
from lpp.store.objects.copies import copied_path, fetched
from lpp.store.objects.place import Place, Url

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

DATABASE: Final = "lpp"
"""Name of the attached database inside a connection: `lpp.main.profiles`."""

_UNREAD: Final = (
    "token_stats is read from the store only when the SQL names it. "
    "Add a comment to the SQL that does: /* token_stats */"
)


def connect(
    url: Url,
    *,
    write: bool = False,
    allow_files: bool = False,
    token_stats: bool = True,
) -> "DuckDBPyConnection":
    """A DuckDB connection to the profiles of the store at `url`, read-only unless `write`.

    Its SQL reaches the tables and nothing else: no file, no variable of Python, no network, no
    extension, and no disk for what does not fit into memory. `write` brings that disk, a private
    folder; `allow_files` brings files and variables too. Frames that are registered can be read
    either way.

    The tables of `lpp.sql.TABLES` need no qualification; `token_stats` is a view over the token
    files of all committed shards, read as far as a query's columns and runs need, without prompts
    that capture set aside. With
    `token_stats=False` it is listed but cannot be read, and connecting costs no import of
    pyarrow (0.2 s). A connection keeps the tables it opened, even when they are rebuilt.

    Of a store in a bucket the database, and with `token_stats` every token file, is fetched to
    this machine first, once in a process.

    Raises FormatError (not a store, a damaged database), InputError(NOT_FOUND) when nothing was
    profiled yet, InputError(READ_ONLY) for `write` in a bucket, ConflictError(IN_USE) beside a
    writer in this or another process.

    >>> con = connect("./lpp")  # doctest: +SKIP
    >>> con.sql("SELECT run, entropy_floor FROM profiles")  # doctest: +SKIP
    """
    spill = write or allow_files
    access = Access(files=allow_files, variables=allow_files, spill=spill)
    return connect_with(access, url, write=write, token_stats=token_stats)


def connect_with(
    access: Access, url: Url, *, write: bool, token_stats: bool
) -> "DuckDBPyConnection":
    """The same with `access` as the caller wants it."""
    root = store_root(url)
    if write:
        refuse_in_bucket(root)
    database = profiles_path(root)
    connection = _attach(database, root, write=write)
    try:
        if token_stats:
            _register_token_stats(connection, root)
        else:
            connection.execute(unread_view(TOKEN_STATS, _UNREAD))
        for statement in comment_view(TOKEN_STATS):
            connection.execute(statement)
        lock(connection, access)
    except BaseException:
        connection.close()
        raise
    return connection


def refuse_in_bucket(root: Place) -> None:
    """InputError(READ_ONLY) for a store whose database is replaced whole, never written to."""
    if not isinstance(root, Path):
        raise InputError(
            f"{root}: the tables of a store in a bucket are not written in place. Leave --write "
            "out, or copy the store to a disk; each lpp-analyze command replaces its own tables.",
            kind=ErrorKind.READ_ONLY,
        )


def profiles_path(root: Place) -> Path:
    """The database of the store at `root`, or the copy of it that was fetched from a bucket;
    InputError(NOT_FOUND) when there is none yet.
    """
    database = root / DATABASE_KEY
    try:
        file = database if isinstance(database, Path) else fetched(database)
    except FileNotFoundError:
        file = None
    if file is None or not file.is_file():
        raise InputError(
            f"{database}: no profiles yet. Compute them: lpp-analyze profile {root}",
            kind=ErrorKind.NOT_FOUND,
        )
    return file


def _attach(database: Path, root: Place, *, write: bool) -> "DuckDBPyConnection":
    import duckdb

    from lpp.sql.faults import opening_fault

    connection = duckdb.connect()
    mode = "" if write else " (READ_ONLY)"
    try:
        connection.execute(f"ATTACH {literal(str(database))} AS {DATABASE}{mode}; USE {DATABASE}")
    except duckdb.Error as error:
        connection.close()
        raise opening_fault(error, database, root) from error
    return connection


def _register_token_stats(connection: "DuckDBPyConnection", root: Place) -> None:
    """A view over an Arrow dataset: DuckDB hands it the columns and filters of each query."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    from lpp.store.format.arrow_limits import refuse_bomb

    schema = arrow_schema(TOKEN_STATS)
    runs = ds.DirectoryPartitioning(pa.schema([schema.field("run")]), segment_encoding="none")
    if isinstance(root, Path):
        files, base = list(token_files(root)), root / RUNS_KEY
        aside = _set_aside(base, files)
    else:
        from lpp.store import open_store

        stored = open_store(root).runs.values()
        files = [file for run in stored for file in run.tokens_files()]
        aside = [{"run": run.id, "prompt_id": int(p)} for run in stored for p in run.quarantined]
        base = copied_path(root / RUNS_KEY)
    for path in files:
        refuse_bomb(path)
    dataset = ds.dataset(
        [str(path) for path in files],
        schema=schema,
        format="ipc",
        partitioning=runs,  # the first folder below `runs/` is the run's id
        partition_base_dir=str(base),
    )
    if not aside:
        connection.register(TOKEN_STATS.name, dataset)
        return
    connection.register(f"{TOKEN_STATS.name}_with_set_aside", dataset)
    connection.register("set_aside", pa.Table.from_pylist(aside))
    connection.execute(
        f"CREATE TEMP VIEW {TOKEN_STATS.name} AS FROM {TOKEN_STATS.name}_with_set_aside AS t "
        "WHERE NOT EXISTS (FROM set_aside AS s WHERE s.run = t.run AND s.prompt_id = t.prompt_id)"
    )


def _set_aside(runs: Path, files: Iterable[Path]) -> list[dict[str, object]]:
    """Run and id of each prompt that the shard of one of these token files sets aside."""
    import pyarrow as pa

    found: list[dict[str, object]] = []
    for tokens in files:
        path = tokens.with_name(QUARANTINE_KEY)
        if path.is_file():
            with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
                ids = reader.read_all()["prompt_id"].to_pylist()
            run = tokens.relative_to(runs).parts[0]
            found += [{"run": run, "prompt_id": prompt} for prompt in ids]
    return found
