"""`lpp-sql` as it starts: the schema, DuckDB's own shell, and what is imported."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sql_output import ok

from lpp.sql.schema import reference

Run = Callable[..., subprocess.CompletedProcess[bytes]]


def test_schema_needs_no_store(lpp_sql: Run, store: Path) -> None:
    assert ok(lpp_sql("--schema")) == reference() + "\n"
    assert ok(lpp_sql(store, "--schema")) == reference() + "\n"


@pytest.mark.parametrize("write", [False, True])
def test_shell_opens_the_database(store: Path, lpp_sql: Run, tmp_path: Path, write: bool) -> None:
    # The shell is another program: what matters here is how it is called.
    shell = tmp_path / "bin" / "duckdb"
    shell.parent.mkdir()
    shell.write_text('#!/bin/sh\nfor a in "$@"; do echo "<$a>"; done\nexit 3\n')
    shell.chmod(0o755)
    options = ["--write"] if write else []
    called = [*([] if write else ["<-readonly>"]), f"<{store / 'profiles.duckdb'}>"]
    for more, start in ([], ["<-cmd>", "<.safe_mode>"]), (["--allow-files"], []):
        done = lpp_sql(store, "--shell", *options, *more, env={"PATH": str(shell.parent)})
        assert done.returncode == 3
        assert done.stdout.decode().splitlines() == [*start, *called]
        assert b"token_stats" in done.stderr


def test_starting_imports_nothing_heavy(store: Path) -> None:
    code = (
        "import sys; from lpp.sql.cli import main\n"
        "try: main([sys.argv[1], 'SELECT run, entropy_floor FROM profiles'])\n"
        "except SystemExit as end: assert not end.code\n"
        "print(sorted(set(sys.argv[2:]) & set(sys.modules)))"
    )
    heavy = ["torch", "transformers", "zarr", "polars", "pyarrow", "numpy", "pandas", "rich"]
    command = [sys.executable, "-c", code, str(store), *heavy]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "run-1" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_and_schema_do_not_start_duckdb() -> None:
    for option in ("--help", "--schema"):
        code = (
            "import sys; from lpp.sql.cli import main\n"
            f"try: main([{option!r}])\n"
            "except SystemExit as end: assert not end.code\n"
            "assert 'duckdb' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
