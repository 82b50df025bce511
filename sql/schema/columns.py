"""Columns and tables as declarations, and the columns that several tables share.

What a column means and its unit are part of the declaration. The database keeps both as the
column's comment.
"""

from collections.abc import Iterable
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


@dataclass(frozen=True, slots=True)
class Column:
    """One column: what it holds, and in what unit (empty for names and flags)."""

    name: str
    type: SqlType
    meaning: str
    unit: str = ""

    @property
    def comment(self) -> str:
        """Meaning, then the unit in brackets."""
        return f"{self.meaning} [{self.unit}]" if self.unit else self.meaning


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
    "n_quarantined", "INTEGER", "of n_prompts, set aside and not used", "prompts"
)
N_DUPLICATES: Final = Column(
    "n_duplicates", "INTEGER", "of n_prompts, with the token ids of another", "prompts"
)
N_SINKS: Final = Column("n_sinks", "INTEGER", "positions used that are attention sinks", "tokens")
SINK_END: Final = Column(
    "sink_end", "INTEGER", "first position after the site's sinks; 0: none", "tokens"
)
CLUSTER: Final = Column("cluster", "VARCHAR", "field whose clusters errors leave out; null: none")
PROMPT_SET: Final = Column("prompt_set", "VARCHAR", "equal if runs read the same first n_prompts")


def errors(unit: str, name: str = "") -> tuple[Column, ...]:
    """Columns for the standard error of a number and its 95 % interval (Student's t, prompts)."""
    return (
        Column(f"{name}stderr", "DOUBLE", "standard error; null: not computed", unit),
        Column(f"{name}ci_low", "DOUBLE", "lower end of the 95 % interval", unit),
        Column(f"{name}ci_high", "DOUBLE", "upper end of the 95 % interval", unit),
    )


def with_prefix(name: str, meaning: str, unit: str) -> tuple[Column, ...]:
    """Columns for an extreme over prefixes, the prefix it came from, and its error there."""
    where = Column(f"{name}_prefix", "INTEGER", f"prefix that {name} came from", "tokens")
    return Column(name, "DOUBLE", meaning, unit), where, *errors(unit, f"{name}_")


def with_errors(*columns: Column) -> tuple[Column, ...]:
    """Numbers, then the error of each."""
    theirs = (error for c in columns for error in errors(c.unit, f"{c.name}_"))
    return *columns, *theirs
