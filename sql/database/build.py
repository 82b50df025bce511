"""Build `profiles.duckdb` from finished Arrow tables: in a new file, which then replaces the old
one.

The old file may come from an untrusted source. It is attached inside the limits of
`lpp.sql.confinement.connection_lock`, and only rows of plain tables are taken from it.
"""

import logging
import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lpp.sql.confinement.connection_lock import Access, attach_locked
from lpp.sql.confinement.temporary import misread, temporary_folder
from lpp.sql.database.catalogue import (
    Columns,
    fits,
    further_columns,
    other_objects,
    plain_tables,
)
from lpp.sql.database.conform import conform, with_further_columns
from lpp.sql.database.declared import copy_declared
from lpp.sql.database.files import aside_name, plain_database
from lpp.sql.database.merge import (
    find_unchanged,
    flag_different_prompts,
    make_profiles,
    merge_rows,
)
from lpp.sql.database.outdated import doubts
from lpp.sql.schema.columns import Table
from lpp.sql.schema.ddl import add_column, identifier, literal
from lpp.sql.schema.tables import TABLES
from lpp.store.errors import ConflictError, ErrorKind, InputError
from lpp.store.format.keys import DATABASE_KEY, ROOT_KEY
from lpp.store.objects.place import Place

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_log = logging.getLogger("lpp.sql")

STORAGE_VERSION: Final = "v1.0.0"
"""DuckDB file version. Every client since 1.1 opens it; DuckDB 2's default needs DuckDB 2. (DuckDB
1.0 cannot read the index of a primary key that a later release wrote.)"""

LOCK_SECONDS: Final = 120
"""Time after which another builder of the same database counts as suspended."""

_TRIES: Final = 20
"""Times that a database is built anew because another builder replaced the old one meanwhile."""

_MAX_NAMED: Final = 12
"""Most tables and views named in a warning about what is not kept."""


def build(
    root: Place,
    tables: "Mapping[str, pa.Table] | Callable[[], Mapping[str, pa.Table]]",
    *,
    keep: Collection[str] = (),
    merge: bool = False,
) -> Place:
    """Write `<root>/profiles.duckdb` from `tables`, whole or not at all; returns its path.

    Columns may come in any order and in any Arrow type that holds the declared type's values
    (`lpp.sql.arrow_schema`). A table that is not given is empty, unless `keep` names it: then it
    keeps the rows of the old file, if that has a plain table with the declared columns. With
    `merge`, a table of results (`Table.merging`) has its rows in `tables`, and those of the old
    file whose run is unchanged (`shards` and `kernel` of the table `runs`), and its items, if it is
    made of any (`items` of the table `evaluations`). If `site_profiles` is merged, `profiles` is
    derived from it. Views, other tables and tables with other columns are not kept, and the logger
    `lpp.sql` warns of them. An old file that cannot be read whole is set aside, and later answers
    name it (`outdated.doubts`).

    A process that has the old file open keeps reading it. Builders of one file work one after the
    other, so that the next merges the rows of the one before; tables that depend on what the store
    holds are given as a function, which is called then. In a bucket, and if DuckDB misreads the
    path, the file is built in TMPDIR and put as a whole, over the version that was read: where
    another builder was first, it is built again.

    Raises InputError(INVALID_VALUE) that names every unknown table, missing or unknown column and
    wrong type, or the row whose key occurs twice; ConflictError(IN_USE) while another process
    writes to the old file; FormatError if the old file is a link; MachineError(NO_SPACE).
    """
    merged = [name for name, table in TABLES.items() if merge and table.merging]

    def rebuild(file: Path, aside: str) -> list[str]:
        return _rebuild(
            file, aside, conform(tables() if callable(tables) else tables), keep, merged
        )

    target = root / DATABASE_KEY
    if isinstance(root, Path) and not misread(root):
        from lpp.store.objects.locks import locked

        with locked(root / ROOT_KEY, LOCK_SECONDS):
            left = rebuild(plain_database(root).absolute(), aside_name(root))
    else:
        left = _rebuilt_elsewhere(root, rebuild)
    for line in doubts(root):
        _log.warning("%s", line)
    if left:
        named = [text if text.isprintable() else ascii(text) for text in left[:_MAX_NAMED]]
        if len(left) > _MAX_NAMED:
            named.append(f"and {len(left) - _MAX_NAMED} more")
        _log.warning("%s: not kept from the old file: %s.", target, ", ".join(named))
    return target


