"""Who wrote the numbers that a store keeps beside its runs, and whether they are used.

`analysis/` and `profiles.duckdb` hold what earlier commands computed. Their checksums find
accidents; anybody can write fitting ones. So a command uses what its own user wrote:

- on a disk, files that this user owns;
- in a bucket, everything if this process can write there: object stores do not name the writer of
  an object, and without this rule no bucket would keep a number for its owner;
- at an address, nothing.

Inside `trusting_kept` it uses everything. A copy that this user made of somebody's store belongs to
this user: its `analysis/` and `profiles.duckdb` are to be removed first.
"""

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

from lpp.store.errors import ErrorKind, LppError, MachineError
from lpp.store.format.keys import ANALYSIS_KEY
from lpp.store.objects.owners import staged_name
from lpp.store.objects.place import Place, is_read_only

TRUST: Final = "--trust-kept"
"""The option of the commands that stands for `trusting_kept`."""

_trusting: Final[list[object]] = []
"""An entry for each `trusting_kept` block that has not ended."""


@contextmanager
def trusting_kept() -> Iterator[None]:
    """Until the block ends, numbers that others kept in a store are used as if this user had
    computed them.
    """
    _trusting.append(None)
    try:
        yield
    finally:
        _trusting.pop()


def is_trusting() -> bool:
    """Whether a `trusting_kept` block has not ended."""
    return bool(_trusting)


def other_author(root: Place, key: str) -> str | None:
    """Who wrote the kept file `key` of the store at `root`, such as `user ann`; None: this user, or
    nobody, because there is no such file.

    The answer does not depend on `trusting_kept`. Raises MachineError(UNREACHABLE) for a bucket
    that does not answer.
    """
    if is_read_only(root):
        return "the owner of this address"
    if not isinstance(root, Path):
        return None if _writable(root) else "another writer of this bucket"
    try:
        owner = os.lstat(root / key).st_uid
    except OSError:
        return None
    return None if owner == os.geteuid() else _user(owner)


def _user(number: int) -> str:
    with suppress(KeyError):
        return f"user {pwd.getpwuid(number).pw_name}"
    return f"user {number}"


@lru_cache(maxsize=64)
def _writable(root: Place) -> bool:
    """Whether this process can write an object into the bucket's `analysis/`; leaves nothing."""
    from lpp.store.objects.locate import objects_at

    objects, key = objects_at(root), f"{ANALYSIS_KEY}/{staged_name('writable')}"
    try:
        objects.put(key, b"", lasting=False)
        objects.delete([key])
    except MachineError as error:
        if error.kind is ErrorKind.UNREACHABLE:
            raise
        return False
    except (OSError, LppError):
        return False
    return True
