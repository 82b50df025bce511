"""The table for people: DuckDB's box, or one with long texts in several lines where the box would
hide columns or cut texts, or a column per line where that is too wide as well.

Names and values are escaped wherever the table goes: it is for reading, and a pipe may end in a
terminal (`lpp-sql ... | less -R`).
"""

import contextlib
import io
import re
import shutil
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, Final

from lpp.sql.results.formats import ResultRow, csv_text
from lpp.sql.results.wrapped import ResultTexts, wrapped_table
from lpp.store.terminal.escaping import escape

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation, Statement

MAX_ROWS: Final = 40
"""Rows shown. The footer says how many there are; the other formats write them all."""

_CUT: Final = "…"
"""What the box ends a text with that it has cut."""

_NUMBERS: Final = re.compile(r"(TINY|SMALL|BIG|HUGE|U\w*)?INT(EGER)?|DOUBLE|FLOAT|DECIMAL.*")
"""DuckDB's types that stand to the right and are not broken."""

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
    hidden = _COLUMNS_HIDDEN.search(box)
    if statement.type.name != "SELECT" or not (hidden or _CUT in box):
        out.write(escape(box))
        return
    lines = _wrapped(relation, width)
    if lines is not None:
        out.writelines(lines)
    elif hidden:
        out.writelines(_records(relation, width))
    else:
        out.write(escape(box))


def _box(relation: "DuckDBPyRelation", width: int) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):  # `show` only prints
        relation.show(max_width=width, max_rows=MAX_ROWS)
    return text.getvalue()


def _wrapped(relation: "DuckDBPyRelation", width: int) -> Iterator[str] | None:
    """A table with long texts in several lines; None where `width` columns do not hold it. The
    relation runs again, up to the rows shown.
    """
    rows = relation.limit(MAX_ROWS + 1).fetchall()
    cells = [[_shown(value) for value in row] for row in rows[:MAX_ROWS]]
    numeric = [bool(_NUMBERS.fullmatch(str(kind))) for kind in relation.types]
    heads = [escape(name, keep="") for name in relation.columns]
    lines = wrapped_table(ResultTexts(heads, cells, numeric), width)
    if lines is None:
        return None
    return (f"{line}\n" for line in (*lines, *_footer(relation, len(rows))))


def _footer(relation: "DuckDBPyRelation", n_read: int) -> Iterator[str]:
    """How many rows there are. n_read: up to one more than are shown."""
    total = n_read if n_read <= MAX_ROWS else _count(relation)
    hidden = f", {total - MAX_ROWS} not shown" if total > MAX_ROWS else ""
    yield f"({total} {'row' if total == 1 else 'rows'}{hidden})"


def _shown(value: object) -> str:
    return "NULL" if value is None else escape(csv_text(value) or "", keep="")


def _records(relation: "DuckDBPyRelation", width: int) -> Iterator[str]:
    """One block per row. The relation runs again, up to the rows shown."""
    names = relation.columns
    rows = relation.limit(MAX_ROWS + 1).fetchall()
    for number, row in enumerate(rows[:MAX_ROWS], start=1):
        yield f"── row {number} ".ljust(width, "─") + "\n"
        yield from _record_lines(names, row)
    yield from (f"{line}\n" for line in _footer(relation, len(rows)))


def _record_lines(names: list[str], row: ResultRow) -> Iterator[str]:
    shown = [escape(name, keep="") for name in names]
    margin = max(map(len, shown))
    for name, value in zip(shown, row, strict=True):
        yield f"{name:<{margin}}  {_shown(value)}\n"


def _count(relation: "DuckDBPyRelation") -> int:
    ((total,),) = relation.aggregate("count(*)").fetchall()
    return int(total)
