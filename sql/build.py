"""Building `profiles.duckdb` from finished Arrow tables: beside the old one, then in its place."""

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lpp.sql.ddl import create_table, identifier, literal
from lpp.sql.schema import TABLES, Table, arrow_schema
from lpp.store.errors import ConflictError, ErrorKind, InputError
from lpp.store.format.keys import DATABASE_KEY
from lpp.store.objects.object_path import ObjectPath
from lpp.store.objects.place import Place

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

STORAGE_VERSION: Final = "v1.0.0"
"""DuckDB file version: every client since 1.0 opens it, where DuckDB 2's own needs DuckDB 2."""


def build(root: Place, tables: "Mapping[str, pa.Table]", *, keep: Collection[str] = ()) -> Place:
    """Write `<root>/profiles.duckdb` from `tables`, whole or not at all; returns its path.

    Columns may come in any order and in any Arrow type that holds the declared one's values
    (`lpp.sql.arrow_schema`). Tables that are not given are made empty, but for those named in
    `keep`: their rows come along from the old file, when it has them with the same columns.
    Whoever has the old file open keeps reading it; of two builders at once, the last to finish
    stays, with what it found when it began. In a bucket: built on this machine, then put whole.

    Raises InputError(INVALID_VALUE) naming every unknown table, missing or unknown column and
    wrong type, or the row whose key is there twice; ConflictError(IN_USE) when somebody is
    writing to the old file; MachineError(NO_SPACE).
    """
    from lpp.sql.faults import full_disk_named

    if not isinstance(root, Path):
        return _build_in_bucket(root / DATABASE_KEY, tables, keep)
    conformed = _conform(tables)
    target = root / DATABASE_KEY
    with full_disk_named(target), _beside(target) as beside:
        kept = [name for name in keep if name not in conformed]
        _write(beside, conformed, target if target.exists() else None, kept)
        _clear_for(target)
        os.replace(beside, target)
    return target


