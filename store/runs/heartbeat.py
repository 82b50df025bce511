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
from lpp.store.format.keys import MAX_ROOT_BYTES
from lpp.store.objects.owners import Owner, owner_of, staged_name
from lpp.store.objects.place import Place
from lpp.store.objects.protocol import Objects
from lpp.store.runs.shards import run_directory

SIGN: Final = "writer"
"""The beginning of a heartbeat file's name, after the dot."""

SIGN_SECONDS: Final = 30.0
"""Seconds between two touches of the file."""

MAX_DOING: Final = 200
"""Characters of a writer's description that are shown."""

SILENT_SECONDS: Final = 180.0
"""A writer whose file was not touched for this long counts as gone. That is six missed touches,
which allows for clocks that disagree and file systems that report changes late."""

AHEAD_SECONDS: Final = 86_400.0
"""A writer whose file is from further ahead counts as gone too: a clock has jumped, and its time
would not come for years."""


@dataclass(frozen=True, kw_only=True)
class Writer:
    """A process that writes a run, or one that was killed while it wrote."""

    host: str
    pid: int
    here: bool
    """Whether `host` is this machine."""
    doing: str
    """Its own description, such as `part 2/8`; empty if it gave none."""
    since: float | None
    """When it began, in seconds since the epoch, by its own clock; None if unknown."""
    last_sign: float
    """When it last touched its file, in seconds since the epoch, by the file system's clock."""
    ended: bool
    """Whether its process is known to have ended; only processes of this machine can be known."""

    def alive(self, now: float) -> bool:
        """Whether it seems to be at work: it is not known to have ended, and its file is recent."""
        return not self.ended and -AHEAD_SECONDS < now - self.last_sign < SILENT_SECONDS


@contextlib.contextmanager
def at_work(shards: Place, doing: str) -> Iterator[None]:
    """Keep a heartbeat of this process in the directory `shards` until the block ends.

    Heartbeats are optional: if the file cannot be written, the work continues without it.
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
    """Every process with a heartbeat in the directory `shards`, by host and pid."""
    objects = _signs(shards)
    by_process = {}
    for entry in objects.entries():
        owner = owner_of(entry.name)
        seen = _seen(objects, entry.name, owner) if owner and owner.target == SIGN else None
        if owner is not None and seen is not None:
            by_process[seen.host, seen.pid, owner.mark] = seen  # containers may share a pid
    return [by_process[key] for key in sorted(by_process)]


def _signs(shards: Place) -> Objects:
    return run_directory(shards.parent).below(shards.name)


def _seen(objects: Objects, name: str, owner: Owner) -> Writer | None:
    """The writer that a heartbeat describes; None if the file has vanished."""
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
    """Description and start time in a heartbeat; empty if it is unreadable."""
    try:
        document = json.loads(objects.get(name, MAX_ROOT_BYTES))
        doing, since = document["doing"], float(document["since"])
        if not isinstance(doing, str) or not doing.isprintable() or not math.isfinite(since):
            return "", None
        return doing[:MAX_DOING], since
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError, FormatError):
        return "", None
