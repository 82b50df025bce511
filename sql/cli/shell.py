"""`lpp-sql STORE --shell`: DuckDB's own shell on the tables."""

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import click

from lpp.sql.confinement.connection_lock import Access
from lpp.sql.database.connect import connect_with, refuse_in_bucket
from lpp.sql.database.files import profiles_path
from lpp.sql.database.outdated import warn_of_doubts
from lpp.sql.place import store_root
from lpp.sql.schema import VIEWS
from lpp.store.errors import ErrorKind, MachineError


def open_shell(store: str, *, write: bool, allow_files: bool) -> NoReturn:
    """Become DuckDB's shell on the tables of `store`, in its safe mode unless `allow_files`."""
    root = store_root(store)
    if write:
        refuse_in_bucket(root)
    database = profiles_path(root)
    program = shutil.which("duckdb")
    if program is None:
        raise MachineError(
            "no `duckdb` program on the PATH. Install DuckDB's shell with "
            "`pip install duckdb-cli`, then repeat the command.",
            kind=ErrorKind.NO_PACKAGE,
        )
    with connect_with(Access(), root, read=()) as connection:
        warn_of_doubts(connection, root)
    views = " and ".join(view.name for view in VIEWS)
    click.echo(f"{views} are not in this shell: `lpp-sql {store} ...` has them.", err=True)
    sys.stdout.flush()
    # Not its flag -safe, which makes some releases (1.5.6) refuse to start.
    safe = [] if allow_files else ["-cmd", ".safe_mode"]
    words = [program, *safe, *([] if write else ["-readonly"]), str(database)]
    if not isinstance(root, Path):
        import subprocess

        sys.exit(subprocess.call(words))  # this process stays, to remove its copy at the end
    os.execv(program, words)
