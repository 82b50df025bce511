"""Compare a committed directory with its record, byte by byte: SPEC.md section 8.

The content of the store raises no error: each difference is a `Problem` with its place.
"""

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from lpp.store.arrays.decode_pool import usable_cores
from lpp.store.committed.checked import Checked, holds_more_than_attempts, open_checked
from lpp.store.errors import FormatError, MachineError
from lpp.store.format.commit_record import ATTEMPT, Record
from lpp.store.format.keys import COMMIT_KEY
from lpp.store.objects.checks import describe
from lpp.store.objects.owners import owner_of
from lpp.store.objects.protocol import Objects

ALONE: Final = 4 << 20
"""Bytes that one thread reads while others would start."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One difference between the store and what was committed."""

    where: str
    """Path relative to the directory that was verified."""
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"

    def below(self, folder: str) -> "Problem":
        """The same problem, with its place relative to the parent directory of `folder`."""
        return Problem(where=f"{folder}/{self.where}", what=self.what)


def verify_directory(directory: Objects, kind: type[Record]) -> list[Problem]:
    """Every difference of a committed directory from its record, the record's own included."""
    checked, problems = open_or_problem(directory, kind)
    return [*problems, *(check_objects(checked) if checked else ())]


def verify_each(
    root: Objects, folder: str, kind: type[Record]
) -> Iterator[tuple[Objects, list[Problem]]]:
    """Each committed directory directly in `folder`, and its differences from its record.

    Places are relative to `root`. A directory that has no record and only attempts is being written
    or removed, or was left by a killed writer; it is no problem.
    """
    for directory in directories_in(root, folder):
        problems = verify_directory(directory, kind)
        if problems and not holds_more_than_attempts(directory):
            continue
        yield directory, [p.below(f"{folder}/{directory.place.name}") for p in problems]


def directories_in(root: Objects, folder: str) -> list[Objects]:
    """The entries of `folder` without names that begin with a dot, which are writers'."""
    below = root.below(folder)
    return [below.below(e.name) for e in below.entries() if not e.name.startswith(".")]


def open_or_problem(
    directory: Objects, kind: type[Record]
) -> tuple[Checked[Record] | None, list[Problem]]:
    """The committed directory, or the problems that prevent opening it."""
    try:
        return open_checked(directory, kind), []
    except FileNotFoundError:
        what = "not committed (capture has not come to it, or was stopped before)"
    except FormatError as error:
        what = str(error)
    except MachineError:
        raise
    except OSError as error:
        what = f"not readable ({error.strerror})"
    return None, [Problem(where=COMMIT_KEY, what=what)]


def check_objects(checked: Checked[Any], keep: Collection[str] = ()) -> Iterator[Problem]:
    """Compare the objects of one directory with its record: sizes, checksums, and no others.

    keep: names directly in it that the caller checks. Other attempts, and names that begin with a
    dot, are writers' leftovers and no problem.
    """
    base = checked.record.base
    keys = sorted(checked.record.objects)
    with ExitStack() as stack:
        few = sum(checked.record.objects[key].bytes for key in keys) < ALONE
        each: Any = map
        if not (few and checked.objects.is_local):
            threads = ThreadPoolExecutor(usable_cores(), thread_name_prefix="lpp-verify")
            each = stack.enter_context(threads).map
        problems = each(lambda key: _object_problem(checked, key), keys)
        for key, what in zip(keys, problems, strict=True):
            if what:
                yield Problem(where=f"{base}/{key}", what=what)
    expected = {*(f"{base}/{key}" for key in keys), COMMIT_KEY}
    expected |= {parent.as_posix() for key in expected for parent in PurePosixPath(key).parents}
    for key in _lying(checked.directory, {*keep, COMMIT_KEY}, base):
        if key not in expected:
            yield Problem(where=key, what="not part of what was committed")


def _object_problem(checked: Checked[Any], key: str) -> str:
    recorded, objects = checked.record.objects[key], checked.objects
    try:
        with objects.open(key) as source:
            if source.size != recorded.bytes:  # not read: with holes it could take hours
                return f"{source.size} bytes, {recorded.bytes} were committed"
            actual = describe(source, objects.piece_bytes, [c.bytes for c in recorded.chunks])
    except MachineError:
        raise
    except (OSError, FormatError, EOFError) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return f"not readable ({what})"
    if actual.xxh3_128 != recorded.xxh3_128:
        return "altered: its checksum does not match"
    if actual.chunks != recorded.chunks:
        return "its chunks are not those of its record"
    return ""


def _lying(directory: Objects, keep: Collection[str], base: str) -> Iterator[str]:
    """Keys of everything in a directory, at any depth, except writers' leftovers at its top."""
    for entry in directory.entries():
        name = entry.name
        if name in keep or owner_of(name) or (name != base and ATTEMPT.fullmatch(name)):
            continue
        below = []
        with suppress(PermissionError):  # its objects are not readable, which says so
            below = list(directory.walk(name)) if entry.is_folder else []
        yield from below or [name]
