"""Small stores with known tables; every column of a row has a value of its own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lpp.sql import TABLES, TOKEN_STATS, arrow_schema, build
from lpp.sql.schema import Table

HOSTILE = ("<img src=x onerror=alert(1)>", "'; DROP TABLE profiles; --", 'a "b", c\nd\x1b[31m')
COUNTED = {"BOOLEAN", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "INTEGER[]"}


def distinct_row(table: Table, number: int) -> dict[str, Any]:
    """A row whose every value says its column and row."""
    return {
        column.name: {
            "BOOLEAN": number % 2 == 1,
            "INTEGER": 1000 * number + place,
            "BIGINT": 10**12 + 1000 * number + place,
            "FLOAT": number + place / 64,
            "DOUBLE": number + place / 100,
            "VARCHAR": f"{column.name}-{number}",
            "JSON": f'{{"{column.name}": {number}}}',
            "INTEGER[]": [number, place],
            "VARCHAR[]": [f"{column.name}-{number}", "more"],
        }[column.type]
        for place, column in enumerate(table.columns, start=1)
    }


@pytest.fixture
def rows() -> Callable[[str, int], list[dict[str, Any]]]:
    """Called with a table's name and n: n distinct rows of it, `token_stats` included."""

    def make(name: str, count: int) -> list[dict[str, Any]]:
        table = TOKEN_STATS if name == TOKEN_STATS.name else TABLES[name]
        return [distinct_row(table, number) for number in range(1, count + 1)]

    return make


@pytest.fixture
def tables(rows: Callable[[str, int], list[dict[str, Any]]]) -> dict[str, pa.Table]:
    """Three rows of every declared table."""
    return {name: pa.Table.from_pylist(rows(name, 3), schema=arrow_schema(name)) for name in TABLES}


@pytest.fixture
def empty_store(tmp_path: Path) -> Path:
    """A store without runs or profiles, under a name that must be quoted."""
    root = tmp_path / "it's a; store"
    root.mkdir()
    (root / "lpp.json").write_text('{"format": "lpp-store", "version": 1}')
    return root


@pytest.fixture
def store(empty_store: Path, tables: dict[str, pa.Table]) -> Path:
    """A store with profiles but no token files."""
    build(empty_store, tables)
    return empty_store


@pytest.fixture
def hostile() -> tuple[str, ...]:
    """Names of models that mean something to a browser, to SQL, to a terminal."""
    return HOSTILE


@pytest.fixture
def write_shard() -> Callable[..., Path]:
    """Called with root, run, index, rows: writes one shard's token file, and its commit."""

    def write(
        root: Path,
        run: str,
        index: int | str,
        rows: list[dict[str, Any]],
        *,
        committed: bool = True,
        without: tuple[str, ...] = (),
    ) -> Path:
        name = index if isinstance(index, str) else f"{index:05d}"
        shard = root / "runs" / run / "shards" / name
        shard.mkdir(parents=True)
        stored = [{k: v for k, v in row.items() if k != "run"} for row in rows]
        schema = pa.schema(
            [f for f in arrow_schema(TOKEN_STATS).remove(0) if f.name not in without]
        )
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        path = shard / "tokens.arrow"
        with pa.ipc.new_file(str(path), schema, options=options) as file:
            file.write_table(pa.Table.from_pylist(stored, schema=schema))
        if committed:
            (shard / "COMMIT.json").write_text("{}")
        return path

    return write


@pytest.fixture
def lpp_sql() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run the installed program as a user does."""
    program = str(Path(sys.executable).with_name("lpp-sql"))

    def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
        command = [program, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, check=False, timeout=60, **options)

    return run
