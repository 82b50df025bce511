"""What a store may name, and what may lie there: SPEC.md sections 2 and 6.

A store may come from a stranger. Names that its records list are relative, plain and below the
directory that lists them; what they lead to is a regular file, reached through directories alone.
So no link leads out of the store, and no pipe or device keeps a reader waiting. Imports nothing
heavy: `lpp-sql` starts through it.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, overload

from lpp.store.errors import ErrorKind, FormatError
from lpp.store.objects.object_path import ObjectPath
from lpp.store.objects.place import Place

MAX_KEY_BYTES: Final = 1024
"""Of a name with all its parts."""

MAX_PART_BYTES: Final = 255
"""Of one part: what common file systems hold."""

MAX_DOCUMENT_BYTES: Final = 64 << 20
"""Of a document. A plan of a million shards takes 10 MB."""

MAX_ROOT_BYTES: Final = 64 << 10
"""Of `lpp.json`, and of other documents of a few words."""

ADVICE: Final = "`lpp-analyze verify <store>` lists every such object."


def key_problem(key: str) -> str | None:
    r"""Why `key` may not name an object below a directory; None when it may.

    >>> key_problem("hidden.zarr/block.1/c/0/0")
    >>> [key_problem(key) for key in ("../x", "/etc/passwd", "a//b", "a\\b")]
    ["has a part '..'", "has a part ''", "has a part ''", 'has a character that no name may have']
    """
    if len(key.encode(errors="replace")) > MAX_KEY_BYTES:
        return f"is longer than {MAX_KEY_BYTES} bytes"
    if "\\" in key or not key.isprintable():
        return "has a character that no name may have"
    for part in key.split("/"):
        if not part or part.startswith("."):
            return f"has a part {part!r}"
        if len(part.encode(errors="replace")) > MAX_PART_BYTES:
            return f"has a part of more than {MAX_PART_BYTES} bytes"
    return None


@overload
def plain_file(directory: Path, key: str) -> Path: ...
@overload
def plain_file(directory: ObjectPath, key: str) -> ObjectPath: ...
@overload
def plain_file(directory: Place, key: str) -> Place: ...
def plain_file(directory: Place, key: str) -> Place:
    """`directory / key`, where it is a regular file and each part above it a real directory.

    Raises FileNotFoundError (or NotADirectoryError) where nothing is there, FormatError(CORRUPT)
    for a link, a pipe, a device or a directory. `directory` itself may not be a link. A bucket
    knows none of these, and is not asked.
    """
    if isinstance(directory, ObjectPath):
        return directory / key
    path = plain_directory(directory)
    *folders, name = key.split("/")
    for folder in folders:
        path = plain_directory(path / folder)
    _refuse(path / name, stat.S_ISREG, "file")
    return path / name


def plain_directory(path: Path) -> Path:
    """`path`, where it is a real directory; raises what `plain_file` does."""
    _refuse(path, stat.S_ISDIR, "directory")
    return path


def _refuse(path: Path, fits: Callable[[int], bool], kind: str) -> None:
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        raise FormatError(
            f"{path}: a symbolic link. A store holds none, since one may lead anywhere: put the "
            f"{kind} itself there. {ADVICE}",
            kind=ErrorKind.CORRUPT,
        )
    if not fits(mode):
        raise FormatError(f"{path}: not a {kind}. {ADVICE}", kind=ErrorKind.CORRUPT)


def read_bounded(directory: Place, key: str, most: int) -> bytes:
    """The content of a plain file of at most `most` bytes; raises what `plain_file` does."""
    path = plain_file(directory, key)
    if isinstance(path, Path):
        with path.open("rb") as file:
            data = file.read(most + 1)
    else:
        data = bytes(path.read_bytes())
    if len(data) > most:
        raise FormatError(
            f"{path}: more than {most} bytes, which no {key.rpartition('/')[2]} needs. {ADVICE}",
            kind=ErrorKind.CORRUPT,
        )
    return data