def _build_in_bucket(
    target: ObjectPath, tables: "Mapping[str, pa.Table]", keep: Collection[str]
) -> ObjectPath:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="lpp-sql-") as name:
        folder = Path(name)
        with suppress(FileNotFoundError):
            (folder / DATABASE_KEY).write_bytes(target.read_bytes())
        build(folder, tables, keep=keep)
        target.write_bytes((folder / DATABASE_KEY).read_bytes())
    return target


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A file to fill, in a directory of its own next to `target`; gone when the block ends.

    DuckDB keeps a log and a folder beside its file. What a builder that was killed left is swept.
    """
    import shutil

    from lpp.store.objects.disk import beside, sweep_stages

    sweep_stages(target.parent)
    folder = beside(target)
    folder.mkdir()
    try:
        yield folder / target.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(
    path: Path, tables: "Mapping[str, pa.Table]", old: Path | None, keep: Collection[str]
) -> None:
    import duckdb

    connection = duckdb.connect()
    try:
        connection.execute(
            f"ATTACH {literal(str(path.absolute()))} AS built "
            f"(STORAGE_VERSION {literal(STORAGE_VERSION)}); USE built"
        )
        there = _old_tables(connection, old) if old and keep else {}
        connection.execute("BEGIN")  # one commit: one pass over the log
        for table in TABLES.values():
            for statement in create_table(table):
                connection.execute(statement)
            if table.name in tables:
                _insert(connection, table, tables[table.name])
            elif table.name in keep and there.get(table.name) == _columns(table):
                name = identifier(table.name)
                connection.execute(f"INSERT INTO {name} FROM old.main.{name}")
        connection.execute("COMMIT")
        connection.execute("CHECKPOINT built; USE memory; DETACH built")
    finally:
        with suppress(duckdb.Error):  # after a failed write, closing fails as well
            connection.close()


def _columns(table: Table) -> list[tuple[str, str]]:
    return [(column.name, column.type) for column in table.columns]


def _old_tables(
    connection: "duckdb.DuckDBPyConnection", path: Path
) -> dict[str, list[tuple[str, str]]]:
    """Attach the database at `path` as `old`; the columns of its tables, none if it is damaged."""
    import duckdb

    from lpp.sql.faults import is_in_use

    try:
        connection.execute(f"ATTACH {literal(str(path.absolute()))} AS old (READ_ONLY)")
    except duckdb.Error as error:
        if is_in_use(error):
            raise _in_use(path, error) from error
        return {}
    found: dict[str, list[tuple[str, str]]] = {}
    for name, column, type_ in connection.execute(
        "SELECT table_name, column_name, data_type FROM duckdb_columns() "
        "WHERE database_name = 'old' AND schema_name = 'main' ORDER BY table_name, column_index"
    ).fetchall():
        found.setdefault(name, []).append((column, type_))
    return found


def _in_use(target: Path, error: "duckdb.Error") -> ConflictError:
    from lpp.sql.faults import holder

    return ConflictError(
        f"{target}: another connection is writing to it. "
        f"Close it, then repeat the command. ({holder(error)})",
        kind=ErrorKind.IN_USE,
    )


def _insert(connection: "duckdb.DuckDBPyConnection", table: Table, rows: "pa.Table") -> None:
    import duckdb

    names = ", ".join(identifier(column.name) for column in table.columns)
    connection.register("incoming", rows)
    try:
        connection.execute(f"INSERT INTO {identifier(table.name)} SELECT {names} FROM incoming")
    except (duckdb.ConstraintException, duckdb.ConversionException) as error:
        raise InputError(
            f"table {table.name}, key ({', '.join(table.key)}): {error}",
            kind=ErrorKind.INVALID_VALUE,
        ) from error
    connection.unregister("incoming")


def _clear_for(target: Path) -> None:
    """Make sure nobody is writing to `target`, and drop the log of a writer that was killed.

    A log beside the file would be replayed into whatever file bears the name.
    """
    import duckdb

    from lpp.sql.faults import is_in_use

    if not target.exists():
        return
    with duckdb.connect() as connection:
        try:
            connection.execute(f"ATTACH {literal(str(target.absolute()))} AS old (READ_ONLY)")
        except duckdb.Error as error:  # a damaged file is no obstacle: it is replaced
            if is_in_use(error):
                raise _in_use(target, error) from error
    target.with_name(target.name + ".wal").unlink(missing_ok=True)


def _conform(tables: "Mapping[str, pa.Table]") -> "dict[str, pa.Table]":
    """Every table cast to its declared schema; one InputError with all problems."""
    problems = [
        f"{name}: no such table (known: {', '.join(TABLES)})"
        for name in tables
        if name not in TABLES
    ]
    conformed = {
        name: _conform_table(TABLES[name], table, problems)
        for name, table in tables.items()
        if name in TABLES
    }
    if problems:
        raise InputError(
            "tables do not fit the declared schema: " + "; ".join(problems) + ". "
            "See lpp.sql.arrow_schema(table), or: lpp-sql --schema",
            kind=ErrorKind.INVALID_VALUE,
        )
    return conformed


def _conform_table(declared: Table, table: "pa.Table", problems: list[str]) -> "pa.Table":
    import pyarrow as pa

    schema = arrow_schema(declared)
    given = table.column_names
    problems += [f"{declared.name}.{n}: column missing" for n in schema.names if n not in given]
    problems += [f"{declared.name}.{n}: unknown column" for n in given if n not in schema.names]
    problems += [
        f"{declared.name}.{n}: given {given.count(n)} times"
        for n in schema.names
        if given.count(n) > 1
    ]
    columns = {
        field.name: _cast(f"{declared.name}.{field.name}", table[field.name], field.type, problems)
        for field in schema
        if given.count(field.name) == 1
    }
    return None if problems else pa.table(columns, schema=schema)


def _cast(place: str, column: Any, wanted: "pa.DataType", problems: list[str]) -> Any:
    """`column` as `wanted` without loss; None and one more problem where that cannot be."""
    import pyarrow as pa

    try:
        if _same_family(column.type, wanted):
            return column.cast(wanted)
        problems.append(f"{place}: {column.type}, should be {wanted}")
    except pa.ArrowInvalid as error:  # a value the declared type cannot hold
        problems.append(f"{place}: {error}")
    return None


def _same_family(given: "pa.DataType", wanted: "pa.DataType") -> bool:
    """Whether `given` may be cast to `wanted`: widths may differ, kinds may not."""
    import pyarrow.types as pat

    if pat.is_null(given) or given.equals(wanted):
        return True
    if pat.is_dictionary(given):
        return _same_family(given.value_type, wanted)
    if pat.is_list(wanted):
        lists = (pat.is_list, pat.is_large_list, pat.is_list_view, pat.is_fixed_size_list)
        return any(kind(given) for kind in lists) and _same_family(
            given.value_type, wanted.value_type
        )
    if pat.is_string(wanted):
        return any(kind(given) for kind in (pat.is_large_string, pat.is_string_view))
    return any(
        kind(given) and kind(wanted) for kind in (pat.is_integer, pat.is_floating, pat.is_boolean)
    )
