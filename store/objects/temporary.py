"""Temporary folders, which are removed even if their process was killed.

A folder's name identifies the process that made it (`lpp.store.objects.owners`). The next process
that makes a folder removes those of ended processes.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lpp.store.objects.disk import DiskObjects


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that only this user may read, removed when the block ends."""
    parent = DiskObjects(Path(tempfile.gettempdir()))
    parent.sweep()
    with parent.scratch() as folder:
        yield folder
