"""Arrow tables cast to the declared columns, without loss."""

from itertools import combinations
from typing import TYPE_CHECKING, Any

from lpp.sql.schema.columns import SqlType, Table
from lpp.sql.schema.tables import TABLES, arrow_schema
from lpp.store.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa


def conform(tables: "Mapping[str, pa.Table]") -> "dict[str, pa.Table]":
    """Every table cast to its declared schema; raises one InputError with all problems."""
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
            "See lpp.sql.arrow_schema(table), or: lpp-sql --schema"
        )
    return conformed


def _conform_table(declared: Table, table: "pa.Table", problems: list[str]) -> "pa.Table":
    import pyarrow as pa

    schema = arrow_schema(with_further_columns(declared, table))
    given = table.column_names
    problems += [f"{declared.name}.{n}: column missing" for n in schema.names if n not in given]
    problems += [f"{declared.name}.{n}: unknown column" for n in given if n not in schema.names]
    problems += [
        f"{declared.name}.{n}: DuckDB does not tell it from {other}"
        for n, other in combinations(schema.names, 2)
        if n != other and n.casefold() == other.casefold()
    ]
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


def with_further_columns(declared: Table, table: "pa.Table") -> Table:
    """The declaration of `table`, which may have columns that `declared` does not name."""
    import pyarrow.types as pat

    def type_of(kind: "pa.DataType") -> SqlType:
        if pat.is_dictionary(kind):
            return type_of(kind.value_type)
        if pat.is_integer(kind):
            return "BIGINT"
        if pat.is_floating(kind):
            return "DOUBLE"
        return "BOOLEAN" if pat.is_boolean(kind) else "VARCHAR"

    known = {column.name for column in declared.columns}
    further = [field for field in table.schema if field.name not in known] if declared.more else []
    return declared.with_more((field.name, type_of(field.type)) for field in further)


def _cast(where: str, column: Any, wanted: "pa.DataType", problems: list[str]) -> Any:
    """`column` as `wanted` without loss; None, with a line added to `problems`, if impossible."""
    import pyarrow as pa

    try:
        if _same_family(column.type, wanted):
            return column.cast(wanted)
        problems.append(f"{where}: {column.type}, should be {wanted}")
    except pa.ArrowInvalid as error:  # a value the declared type cannot hold
        problems.append(f"{where}: {error}")
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
