"""Where the database of a store is, and a check that it is a plain file."""

import itertools
import shlex
from pathlib import Path
from typing import Final

from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.keys import DATABASE_KEY
from lpp.store.objects.place import Place, is_read_only

NO_PROFILES: Final = "no profiles yet"

ASIDE: Final = "profiles.set-aside"
"""Start of the names of databases that could not be read whole when they were replaced."""


def plain_database(root: Path) -> Path:
    """The database of the store in a directory; the file need not exist.

    Raises FormatError(CORRUPT) if the file or its log is a link, a pipe or a directory.
    """
    from lpp.store.objects.locate import objects_at

    objects = objects_at(root)
    for name in (DATABASE_KEY, f"{DATABASE_KEY}.wal"):
        if objects.exists(name):
            objects.local(name)
    return root / DATABASE_KEY


def profiles_path(root: Place) -> Path:
    """The database of the store at `root`, or its copy downloaded from a bucket.

    Raises InputError(NOT_FOUND) if there is none yet.
    """
    from lpp.store.objects.locate import objects_at

    try:
        if isinstance(root, Path):
            plain_database(root)
        return objects_at(root).local(DATABASE_KEY)
    except FileNotFoundError:
        raise no_profiles(root) from None


def aside_name(root: Place) -> str:
    """A free name in the store at `root` for a database that is set aside."""
    from lpp.store.objects.locate import objects_at

    taken = {entry.name for entry in objects_at(root).entries()}
    return next(n for k in itertools.count(1) if (n := f"{ASIDE}-{k}.duckdb") not in taken)


def no_profiles(root: Place) -> InputError:
    """The error that the store at `root` has no database."""
    return InputError(
        f"{root / DATABASE_KEY}: {NO_PROFILES}. Compute them: {profile_command(root)}",
        kind=ErrorKind.NOT_FOUND,
    )


def profile_command(root: Place) -> str:
    """The command that writes the database of the store at `root`, and who can run it."""
    if is_read_only(root):
        return "its owner runs lpp-analyze profile STORE, then lpp-analyze index STORE"
    return f"lpp-analyze profile {shlex.quote(str(root))}"
