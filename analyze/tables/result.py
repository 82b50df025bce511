"""Results of analyses as data frames: the rows that go to the tables of the database."""

import textwrap
from collections.abc import Callable, Mapping
from typing import Final

import polars as pl

from lpp.sql.schema import TABLES
from lpp.sql.schema.columns import ERRORS, RUN_COLUMNS
from lpp.store.errors import ErrorKind, InputError
from lpp.store.units import counted

_WIDTH: Final = 80
"""Most characters of a printed line."""

_ROWS: Final = 12
"""Most printed rows; of more, the first and the last ones."""

_MIDDLE: Final = r"^(.{8}).{6,}(.{8})$"
"""What a long run id begins and ends with; its end tells it from others of the model."""


class TableResult:
    """A result whose numbers are rows of tables; it prints its first table that has rows."""

    __slots__ = ()

    def frames(self) -> Mapping[str, pl.DataFrame]:
        """The tables by name: columns, units and rows as in the database (`sql-tables.md`)."""
        raise NotImplementedError

    def __repr__(self) -> str:
        frames = self.frames()
        sizes = ", ".join(f"{name} ({counted(len(f), 'row')})" for name, f in frames.items())
        title = textwrap.fill(f"{type(self).__name__}.frames(): {sizes}", _WIDTH)
        filled = [(name, frame) for name, frame in frames.items() if len(frame)]
        return "\n".join([title, *(f"{name}:\n{_printed(name, f)}" for name, f in filled[:1])])


def frame_method(table: str) -> Callable[[TableResult], pl.DataFrame]:
    """A method that returns the rows of `table`, with the columns of the database.

    It raises InputError if this result has no such table.
    """

    def frame(self: TableResult) -> pl.DataFrame:
        frames = self.frames()
        if table not in frames:
            raise InputError(
                f"this result has no table {table}. It has {', '.join(frames)}: frames().",
                kind=ErrorKind.NOT_FOUND,
            )
        return frames[table]

    frame.__doc__ = f"Table `{table}`: columns and rows as in the database."
    return frame


def _printed(name: str, frame: pl.DataFrame) -> str:
    """`frame` as text: keys that differ, numbers, then their errors, as many as fit the width."""
    columns = frame.columns
    if table := TABLES.get(name):
        keys = [key for key in table.key if frame[key].n_unique() > 1]
        numbers = sorted(table.numbers, key=lambda number: frame[number].dtype.is_integer())
        parts = [(kind, c) for number in numbers for kind, c in table.numbers[number].items()]
        values = [column for kind, column in parts if kind in ("name", "unit", "value")]
        errors = [column for kind, column in parts if kind in ERRORS]
        columns = [*dict.fromkeys([*keys, *values, *errors])]
    columns = [c for c in columns if frame[c].null_count() < len(frame)]
    middle = (pl.col(c).str.replace(_MIDDLE, "$1…$2") for c in columns if c in RUN_COLUMNS)
    frame = frame.select(columns).with_columns(middle)
    with pl.Config(
        tbl_cols=-1,
        tbl_rows=_ROWS,
        tbl_width_chars=10 * _WIDTH,
        tbl_hide_column_data_types=True,
        tbl_hide_dataframe_shape=True,
    ):
        for count in range(min(len(columns), _WIDTH // 4), 0, -1):
            text = str(frame[:, :count])
            if max(map(len, text.splitlines())) <= _WIDTH:
                break
    return text
