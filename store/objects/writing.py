"""Writing a store wherever it is: on disks as `files` does, in buckets by attempts.

A bucket knows no rename. There a writer puts what it makes under a prefix of its own, an
*attempt*, and `commit.write_commit` decides in one conditional put whose attempt counts (SPEC.md
section 6). The functions here have the names of those in `files`, and call them for disks.
"""

import contextlib
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import xxhash

from lpp.store.errors import LppError
from lpp.store.format.keys import COMMIT_KEY, SHARDS_KEY
from lpp.store.objects import disk as files
from lpp.store.objects.disk import ObjectRecord, checksum
from lpp.store.objects.object_path import ObjectPath
from lpp.store.objects.owners import owner_of
from lpp.store.objects.place import Place

if TYPE_CHECKING:
    from lpp.store.read import Run

ATTEMPT: Final = re.compile(r"[0-9a-f]{16}")
"""Name of an attempt: so many bits that no two writers meet."""


def describe(path: Place) -> ObjectRecord:
    """Size and checksum of an object, read a piece at a time."""
    if isinstance(path, Path):
        return files.describe(path)
    digest, size = xxhash.xxh3_128(), 0
    for piece in path.bucket.pieces(path.key):
        digest.update(piece)
        size += len(piece)
    return ObjectRecord(bytes=size, xxh3_128=digest.hexdigest())


def write_object(path: Place, data: bytes | memoryview) -> ObjectRecord:
    """Write one new object of a stage or an attempt."""
    if isinstance(path, Path):
        return files.write_object(path, data)
    path.write_bytes(data)
    return ObjectRecord(bytes=memoryview(data).nbytes, xxh3_128=checksum(data))


def replace_file(path: Place, data: bytes) -> None:
    """Put `data` in the place of whatever is at `path`, in one step."""
    if isinstance(path, Path):
        files.replace_file(path, data)
    else:
        path.write_bytes(data)


@contextlib.contextmanager
def staged_directory(target: Place, make_way: Callable[[], None] = lambda: None) -> Iterator[Place]:
    """A place to fill, and to end with `write_commit`; `target` is whole when the block ends well.

    make_way: on a disk, called when all of it is there, just before it takes the name.
    Raises FileExistsError when another writer got there first; what was made is removed then.
    """
    if isinstance(target, Path):
        with files.staged_directory(target, make_way) as stage:
            yield stage
        return
    attempt = target / secrets.token_hex(8)
    try:
        yield attempt
    except BaseException:
        with contextlib.suppress(LppError):
            attempt.bucket.delete([item.key for item in attempt.bucket.below(attempt.key)])
        raise
    sweep_attempts(target, keep=attempt.name)


def sweep_attempts(target: ObjectPath, keep: str) -> None:
    """Remove what other attempts left in `target`, whose record names `keep`: none of them can
    win any more. A store that refuses costs nothing but room.
    """
    with contextlib.suppress(LppError):
        target.bucket.delete(
            [
                item.key
                for item in target.bucket.below(target.key)
                if ATTEMPT.fullmatch(name := _first(item.key, target)) and name != keep
            ]
        )


def sweep_run(run: "Run") -> None:
    """Remove every attempt of a run that lost, where its winner is known; nothing on a disk.

    Costs a listing of the run: a request for each thousand objects.
    """
    if not isinstance(run.path, ObjectPath):
        return
    bucket, home = run.path.bucket, run.path.key
    kept = {f"{SHARDS_KEY}/{shard.path.name}/": shard.commit.base for shard in run.shards}
    kept[""] = run.commit.base
    lost = []
    for item in bucket.below(home):
        folder, first = _folder_of(item.key.removeprefix(f"{home}/"))
        if folder in kept and ATTEMPT.fullmatch(first) and first != kept[folder]:
            lost.append(item.key)
    bucket.delete_quietly(lost)


def _folder_of(key: str) -> tuple[str, str]:
    """The shard's folder that a key of a run lies in, "" for the run's own; and what follows."""
    parts = key.split("/")
    if parts[0] == SHARDS_KEY and len(parts) > 2:
        return f"{SHARDS_KEY}/{parts[1]}/", parts[2]
    return "", parts[0]


def sweep_others(target: ObjectPath, keep: str) -> None:
    """Remove everything from `target` but its record and the attempt `keep`."""
    kept = f"{target.key}/{COMMIT_KEY}"
    with contextlib.suppress(LppError):
        target.bucket.delete(
            [
                item.key
                for item in target.bucket.below(target.key)
                if item.key != kept and _first(item.key, target) != keep
            ]
        )


def remove(path: Place) -> None:
    """Remove an object, or a directory with everything in it: its record first."""
    if isinstance(path, Path):
        files.remove(path)
        return
    keys = [item.key for item in path.bucket.below(path.key)]
    path.bucket.delete([key for key in (f"{path.key}/{COMMIT_KEY}",) if key in keys])
    path.bucket.delete([path.key, *keys])


def sweep_stages(folder: Place) -> None:
    """Remove what writers of this machine left in `folder` when they were killed."""
    if isinstance(folder, Path):
        files.sweep_stages(folder)
        return
    for path in folder.iterdir():
        owner = owner_of(path.name)
        if owner is not None and owner.ended:
            remove(path)


def _first(key: str, folder: ObjectPath) -> str:
    """The part of `key` right under `folder`."""
    return key.removeprefix(f"{folder.key}/" if folder.key else "").partition("/")[0]
