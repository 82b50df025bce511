"""The tables of results, which `lpp.analyze` declares where it computes their numbers.

This package must not import that one, and still describes every table (`lpp-sql --schema`, a store
without profiles, checks of what is built). So `make tables` writes the declarations into
results.json, which is read here; a test compares the two. The file also loads faster than modules
that declare the same tables.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any, Final

from lpp.sql.schema.columns import Column, Merging, Table

RESULTS_FILE: Final = Path(__file__).with_name("results.json")


def read_results() -> tuple[Table, ...]:
    """The declarations in `RESULTS_FILE`, in order."""
    return tuple(map(_table, json.loads(RESULTS_FILE.read_text("utf-8"))))


def results_json(tables: Iterable[Table]) -> str:
    """The text of `RESULTS_FILE` for these declarations: a line for each column."""
    return "[\n" + ",\n".join(map(_object, tables)) + "\n]\n"


def _table(fields: dict[str, Any]) -> Table:
    merging = fields["merging"] and Merging(*map(_immutable, fields["merging"].values()))
    columns = tuple(Column(*column) for column in fields["columns"])
    return Table(**fields | {"key": tuple(fields["key"]), "columns": columns, "merging": merging})


def _immutable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _object(table: Table) -> str:
    head = {
        **{name: getattr(table, name) for name in ("name", "meaning", "filled_by", "key")},
        "merging": table.merging and asdict(table.merging),
    }
    columns = ",\n".join(json.dumps(astuple(column)) for column in table.columns)
    return f'{json.dumps(head)[:-1]}, "columns": [\n{columns}\n]}}'
