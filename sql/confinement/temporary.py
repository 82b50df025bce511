"""Folders under TMPDIR: for DuckDB's spilled data, and for files whose path DuckDB misreads.

A folder's name identifies the process that created it (`lpp.store.objects.owners`). A killed
process cannot remove its folder: the next process that creates one does.
"""

import re
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_MISREAD: Final = re.compile(r"[?\\]")
r"""DuckDB 2 reads `\` as `/`, and every release puts the end of a log's name before a `?`."""


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that only this user may read, removed when the block ends."""
    from lpp.store.objects import copies  # not at the top: it imports the checksums

    with copies.temporary_folder() as folder:
        yield folder


def folder_of(connection: "DuckDBPyConnection") -> Path:
    """A temporary folder, removed with `connection` or when Python ends."""
    stack = ExitStack()
    folder = stack.enter_context(temporary_folder())
    weakref.finalize(connection, stack.close)
    return folder


def misread(path: Path) -> bool:
    """Whether DuckDB would open another path, or another log, for this path or its target."""
    return any(_MISREAD.search(str(form)) for form in (path.absolute(), path.resolve()))
