"""Columns and tables as declarations, and the columns that several tables share.

What a column means and its unit are part of the declaration. The database keeps both as the
column's comment.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

SqlType = Literal[
    "BOOLEAN",
    "INTEGER",
    "BIGINT",
    "FLOAT",
    "DOUBLE",
    "VARCHAR",
    "BLOB",
    "JSON",
    "INTEGER[]",
    "DOUBLE[]",
    "BOOLEAN[]",
    "VARCHAR[]",
]
"""DuckDB types in use; each has one Arrow type in `arrow_schema`."""

MORE_TYPES: Final[tuple[SqlType, ...]] = ("VARCHAR", "BIGINT", "DOUBLE", "BOOLEAN")
"""Types of columns that no declaration names."""

ColumnPart = Literal["name", "unit", "value", "prefix", "stderr", "ci_low", "ci_high"]
"""What a column is of a number. name, unit: in a table with a row for each number."""

ERRORS: Final[tuple[ColumnPart, ...]] = ("stderr", "ci_low", "ci_high")
INTERVAL: Final = ERRORS[1:]

RUN_COLUMNS: Final = ("run", "run_a", "run_b")
"""Columns that name a run whose numbers a row contains."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: what it holds, and in what unit (empty for names and flags)."""

    name: str
    type: SqlType
    meaning: str
    unit: str = ""
    part: ColumnPart | None = None
    """What the column is of a number; None: part of none."""
    number: str = ""
    """The column of that number's value."""

    @property
    def comment(self) -> str:
        """Meaning, then the unit in brackets."""
        return f"{self.meaning} [{self.unit}]" if self.unit else self.meaning


@dataclass(frozen=True, slots=True)
class Merging:
    """How rows of a new command are merged with those of earlier commands in the database.

    A new row replaces the old row of the same key, but keeps numbers that only the old row has:
    a value that was not requested this time, an error that was not computed.
    """

    replaced: tuple[str, ...] = ()
    """Key columns: all old rows that agree in them are replaced, and nothing of them is kept.
    Empty: the table's whole key, and a new row keeps the numbers that only the old row has."""
    beside: tuple[str, ...] = ()
    """SQL expressions that are equal for rows that are compared: for `different_prompts`."""
    covers: tuple[str, ...] = ()
    """Columns that count what a row is made of: an old row that is made of more is kept."""
    of_items: bool = False
    """Whether rows are made of the items of an evaluation: they stay while those are unchanged."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table or view: columns in order, and the names of those that identify a row."""

    name: str
    meaning: str
    filled_by: str
    """The command that adds rows; in capitals: what the user names."""
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    added: frozenset[str] = frozenset()
    """Columns that databases of earlier releases lack; null in rows that came from one."""
    more: str = ""
    """What each further column holds (its type is one of `MORE_TYPES`); empty: none may follow."""
    merging: Merging | None = None
    """For a table of results: old rows stay as long as their runs and items are unchanged."""

    @property
    def numbers(self) -> Mapping[str, Mapping[ColumnPart, str]]:
        """The columns of each declared number, by part, under the column of its value."""
        by_number: dict[str, dict[ColumnPart, str]] = {}
        for column in self.columns:
            if column.part:
                by_number.setdefault(column.number, {})[column.part] = column.name
        return by_number

    def with_more(self, columns: Iterable[tuple[str, SqlType]]) -> "Table":
        """The table with these further columns (name and type)."""
        further = (Column(name, kind, self.more) for name, kind in columns)
        return replace(self, columns=(*self.columns, *further))


RUN: Final = Column("run", "VARCHAR", "run id: model and first 8 digits of its plan's hash")
SITE: Final = Column("site", "VARCHAR", "embed, block.1 to block.B, or final")
CONTEXT: Final = Column("context", "INTEGER", "longest prefix of the schedule", "tokens")
PREFIX: Final = Column("prefix", "INTEGER", "prompts are cut to this length", "tokens")
N_PROMPTS: Final = Column(
    "n_prompts", "INTEGER", "prompts used: the first n_prompts of the run", "prompts"
)
FIRST_POSITION: Final = Column(
    "first_position", "INTEGER", "first position whose rows are used; 0: all", "tokens"
)
PROMPT_ID: Final = Column("prompt_id", "INTEGER", "index of the prompt in the run, from 0")

N_QUARANTINED: Final = Column(
    "n_quarantined", "INTEGER", "prompts of n_prompts that were set aside", "prompts"
)


def number_columns(
    name: str,
    meaning: str,
    unit: str,
    parts: Collection[ColumnPart] = (),
    *,
    type: SqlType = "DOUBLE",  # noqa: A002
    prefix: str | None = None,
    how: str = "",
) -> tuple[Column, ...]:
    """The column of a number, and those of its `parts`: prefix, standard error, 95 % interval.

    prefix: of the names of the parts; `<name>_` by default. how: how the interval was made.

    >>> [column.name for column in number_columns("cka", "linear CKA", "share", INTERVAL)]
    ['cka', 'cka_ci_low', 'cka_ci_high']
    """
    declared: dict[ColumnPart, tuple[SqlType, str, str]] = {
        "prefix": ("INTEGER", f"prefix at which {name} was taken; null: all prefixes", "tokens"),
        "stderr": ("DOUBLE", "standard error over prompts; null: not computed", unit),
        "ci_low": ("DOUBLE", f"lower end of its 95 % interval{how}", unit),
        "ci_high": ("DOUBLE", f"upper end of its 95 % interval{how}", unit),
    }
    start = f"{name}_" if prefix is None else prefix
    return (
        Column(name, type, meaning, unit, "value", name),
        *(Column(f"{start}{part}", *declared[part], part, name) for part in parts),
    )


def values_first(*numbers: tuple[Column, ...]) -> tuple[Column, ...]:
    """The values of some numbers, then their other parts."""
    parts = (column for _, *others in numbers for column in others)
    return *(value for value, *_ in numbers), *parts
