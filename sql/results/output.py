"""The target of a result: standard output, or a file that appears only when it is complete."""

import errno
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, cast

from lpp.store.errors import ErrorKind, InputError, MachineError
from lpp.store.terminal.escaping import TerminalStream

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def text_output(target: Path | None) -> Iterator[IO[str]]:
    """A UTF-8 text stream to `target`, or standard output for None; a terminal's escapes."""
    if target is None:
        yield sys.stdout
        return
    with whole_file(target) as path, path.open("w", encoding="utf-8", newline="") as stream:
        yield cast("IO[str]", TerminalStream(stream)) if stream.isatty() else stream


@contextmanager
def binary_output(target: Path | None) -> Iterator[Path]:
    """A file to write; for None its bytes are copied to standard output when the block ends.

    Not sooner: a query that fails half-way would leave half a file at the pipe's end. The path is
    absolute, since DuckDB is told that it may write there and nowhere else.
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
    """A temporary name beside `target`: renamed to it if the block succeeds, removed otherwise.

    A pipe, a device or a link (`/dev/stdout` is one) is written in place: a rename would replace
    it by a file. Raises InputError for a directory or a folder that does not exist,
    MachineError(NO_SPACE) naming `target` where the disk, a quota or a file-size limit is full.
    """
    if target.is_dir() or not target.parent.is_dir():
        why = "is a directory" if target.is_dir() else f"no such directory: {target.parent}"
        raise InputError(f"cannot write {target}: {why}. Name a file with --output.")
    in_place = is_written_in_place(target)
    beside = target.with_name(f".{target.name}~{os.getpid()}~{secrets.token_hex(4)}")
    try:
        yield target if in_place else beside
        if not in_place:
            os.replace(beside, target)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        before = "" if in_place else " What was there before is untouched."
        raise MachineError(
            f"{target}: no room to write ({error.strerror}).{before} "
            "Free some space (`df -h` shows the disk), then repeat the command.",
            kind=ErrorKind.NO_SPACE,
        ) from error
    finally:
        if not in_place:
            beside.unlink(missing_ok=True)


def is_written_in_place(target: Path) -> bool:
    """Whether `target` is a pipe, a device or a link."""
    return target.is_symlink() or (target.exists() and not target.is_file())
