"""Whether a page can be written where it is to go."""

import os
import tempfile
from pathlib import Path

from lpp.sql.results.output import is_written_in_place
from lpp.store.errors import ErrorKind, InputError


def check_output(output: Path) -> None:
    """Raise InputError(INVALID_VALUE or READ_ONLY) if `output` could not be written later."""
    if output.is_dir() or not output.parent.is_dir():
        why = "is a directory" if output.is_dir() else f"no such directory: {output.parent}"
        raise InputError(f"cannot write {output}: {why}. Name a file with -o.")
    if output.exists() and not os.access(output, os.W_OK):
        raise _unwritable(output, "no permission")
    if is_written_in_place(output):
        return
    try:
        # the file system may be read-only although the directory's mode permits writing
        with tempfile.NamedTemporaryFile(dir=output.parent, prefix=f".{output.name}~"):
            pass
    except OSError as error:
        raise _unwritable(output, error.strerror or str(error)) from error


def _unwritable(output: Path, why: str) -> InputError:
    return InputError(
        f"cannot write {output}: {why}. Name another file with -o.", kind=ErrorKind.READ_ONLY
    )
