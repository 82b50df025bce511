"""Who works on a run: a sign that each writer keeps while it is at work, SPEC.md section 6.

A shard's stage exists only while the shard is written; computing it takes longer, and loading a
model longer still. So a writer keeps a small file beside the shards and touches it twice a minute.
On its own machine the process number tells whether it lives; from any other, the age of the sign.
"""

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from lpp.store.errors import FormatError, LppError
from lpp.store.objects.owners import Owner, owner_of, staged_name
from lpp.store.objects.paths import MAX_ROOT_BYTES, read_bounded
from lpp.store.objects.place import Place
from lpp.store.objects.writing import remove

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
    writing: tuple[str, ...]
    """Shards it is writing at this moment, by their names."""
    ended: bool
    """Whether its process is known to be gone: known of this machine's processes alone."""

    def alive(self, now: float) -> bool:
        """Whether it is at work, as far as can be told: not known to have ended, not silent."""
        return not self.ended and now - self.last_sign < SILENT_SECONDS


@contextlib.contextmanager
def at_work(shards: Place, doing: str) -> Iterator[None]:
    """Keep a sign in the directory `shards` that this process works there, until the block ends.

    A sign is a courtesy: where it cannot be written, the work goes on without. In a bucket it is
    put anew instead of touched.
    """
    sign, end = shards / staged_name(SIGN), threading.Event()
    words = json.dumps({"doing": doing, "since": time.time()}).encode()

    def keep() -> None:
        while not end.wait(SIGN_SECONDS):
            with contextlib.suppress(OSError, LppError):
                if isinstance(sign, Path):
                    os.utime(sign)
                else:
                    sign.write_bytes(words)

    with contextlib.suppress(OSError, LppError):
        sign.write_bytes(words)
    keeper = threading.Thread(target=keep, name="lpp-sign", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        end.set()
        keeper.join()
        with contextlib.suppress(OSError, LppError):
            remove(sign)


def writers(shards: Place) -> list[Writer]:
    """Every process that left a sign or a stage in the directory `shards`, by host and pid."""
    found: dict[tuple[str, int, str], Writer] = {}
    try:
        names = sorted(path.name for path in shards.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    for name in names:
        owner = owner_of(name)
        seen = None if owner is None else _seen(shards / name, owner)
        if owner is not None and seen is not None:
            key = (seen.host, seen.pid, owner.mark)  # one number in two containers is two
            found[key] = _together(found[key], seen) if key in found else seen
    return [found[key] for key in sorted(found)]


def _seen(path: Place, owner: Owner) -> Writer | None:
    """What one name tells of its owner; None when it vanished meanwhile."""
    doing, since = _words(path) if owner.target == SIGN else ("", None)
    try:
        last_sign = path.stat().st_mtime
    except FileNotFoundError:
        return None
    return Writer(
        host=owner.host,
        pid=owner.pid,
        here=owner.here,
        doing=doing,
        since=since,
        last_sign=last_sign,
        writing=() if owner.target == SIGN else (owner.target,),
        ended=owner.ended,
    )


def _words(sign: Place) -> tuple[str, float | None]:
    """What a sign says; nothing when it is unreadable."""
    try:
        document = json.loads(read_bounded(sign.parent, sign.name, MAX_ROOT_BYTES))
        doing, since = document["doing"], float(document["since"])
        if not isinstance(doing, str) or not doing.isprintable() or not math.isfinite(since):
            return "", None
        return doing[:MAX_DOING], since
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError, FormatError):
        return "", None


def _together(one: Writer, other: Writer) -> Writer:
    times = [time for time in (one.since, other.since) if time is not None]
    return replace(
        one,
        doing=one.doing or other.doing,
        since=min(times, default=None),
        last_sign=max(one.last_sign, other.last_sign),
        writing=(*one.writing, *other.writing),
    )
