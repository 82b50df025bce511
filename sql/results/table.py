"""The table for people: DuckDB's box, or a column per line where the box would hide columns.

Names and values are escaped wherever the table goes: it is for reading, and a pipe may end in a
terminal (`lpp-sql ... | less -R`).
"""

import contextlib
import io
import re
import shutil
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, Final

from lpp.sql.results.formats import Row, csv_text
from lpp.store.commands.escaping import escape

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation, Statement

MAX_ROWS: Final = 40
"""Rows shown. The footer says how many there are; the other formats write them all."""

_COLUMNS_HIDDEN = re.compile(r"\d+ columns \(\d+ shown\)[\s│└─┘]*\Z")  # DuckDB 1 puts it in the box


def write_table(connection: "DuckDBPyConnection", statement: "Statement", out: IO[str]) -> None:
    """Write up to `MAX_ROWS` rows in the width of the terminal, 80 columns where there is none."""
    relation: Any = connection.sql(statement)
    if relation is None:  # from DuckDB 1, for a statement such as INSERT
        return
    if statement.type.name == "EXPLAIN":  # a drawing, which a box would put on one line
        out.writelines(f"{escape(plan)}\n" for _, plan in relation.fetchall())
        return
    width = shutil.get_terminal_size().columns
    box = _box(relation, width)
    if statement.type.name == "SELECT" and _COLUMNS_HIDDEN.search(box):
        out.writelines(_records(relation, width))
    else:
        out.write(escape(box))


def _box(relation: "DuckDBPyRelation", width: int) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):  # `show` only prints
        relation.show(max_width=width, max_rows=MAX_ROWS)
    return text.getvalue()


def _records(relation: "DuckDBPyRelation", width: int) -> Iterator[str]:
    """One block per row. The relation runs again, up to the rows shown."""
    names = relation.columns
    rows = relation.limit(MAX_ROWS + 1).fetchall()
    for number, row in enumerate(rows[:MAX_ROWS], start=1):
        yield f"── row {number} ".ljust(width, "─") + "\n"
        yield from _record_lines(names, row)
    total = len(rows) if len(rows) <= MAX_ROWS else _count(relation)
    hidden = f", {total - MAX_ROWS} not shown" if total > MAX_ROWS else ""
    yield f"({total} {'row' if total == 1 else 'rows'}{hidden})\n"


def _record_lines(names: list[str], row: Row) -> Iterator[str]:
    shown = [escape(name, keep="") for name in names]
    margin = max(map(len, shown))
    for name, value in zip(shown, row, strict=True):
        text = "NULL" if value is None else csv_text(value) or ""
        yield f"{name:<{margin}}  {escape(text, keep='')}\n"


def _count(relation: "DuckDBPyRelation") -> int:
    ((total,),) = relation.aggregate("count(*)").fetchall()
    return int(total)
