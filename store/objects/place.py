"""Where a store is: a directory of a disk, or a prefix of a bucket.

`Place` is what the rest of the project passes about. A disk's is a plain `pathlib.Path`, a
bucket's an `ObjectPath`, which speaks as much of the same language as a store needs. Light: names
no client before the first request.
"""

import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from lpp.store.errors import ErrorKind, InputError
from lpp.store.objects.clouds import CLOUDS, UNPROVEN, Cloud
from lpp.store.objects.object_path import ObjectPath

Place: TypeAlias = Path | ObjectPath
"""A directory or a file of a store, wherever it is."""

Url: TypeAlias = str | os.PathLike[str] | ObjectPath
"""What users and functions name a store by."""

REQUESTS_AT_ONCE: Final = 16
"""Small reads of a bucket side by side: each waits for the network, not for this machine."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def place(url: Url) -> Place:
    """The place that `url` names. Asks nothing of it.

    Raises InputError for a scheme that is not spoken, and for a URL that holds more than bucket
    and prefix: credentials belong in the environment. The message never repeats them.
    """
    if isinstance(url, ObjectPath):
        return url
    text = os.fspath(url)
    scheme, separator, rest = text.partition("://")
    if not separator or scheme == "file":
        return Path(rest if separator else text).expanduser()
    if scheme not in CLOUDS:
        raise _unsupported(scheme)
    return _object_path(CLOUDS[scheme], rest)


def _object_path(cloud: Cloud, rest: str) -> ObjectPath:
    if "@" in rest or "?" in rest or "#" in rest:
        raise InputError(
            f"the {cloud.scheme}:// URL of a store holds more than a {cloud.bucket} and a prefix. "
            f"Credentials and settings never go there: set {', '.join(cloud.credentials[:2])} and "
            "their like in the environment.",
            kind=ErrorKind.INVALID_VALUE,
        )
    bucket, _, prefix = rest.partition("/")
    parts = [part for part in prefix.split("/") if part]
    wrong = [part for part in parts if part in (".", "..") or not cloud.parts.fullmatch(part)]
    if not cloud.bucket_names.fullmatch(bucket) or wrong:
        raise InputError(
            f"the {cloud.scheme}:// URL of a store is not {cloud.example}, {cloud.rule}.",
            kind=ErrorKind.INVALID_VALUE,  # not quoted: what is wrong may be a secret
        )
    return ObjectPath(f"{cloud.scheme}://{bucket}", "/".join(parts))


def _unsupported(scheme: str) -> InputError:
    forms = " or ".join(cloud.example for cloud in CLOUDS.values())
    text = f"{_plain_scheme(scheme)}:// stores are not supported: give a directory, {forms}."
    return InputError(f"{text} {UNPROVEN.get(scheme, '')}".strip(), kind=ErrorKind.INVALID_VALUE)


def _plain_scheme(scheme: str) -> str:
    return scheme if re.fullmatch(r"[A-Za-z0-9+.-]{1,20}", scheme) else "such"


def children(folder: Place) -> list[Place]:
    """What lies right in `folder`, by name; nothing where there is no such folder."""
    try:
        found: list[Place] = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found, key=lambda path: path.name)


def in_parallel(
    where: Place, function: Callable[[Item], Result], items: Iterable[Item]
) -> list[Result]:
    """`function` of each item, in order; side by side where `where` is a bucket."""
    if isinstance(where, Path):
        return [function(item) for item in items]
    with ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="lpp-requests") as pool:
        return list(pool.map(function, items))


def absolute(url: Url) -> Place:
    """The same from any folder, as a process on another machine needs it."""
    found = place(url)
    return found.absolute() if isinstance(found, Path) else found
