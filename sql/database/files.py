"""Where the database of a store lies, and that it is a plain file."""

import os
from pathlib import Path

from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.keys import DATABASE_KEY
from lpp.store.objects.copies import fetched
from lpp.store.objects.paths import plain_file
from lpp.store.objects.place import Place


def plain_database(root: Path) -> Path:
    """The database of the store in a directory; the file need not exist.

    Raises FormatError(CORRUPT) where the file or its log is a link, a pipe or a directory.
    """
    for name in (DATABASE_KEY, f"{DATABASE_KEY}.wal"):
        if os.path.lexists(root / name):
            plain_file(root.resolve(), name)
    return root / DATABASE_KEY


def profiles_path(root: Place) -> Path:
    """The database of the store at `root`, or the copy of it that was fetched from a bucket;
    InputError(NOT_FOUND) when there is none yet.
    """
    try:
        file = plain_database(root) if isinstance(root, Path) else fetched(root / DATABASE_KEY)
    except FileNotFoundError:
        file = None
    if file is None or not file.exists():
        raise InputError(
            f"{root / DATABASE_KEY}: no profiles yet. Compute them: lpp-analyze profile {root}",
            kind=ErrorKind.NOT_FOUND,
        )
    return file