def _rebuilt_elsewhere(root: Place, rebuild: Callable[[Path, str], list[str]]) -> list[str]:
    """Rebuild a copy in TMPDIR, and put it in the place of the version that was copied."""
    from lpp.store.objects.locate import objects_at

    objects = objects_at(root)
    objects.check_exclusive()
    for _ in range(_TRIES):
        if isinstance(root, Path):
            plain_database(root)
        with temporary_folder() as folder:
            file, aside, version = folder / DATABASE_KEY, aside_name(root), None
            with suppress(FileNotFoundError):
                data, version = objects.get_version(DATABASE_KEY, 1 << 40)
                file.write_bytes(data)
            left = rebuild(file, aside)
            for name in (aside, f"{aside}.wal"):
                if (folder / name).exists():
                    objects.put(name, (folder / name).read_bytes())
            built = file.read_bytes()
        new = (DATABASE_KEY, built)
        if objects.put_new(*new) if version is None else objects.put_over(*new, version):
            return left
    raise ConflictError(
        f"{root / DATABASE_KEY}: others write it all the time. Repeat the command when they are "
        "done.",
        kind=ErrorKind.IN_USE,
    )


def _rebuild(
    target: Path,
    aside: str,
    tables: "Mapping[str, pa.Table]",
    keep: Collection[str],
    merged: Collection[str],
) -> list[str]:
    """Replace the database at `target`; returns descriptions of what was not kept: all, if it is so
    damaged that DuckDB gives up. An old database that cannot be read whole gets the name `aside`.
    """
    import duckdb

    from lpp.sql.database.faults import first_lines, is_damage, is_full

    try:
        return _replaced(target, aside, tables, keep, merged)
    except duckdb.Error as error:
        if is_full(error) or not is_damage(error):
            raise
        damage = f"all of a damaged file ({first_lines(error, 1)})"
        return _replaced(target, aside, tables, keep, merged, damage=damage)


def _replaced(
    target: Path,
    aside: str,
    tables: "Mapping[str, pa.Table]",
    keep: Collection[str],
    merged: Collection[str],
    *,
    damage: str = "",
) -> list[str]:
    """`_rebuild`. damage: why no row of the old database is read; empty: its rows are read."""
    import duckdb

    from lpp.sql.database.faults import full_disk_named
    from lpp.store.objects.disk import DiskObjects

    # In a folder of its own: DuckDB puts a log and a folder beside its file.
    objects = DiskObjects(target.parent)
    objects.sweep()
    with full_disk_named(target), objects.scratch() as folder:
        beside = folder / target.name
        connection = duckdb.connect()
        try:
            name = literal(str(beside))
            version = literal(STORAGE_VERSION)
            connection.execute(f"ATTACH {name} AS built (STORAGE_VERSION {version}); USE built")
            copy_declared(connection, folder)
            old = target if target.exists() and not damage else None
            unread = _attach_old(connection, old, beside) or [damage] * bool(damage)
            _fill(connection, tables)
            left: list[str] = []
            if old and not unread:
                left, unread = _old_rows(connection, tables, keep, merged)
            if "site_profiles" in merged:
                flag_different_prompts(connection, merged)
                make_profiles(connection)
            connection.execute("CHECKPOINT built; USE memory; DETACH built")
            if unread:
                _set_aside(target, target.with_name(aside))
            # A log beside the file would be replayed into any file of its name.
            target.with_name(target.name + ".wal").unlink(missing_ok=True)
            # while `old` is attached, nobody can write to it
            objects.put_file(target.name, beside)
        finally:
            with suppress(duckdb.Error):  # after a failed write, closing fails as well
                connection.close()
    return left + unread


def _set_aside(target: Path, aside: Path) -> None:
    """Give the database and its log another name. The database keeps its old name too, until it is
    replaced, where the file system has hard links.
    """
    for path in (target, target.with_name(target.name + ".wal")):
        if path.exists():
            name = aside.with_name(path.name.replace(target.name, aside.name))
            try:
                os.link(path, name)
            except OSError:
                path.rename(name)


