"""DuckDB clients other than the installed one open the database that is built here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from lpp.sql import TABLES

OLDEST = {(3, 11): "1.1.0", (3, 12): "1.1.0", (3, 13): "1.1.3"}.get(sys.version_info[:2], "1.4.2")
"""1.1.0 is the oldest release that opens the file. Newer Pythons have wheels of later ones only."""

SCRIPT = """
import duckdb, json, sys
with duckdb.connect(sys.argv[1], read_only=True) as connection:
    connection.execute("SET threads = 1")  # 1.1.0 waits forever on `numbers` with several
    tables = [name for (name,) in connection.execute("SHOW TABLES").fetchall()]
    counts = {t: len(connection.execute(f'FROM "{t}"').fetchall()) for t in tables}
    plans = connection.execute("SELECT plan->>'plan' FROM runs ORDER BY run").fetchall()
    (comment,) = connection.execute(
        "SELECT comment FROM duckdb_columns() WHERE table_name = 'runs' AND column_name = 'model'"
    ).fetchone()
print(json.dumps([duckdb.__version__, counts, plans, comment]))
"""


@pytest.fixture(scope="session")
def oldest_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the oldest client, for PYTHONPATH."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"duckdb-{OLDEST}"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
            only = ["--no-deps", "--only-binary", ":all:", "--target", str(folder)]
            subprocess.run([*pip, *only, f"duckdb=={OLDEST}"], check=True)
    return folder


@pytest.mark.slow
def test_the_oldest_client_opens_it(store: Path, oldest_client: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(store / "profiles.duckdb")],
        env={**os.environ, "PYTHONPATH": str(oldest_client)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    version, counts, plans, comment = json.loads(done.stdout)
    assert version == OLDEST
    n_numbers = 3 * sum(len(table.numbers) for table in TABLES.values())
    assert counts == {**dict.fromkeys(TABLES, 3), "numbers": n_numbers}
    assert plans == [["1"], ["2"], ["3"]]
    assert comment == next(c.comment for c in TABLES["runs"].columns if c.name == "model")


def test_the_documents_name_it() -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "sql.md"
    assert "from 1.1 on" in page.read_text("utf-8")
