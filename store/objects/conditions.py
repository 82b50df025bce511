"""Whether an object store keeps conditional puts, asked before the first thing is written.

Exactly one of several writers must win a shard, and the put of its record on the condition that
there is none is what decides. A store that ignores the condition lets every writer win, without a
word. Three small requests tell, once in a process.
"""

import os
import secrets
from functools import lru_cache

from lpp.store.errors import ErrorKind, LppError, MachineError
from lpp.store.objects.object_path import ObjectPath
from lpp.store.objects.place import Place

ONLY_WRITER = "LPP_ONLY_WRITER"
"""Set to 1, a user's word that nobody else writes to the store."""


def check_conditions(root: Place) -> None:
    """MachineError(DENIED) unless the store at `root` keeps conditional puts, or its user says
    that there is one writer alone. A disk needs neither.
    """
    if not isinstance(root, ObjectPath) or _kept(root):
        return
    if os.environ.get(ONLY_WRITER) != "1":
        raise MachineError(
            f"{root}: this object store ignores the condition of a put (If-None-Match), so two "
            "writers at once would overwrite each other unseen. Use a store that keeps it, or, if "
            f"you make sure that one command at a time writes here, set {ONLY_WRITER}=1.",
            kind=ErrorKind.DENIED,
        )
    root.bucket.conditional = False


@lru_cache(maxsize=64)
def _kept(root: ObjectPath) -> bool:
    """Whether the second of two puts on the condition that there is nothing is refused."""
    probe = root / f".conditional~{secrets.token_hex(8)}"
    bucket = probe.bucket
    try:
        bucket.put_new(probe.key, b"first")
        return not bucket.put_new(probe.key, b"second")
    except LppError as error:
        if "NotImplemented" in str(error):
            return False
        raise
    finally:
        bucket.delete_quietly([probe.key])
