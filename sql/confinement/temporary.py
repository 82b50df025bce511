"""Folders under TMPDIR: for what DuckDB spills, and for files whose path DuckDB cannot take.

A folder's name tells which process made it (`lpp.store.objects.owners`). A process that is killed
cannot remove its own: the next one that makes a folder does.
"""

import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_FOLDER: Final = "lpp-sql"

_MISREAD: Final = re.compile(r"[?\\]")
r"""DuckDB 2 reads `\` as `/`, and every release puts the end of a log's name before a `?`."""


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that only this user may read, removed when the block ends."""
    from lpp.store.objects.disk import beside, sweep_stages

    parent = Path(tempfile.gettempdir())
    sweep_stages(parent)
    folder = beside(parent / _FOLDER)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def folder_of(connection: "DuckDBPyConnection") -> Path:
    """A temporary folder, removed with `connection` or when Python ends."""
    stack = ExitStack()
    folder = stack.enter_context(temporary_folder())
    weakref.finalize(connection, stack.close)
    return folder


def misread(path: Path) -> bool:
    """Whether DuckDB would take another path, or another log's, for this one."""
    return bool(_MISREAD.search(str(path.absolute())))
