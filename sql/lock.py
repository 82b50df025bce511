"""What the SQL of a connection may reach: DuckDB's own settings, locked before any SQL runs.

DuckDB lets SQL open the file of a database that is, or was, attached, and the folder that it
spills into, whatever is forbidden otherwise. So the strictest lock takes the local file system
away as a whole, which also ends spilling; where DuckDB may spill, `lpp.sql.guard` looks at the
statements too.
https://duckdb.org/docs/stable/operations_manual/securing_duckdb/overview
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lpp.sql.ddl import literal

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

SETTABLE: Final = (
    "memory_limit",
    "max_memory",
    "threads",
    "TimeZone",
    "default_collation",
    "default_null_order",
    "default_order",
    "explain_output",
    "preserve_insertion_order",
)
"""Settings that SQL may change: none of them opens anything. DuckDB 1 can make no exceptions."""

NO_EXTENSIONS: Final = os.path.join(os.path.abspath(__file__), "no-extensions")
"""Where DuckDB looks for extensions and would put new ones: no folder can be made below a file."""

_NETWORK: Final = "HTTPFileSystem,S3FileSystem,HuggingFaceFileSystem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What SQL may reach beside the tables."""

    files: bool = False
    """Any file that this user may open. Never the network, never an extension."""
    variables: bool = False
    """Variables of the Python code around it, as tables."""
    spill: bool = True
    """DuckDB may move what does not fit into memory to a private folder."""
    result: Path | None = None
    """The one file that DuckDB writes by itself: the Parquet file of `lpp-sql --output`."""


def lock(connection: "DuckDBPyConnection", access: Access) -> None:
    """Confine `connection`, whose databases are attached, to `access` for good."""
    folder = _private_folder(connection) if access.spill else None
    for statement in _statements(access, folder):
        connection.execute(statement)
    _allow_settings(connection)
    connection.execute("SET lock_configuration = true")


def _statements(access: Access, folder: str | None) -> Iterator[str]:
    yield f"SET temp_directory = {literal(os.path.join(folder, 'spill') if folder else '')}"
    yield f"SET python_enable_replacements = {access.variables}"
    yield "SET python_scan_all_frames = false"
    yield "SET autoinstall_known_extensions = false"
    yield "SET autoload_known_extensions = false"
    yield "SET allow_community_extensions = false"
    yield "SET allow_persistent_secrets = false"
    yield f"SET extension_directory = {literal(NO_EXTENSIONS)}"
    if access.files:
        yield f"SET disabled_filesystems = {literal(_NETWORK)}"
        return
    if access.result is not None:
        yield f"SET allowed_paths = [{literal(str(access.result))}]"
    yield "SET enable_external_access = false"
    if not access.spill:  # last: DuckDB looks at its folders when external access ends
        yield f"SET disabled_filesystems = {literal('LocalFileSystem,' + _NETWORK)}"


def _allow_settings(connection: "DuckDBPyConnection") -> None:
    import duckdb

    names = ", ".join(map(literal, SETTABLE))
    try:
        connection.execute(f"SET allowed_configs = [{names}]")
    except duckdb.CatalogException:  # DuckDB 1 has no such setting
        return


def _private_folder(connection: "DuckDBPyConnection") -> str:
    """A folder that only this user may read, removed with `connection` or when Python ends."""
    import shutil
    import tempfile
    import weakref

    folder = tempfile.mkdtemp(prefix="lpp-sql-")
    weakref.finalize(connection, shutil.rmtree, folder, ignore_errors=True)
    return folder
