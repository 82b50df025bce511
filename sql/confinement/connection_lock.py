"""Limits what SQL may access: settings of DuckDB's, locked before any SQL runs.

A database may come from an untrusted source, with its own views, defaults and generated columns. It
is attached once access is limited, so nothing in it runs without these limits.

DuckDB lets SQL open the file of a database that is, or was, attached, and the folder that it spills
into, whatever else is forbidden. So a connection that writes no file loses access to the whole
local file system. If DuckDB may spill, `lpp.sql.confinement.statement_filter` also checks the
statements.
https://duckdb.org/docs/stable/operations_manual/securing_duckdb/overview
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lpp.sql.confinement.temporary import folder_of
from lpp.sql.schema.ddl import identifier, literal

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
"""Settings that SQL may change: none of them gives access to anything. DuckDB 1 allows no
exceptions from the lock."""

SPILL_BYTES: Final = 10 << 30
"""Most bytes that a connection may spill by default; also limited to half of the free disk."""

NO_EXTENSIONS: Final = os.path.join(os.path.abspath(__file__), "no-extensions")
"""Folder for extensions, which cannot exist: its parent is a file."""

_NETWORK: Final = "HTTPFileSystem,S3FileSystem,HuggingFaceFileSystem"
_LOGS: Final = ("", ".wal", ".wal.checkpoint", ".wal.recovery")
"""Suffixes of the files that belong to a database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What SQL may access besides the tables."""

    write: bool = False
    """Whether the databases may be changed."""
    files: bool = False
    """Whether any file that this user may open is accessible. Never the network or an extension."""
    variables: bool = False
    """Whether variables of the surrounding Python code are accessible as tables."""
    spill: bool = False
    """Whether DuckDB may move data that does not fit into memory to a private folder."""
    spill_limit: str | None = None
    """Most that it may move, such as `50GiB`; by default `SPILL_BYTES`."""
    result: Path | None = None
    """The only file that DuckDB writes itself: the Parquet file of `lpp-sql --output`."""

    @property
    def uses_files(self) -> bool:
        """Whether DuckDB itself opens files after the databases are attached."""
        return self.write or self.files or self.spill or self.result is not None


def attach_locked(
    connection: "DuckDBPyConnection", databases: Mapping[str, Path], access: Access
) -> None:
    """Confine `connection` to `access` permanently, and attach `databases` inside these limits.

    databases: name -> absolute path of the file.
    """
    for statement in _before(connection, databases.values(), access):
        connection.execute(statement)
    mode = "" if access.write else " (READ_ONLY)"
    for name, path in databases.items():
        connection.execute(f"ATTACH {literal(str(path))} AS {identifier(name)}{mode}")
    systems = _NETWORK if access.uses_files else f"LocalFileSystem,{_NETWORK}"
    connection.execute(f"SET disabled_filesystems = {literal(systems)}")
    _allow_settings(connection)
    connection.execute("SET lock_configuration = true")


def _before(
    connection: "DuckDBPyConnection", paths: Iterable[Path], access: Access
) -> Iterator[str]:
    """Settings that must precede the first database."""
    yield f"SET temp_directory = {literal(_spill_folder(connection, access))}"
    if access.spill:
        yield f"SET max_temp_directory_size = {literal(access.spill_limit or _spill_bytes())}"
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
    allowed = [f"{path}{ending}" for path in paths for ending in _LOGS]
    if access.result is not None:
        allowed.append(str(access.result))
    yield f"SET allowed_paths = [{', '.join(map(literal, allowed))}]"
    yield "SET enable_external_access = false"


def _spill_folder(connection: "DuckDBPyConnection", access: Access) -> str:
    return str(folder_of(connection) / "spill") if access.spill else ""


def _spill_bytes() -> str:
    import shutil
    import tempfile

    return f"{min(SPILL_BYTES, shutil.disk_usage(tempfile.gettempdir()).free // 2)} bytes"


def _allow_settings(connection: "DuckDBPyConnection") -> None:
    import duckdb

    names = ", ".join(map(literal, SETTABLE))
    try:
        connection.execute(f"SET allowed_configs = [{names}]")
    except duckdb.CatalogException:  # DuckDB 1 has no such setting
        return
