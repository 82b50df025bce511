"""Folders under TMPDIR that outlive no process for long.

A folder's name tells which process made it (`lpp.store.objects.owners`). A process that is killed
cannot remove its own: the next one that makes a folder does.
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