def _attach_old(
    connection: "duckdb.DuckDBPyConnection", path: Path | None, beside: Path
) -> list[str]:
    """Lock `connection`, which writes only `beside`, then attach the database at `path` as `old`.

    Returns what cannot be read: all, or nothing. Raises ConflictError(IN_USE) while another
    process writes.
    """
    import duckdb

    from lpp.sql.database.faults import first_lines, in_use, is_in_use

    old = {"old": path} if path else {}
    try:
        attach_locked(connection, old, Access(result=beside))
    except duckdb.Error as error:
        if is_in_use(error):
            raise in_use(old["old"], error) from error
        return [f"all of a file that DuckDB cannot read ({first_lines(error, 1)})"]
    return []


def _fill(connection: "duckdb.DuckDBPyConnection", tables: "Mapping[str, pa.Table]") -> None:
    connection.execute("BEGIN")  # one commit: one pass over the log
    for name, rows in tables.items():
        made = with_further_columns(TABLES[name], rows)
        for column in made.columns[len(TABLES[name].columns) :]:
            for statement in add_column(TABLES[name], column.name, column.type):
                connection.execute(statement)
        _insert(connection, made, rows)
    connection.execute("COMMIT")


def _insert(connection: "duckdb.DuckDBPyConnection", table: Table, rows: "pa.Table") -> None:
    import duckdb

    names = ", ".join(identifier(column.name) for column in table.columns)
    connection.register("incoming", rows)
    try:
        connection.execute(f"INSERT INTO {identifier(table.name)} SELECT {names} FROM incoming")
    except (duckdb.ConstraintException, duckdb.ConversionException) as error:
        raise InputError(f"table {table.name}, key ({', '.join(table.key)}): {error}") from error
    connection.unregister("incoming")


def _keep(connection: "duckdb.DuckDBPyConnection", table: Table, columns: Columns) -> None:
    """Copy every row of the table in `old`, with these columns."""
    for name, kind in further_columns(table, columns):
        for statement in add_column(table, name, kind):
            connection.execute(statement)
    names = ", ".join(identifier(name) for name, _ in columns)
    target = identifier(table.name)
    connection.execute(f"INSERT INTO {target} ({names}) SELECT {names} FROM old.main.{target}")


def _old_rows(
    connection: "duckdb.DuckDBPyConnection",
    tables: Collection[str],
    keep: Collection[str],
    merged: Collection[str],
) -> tuple[list[str], list[str]]:
    """Copy rows of `old` into the tables in `keep` that are not given in `tables`, and into those
    in `merged`; returns descriptions of what was left out, and of what could not be read.
    """
    import duckdb

    from lpp.sql.database.faults import first_lines, is_full

    try:
        old_tables = plain_tables(connection, "old")
        left = other_objects(connection, "old")
    except duckdb.Error as error:
        return [], [f"all of a file whose catalogue is damaged ({first_lines(error, 1)})"]
    unread = []
    usable = {name: fits(TABLES[name], old_tables[name]) for name in TABLES if name in old_tables}
    try:
        find_unchanged(connection, [name for name, fitting in usable.items() if fitting])
    except duckdb.Error as error:  # blocks of its tables about the store are damaged
        if is_full(error) or isinstance(error, duckdb.FatalException):
            raise
        unread.append(f"rows of earlier commands ({first_lines(error, 1)})")
        find_unchanged(connection, ())
    copied = [name for name in keep if name not in tables]
    for name in [name for name in TABLES if name in copied or name in merged]:
        if not usable.get(name, True):
            left.append(f"table {name} (other columns)")
        if not usable.get(name, False):
            continue
        try:
            # Most tables of most stores are empty. This query takes 0.2 ms, merging no rows 20.
            old = f"FROM old.main.{identifier(name)}"
            if connection.execute(f"SELECT 1 {old} LIMIT 1").fetchone() is None:
                continue
            if name in merged:
                comparable = usable.get("runs", False)
                left += merge_rows(connection, name, comparable=comparable, told=name not in tables)
            else:
                _keep(connection, TABLES[name], old_tables[name])
        except duckdb.Error as error:  # its rows break the key, or its blocks are damaged
            if is_full(error) or isinstance(error, duckdb.FatalException):
                raise
            unread.append(f"table {name} ({first_lines(error, 1)})")
    return left, unread
