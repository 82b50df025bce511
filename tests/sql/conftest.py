"""Small stores with known tables; every column of a row has a value of its own."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

from lpp.sql import TABLES, arrow_schema, build
from lpp.sql.cli.command import main
from lpp.sql.schema import Table

HOSTILE = ("<img src=x onerror=alert(1)>", "'; DROP TABLE profiles; --", 'a "b", c\nd\x1b[31m')


def distinct_row(table: Table, number: int) -> dict[str, Any]:
    """A row whose every value says its column and row."""
    return {
        column.name: {
            "BOOLEAN": number % 2 == 1,
            "INTEGER": 1000 * number + place,
            "BIGINT": 10**12 + 1000 * number + place,
            "DOUBLE": number + place / 100,
            "FLOAT": number + place / 64,  # exact
            "VARCHAR": f"{column.name}-{number}",
            "JSON": f'{{"{column.name}": {number}}}',
            "INTEGER[]": [number, place],
            "DOUBLE[]": [number + place / 100, 0.5],
            "VARCHAR[]": [f"{column.name}-{number}", "more"],
        }[column.type]
        for place, column in enumerate(table.columns, start=1)
    }


def distinct_rows(name: str, count: int) -> list[dict[str, Any]]:
    return [distinct_row(TABLES[name], number) for number in range(1, count + 1)]


@pytest.fixture
def rows() -> Callable[[str, int], list[dict[str, Any]]]:
    """Called with a table's name and n: n distinct rows of it."""
    return distinct_rows


@pytest.fixture
def tables() -> dict[str, pa.Table]:
    """Three rows of every declared table."""
    return three_rows()


def three_rows() -> dict[str, pa.Table]:
    return {
        name: pa.Table.from_pylist(distinct_rows(name, 3), schema=arrow_schema(name))
        for name in TABLES
    }


@pytest.fixture
def empty_store(tmp_path: Path) -> Path:
    """A store without runs or profiles, under a name that must be quoted."""
    return make_empty_store(tmp_path)


def make_empty_store(folder: Path) -> Path:
    root = folder / "it's a; store"
    root.mkdir()
    (root / "lpp.json").write_text('{"format": "lpp-store", "version": 1}')
    return root


@pytest.fixture(scope="session")
def built_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `store` is a copy of."""
    root = make_empty_store(tmp_path_factory.mktemp("built"))
    build(root, three_rows())
    return root


@pytest.fixture
def store(built_store: Path, tmp_path: Path) -> Path:
    """A store with profiles but no token files."""
    return shutil.copytree(built_store, tmp_path / built_store.name)


@pytest.fixture
def hostile() -> tuple[str, ...]:
    """Names of models that mean something to a browser, to SQL, to a terminal."""
    return HOSTILE


@pytest.fixture
def lpp_sql() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run `lpp-sql` as a user does: in this process, or, with `own_process` or options of
    `subprocess.run`, in one of its own.
    """
    program = str(Path(sys.executable).with_name("lpp-sql"))

    def run(
        *arguments: str | Path, own_process: bool = False, **options: Any
    ) -> subprocess.CompletedProcess[bytes]:
        command = [program, *map(str, arguments)]
        if own_process or options:
            return subprocess.run(command, capture_output=True, check=False, timeout=60, **options)
        done = CliRunner().invoke(main, command[1:], prog_name="lpp-sql", catch_exceptions=False)
        return subprocess.CompletedProcess(
            command, done.exit_code, done.stdout_bytes, done.stderr_bytes
        )

    return run
