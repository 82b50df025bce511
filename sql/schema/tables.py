"""Every declared table, as a mapping, as Arrow schemas and as the text of `lpp-sql --schema`."""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from lpp.sql.schema.benchmarks import BENCHMARKS, CORRELATIONS, ITEMS, PUBLISHED
from lpp.sql.schema.captured import PROMPTS, RUNS, TOKEN_STATS, VOCABULARY
from lpp.sql.schema.columns import Column, Table
from lpp.sql.schema.evaluations import EVALUATIONS
from lpp.sql.schema.numbers import numbers_table
from lpp.sql.schema.results import read_results
from lpp.store.units import fold

if TYPE_CHECKING:
    import pyarrow as pa

TABLES: Final[Mapping[str, Table]] = MappingProxyType(
    {
        table.name: table
        for table in (
            *(RUNS, PROMPTS, EVALUATIONS, BENCHMARKS, PUBLISHED),
            *read_results(),
            CORRELATIONS,
        )
    }
)
"""Every table of `profiles.duckdb`, in the order they are made."""

NUMBERS: Final = numbers_table(TABLES.values())
"""The view of `profiles.duckdb` over every number of `TABLES`."""

VIEWS: Final = (TOKEN_STATS, VOCABULARY, ITEMS)
"""What `lpp.sql.connect` adds to the tables: views over the store itself."""


EVERY: Final = (*TABLES.values(), NUMBERS, *VIEWS)
"""Every table and view."""


def arrow_schema(table: Table | str) -> "pa.Schema":
    """The columns a table is built from, as a `pyarrow.Schema`; a name or a declaration."""
    return arrow_columns((TABLES[table] if isinstance(table, str) else table).columns)


def arrow_columns(columns: Iterable[Column]) -> "pa.Schema":
    """`columns` as a `pyarrow.Schema`."""
    import pyarrow as pa

    types = {
        "BOOLEAN": pa.bool_(),
        "INTEGER": pa.int32(),
        "BIGINT": pa.int64(),
        "FLOAT": pa.float32(),
        "DOUBLE": pa.float64(),
        "VARCHAR": pa.string(),
        "BLOB": pa.binary(),
        "JSON": pa.string(),
        "INTEGER[]": pa.list_(pa.int32()),
        "DOUBLE[]": pa.list_(pa.float64()),
        "BOOLEAN[]": pa.list_(pa.bool_()),
        "VARCHAR[]": pa.list_(pa.string()),
    }
    return pa.schema([(column.name, types[column.type]) for column in columns])


def reference(width: int | None = None) -> str:
    """Every table with its columns, types, meanings and units: what `lpp-sql --schema` prints.

    width: of the terminal, where long lines are broken; None: a line for each column.
    """
    return "\n\n".join("\n".join(_reference(table, width)) for table in EVERY)


def _reference(table: Table, width: int | None) -> Iterator[str]:
    yield from _broken(f"{table.name}: {table.meaning}", 2, width)
    yield from _broken(f"  key: {', '.join(table.key)}", 4, width)
    yield from _broken(f"  filled by: {table.filled_by}", 4, width)
    for column in table.columns:
        yield from _broken(f"  {column.name:<31} {column.type:<9} {column.comment}", 44, width)
    if table.more:
        line = f"  {'...':<31} {'':<9} further columns: each a {table.more}"
        yield from _broken(line, 44, width)


def _broken(line: str, indent: int, width: int | None) -> list[str]:
    """A line in lines of `width` columns, indented from the second on."""
    return [line] if width is None else fold(line, " " * indent, max(width, indent + 16))
