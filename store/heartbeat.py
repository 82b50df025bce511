"""Heartbeats: a file that each writer keeps while it works on a run, SPEC.md's page for writers.

Computing a shard takes minutes, and loading a model longer, so a writer keeps a small file beside
the shards and touches it twice a minute. On the writer's own machine its process number tells
whether it is alive; on any other machine, the age of the file does.
"""

import contextlib
import json
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from lpp.store.errors import FormatError, LppError, MachineError
from lpp.store.format.limits import MAX_ROOT_BYTES
from lpp.store.objects.owners import Owner, owner_of, staged_name
from lpp.store.objects.place import Place
from lpp.store.objects.protocol import Objects
from lpp.store.shards import run_directory

SIGN: Final = "writer"
"""What a sign's name begins with, after the dot."""

SIGN_SECONDS: Final = 30.0
"""Between two signs of life."""

MAX_DOING: Final = 200
"""Characters of a sign's words that are told."""

SILENT_SECONDS: Final = 180.0
"""A writer without a sign for so long is taken for gone: six signs, and some for clocks that
disagree and file systems that are slow to tell."""


@dataclass(frozen=True, kw_only=True)
class Writer:
    """A process that writes a run, or did until it ended without a word."""

    host: str
    pid: int
    here: bool
    """Whether `host` is this machine."""
    doing: str
    """In its own words, such as `part 2/8`; empty when it left none."""
    since: float | None
    """When it began, in seconds since the epoch, by its own clock; None when it does not say."""
    last_sign: float
    """When it last gave a sign, in seconds since the epoch, by the file system's clock."""
    ended: bool
    """Whether its process is known to be gone: known of this machine's processes alone."""

    def alive(self, now: float) -> bool:
        """Whether it is at work, as far as can be told: not known to have ended, not silent."""
        return not self.ended and now - self.last_sign < SILENT_SECONDS


@contextlib.contextmanager
def at_work(shards: Place, doing: str) -> Iterator[None]:
    """Keep a sign in the directory `shards` that this process works there, until the block ends.

    A sign is a courtesy: where it cannot be written, the work goes on without.
    """
    objects, sign, end = _signs(shards), staged_name(SIGN), threading.Event()
    words = json.dumps({"doing": doing, "since": time.time()}).encode()

    def keep() -> None:
        while not end.wait(SIGN_SECONDS):
            with contextlib.suppress(OSError, LppError):
                objects.touch(sign, words)

    with contextlib.suppress(OSError, LppError):
        objects.put(sign, words)
    keeper = threading.Thread(target=keep, name="lpp-sign", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        end.set()
        keeper.join()
        with contextlib.suppress(OSError, LppError):
            objects.delete([sign])


def writers(shards: Place) -> list[Writer]:
    """Every process that left a sign in the directory `shards`, by host and pid."""
    objects = _signs(shards)
    found = {}
    for entry in objects.entries():
        owner = owner_of(entry.name)
        seen = _seen(objects, entry.name, owner) if owner and owner.target == SIGN else None
        if owner is not None and seen is not None:
            found[seen.host, seen.pid, owner.mark] = seen  # one number in two containers is two
    return [found[key] for key in sorted(found)]


def _signs(shards: Place) -> Objects:
    return run_directory(shards.parent).below(shards.name)


def _seen(objects: Objects, name: str, owner: Owner) -> Writer | None:
    """What a sign tells of its owner; None when it vanished meanwhile."""
    try:
        last_sign = objects.stat(name).modified
    except MachineError:
        raise
    except (OSError, FormatError):
        return None
    doing, since = _words(objects, name)
    return Writer(
        host=owner.host,
        pid=owner.pid,
        here=owner.here,
        doing=doing,
        since=since,
        last_sign=last_sign,
        ended=owner.ended,
    )


def _words(objects: Objects, name: str) -> tuple[str, float | None]:
    """What a sign says; nothing when it is unreadable."""
    try:
        document = json.loads(objects.get(name, MAX_ROOT_BYTES))
        doing, since = document["doing"], float(document["since"])
        if not isinstance(doing, str) or not doing.isprintable() or not math.isfinite(since):
            return "", None
        return doing[:MAX_DOING], since
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError, FormatError):
        return "", None
