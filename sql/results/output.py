"""Where a result goes: standard output, or a file that appears only when it is whole."""

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lpp.store.errors import ErrorKind, InputError


@contextmanager
def text_output(target: Path | None) -> Iterator[IO[str]]:
    """A UTF-8 text stream to `target`; standard output for None."""
    if target is None:
        yield sys.stdout
        return
    with whole_file(target) as path, path.open("w", encoding="utf-8", newline="") as stream:
        yield stream


@contextmanager
def binary_output(target: Path | None) -> Iterator[Path]:
    """A file to write; for None what it holds is passed on to standard output afterwards.

    Not to a pipe at once: a query that fails half-way would leave half a file at its end. The
    path is absolute, since DuckDB is told that it may write there and nowhere else.
    """
    if target is not None:
        with whole_file(target) as path:
            yield path.absolute()
        return
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory(prefix="lpp-sql-") as folder:
        path = Path(folder) / "result"
        yield path
        if not path.exists():  # the last statement had no rows
            return
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)
        sys.stdout.buffer.flush()


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A name beside `target` that takes its place when the block ends well, and else is removed.

    A pipe, a device or a link (`/dev/stdout` is one) is written in place: replacing it would put
    a file where it stood.
    """
    if target.is_dir() or not target.parent.is_dir():
        why = "is a directory" if target.is_dir() else f"no such directory: {target.parent}"
        raise InputError(
            f"cannot write {target}: {why}. Name a file with --output.",
            kind=ErrorKind.INVALID_VALUE,
        )
    if target.is_symlink() or (target.exists() and not target.is_file()):
        yield target
        return
    beside = target.with_name(f".{target.name}~{os.getpid()}~{secrets.token_hex(4)}")
    try:
        yield beside
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
