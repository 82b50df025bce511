"""Turn DuckDB's errors into this project's errors: what is wrong, where, and the next command."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import duckdb

from lpp.sql.confinement import statement_filter
from lpp.sql.confinement.connection_lock import NO_EXTENSIONS, SETTABLE
from lpp.sql.database.files import NO_PROFILES, no_profiles, profile_command
from lpp.store.errors import (
    ConflictError,
    ErrorKind,
    FormatError,
    InputError,
    LppError,
    MachineError,
)
from lpp.store.format.keys import DATABASE_KEY
from lpp.store.objects.place import Place

_FULL = ("No space left on device", "Disk quota exceeded", "File too large")
_FULL_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_IN_USE = ("Could not set lock on file", "Unique file handle conflict")
_MAX_LINES = 12
_BROKEN: Final = (duckdb.InternalException, duckdb.FatalException, duckdb.SerializationException)


def first_lines(error: BaseException, most: int = _MAX_LINES) -> str:
    """The start of an error's text, where DuckDB puts the position in the SQL."""
    return "\n".join(str(error).strip().splitlines()[:most])


def is_in_use(error: BaseException) -> bool:
    """Whether `error` says that another connection is writing to the file."""
    return any(text in str(error) for text in _IN_USE)


def in_use(database: Place, error: BaseException) -> ConflictError:
    """The error that another process uses `database`, with DuckDB's sentence that names it."""
    return ConflictError(
        f"{database}: another connection has it open for writing, and DuckDB lets nobody in "
        f"beside it. Close it, then repeat the command. ({first_lines(error, 1).split('. ')[0]})",
        kind=ErrorKind.IN_USE,
    )


@contextmanager
def full_disk_named(place: Place) -> Iterator[None]:
    """Turn a full disk, quota or file-size limit into MachineError(NO_SPACE) naming `place`."""
    try:
        yield
    except (duckdb.Error, OSError) as error:
        if not is_full(error):
            raise
        raise _no_space(place, error) from error


def is_full(error: BaseException) -> bool:
    """Whether `error` says that a disk, a quota or a limit on file sizes is exhausted."""
    code = error.errno if isinstance(error, OSError) else None
    return code in _FULL_CODES or any(text in str(error) for text in _FULL)


def _no_space(place: Place, error: BaseException) -> MachineError:
    return MachineError(
        f"{place}: no room to write ({first_lines(error, 1)}). What was there before is untouched. "
        "Free some space (`df -h` shows the disk), then repeat the command.",
        kind=ErrorKind.NO_SPACE,
    )


def opening_fault(error: duckdb.Error, database: Place, root: Place) -> LppError:
    """Why `database` of the store at `root` could not be opened."""
    rebuild = f"Build it again from the store: {profile_command(root)}"
    detail = first_lines(error, 1)
    if is_in_use(error):
        return in_use(database, error)
    if "version number" in str(error):
        return FormatError(
            f"{database}: written by a newer DuckDB than this one ({duckdb.__version__}). "
            f"Upgrade it (pip install --upgrade duckdb), or: {rebuild}",
            kind=ErrorKind.UNSUPPORTED_VERSION,
        )
    if "Permission denied" in str(error) or "Read-only file system" in str(error):
        return InputError(
            f"{database}: this user may not open it so. Read it without --write, or change its "
            f"permissions. ({detail})",
            kind=ErrorKind.READ_ONLY,
        )
    return FormatError(
        f"{database}: DuckDB cannot read it ({detail}). {rebuild}, and repeat the other commands "
        "whose numbers it held: they are kept under analysis/.",
        kind=ErrorKind.CORRUPT,
    )


def is_damage(error: duckdb.Error) -> bool:
    """Whether `error` says that the bytes of a database are not those that DuckDB wrote."""
    return isinstance(error, _BROKEN) or "corrupt" in str(error).casefold()


@contextmanager
def damage_named(root: Place) -> Iterator[None]:
    """Turn what DuckDB says of a damaged database of the store at `root` into FormatError(CORRUPT).

    For queries of this project, which are right: so every error that is not of the catalogue or of
    a full disk is damage.
    """
    try:
        yield
    except (duckdb.CatalogException, duckdb.BinderException):
        raise
    except duckdb.Error as error:
        raise (
            _too_much(error, root)
            or _damaged_tokens(error, root)
            or opening_fault(error, root / DATABASE_KEY, root)
        ) from error


_REFUSALS: Final = {
    "the configuration has been locked": (
        f"Settings are locked, but for these, and those with DuckDB 2 only: {', '.join(SETTABLE)}."
    ),
    # extensions before files: one message of DuckDB has both words
    NO_EXTENSIONS: statement_filter.NO_EXTENSIONS,
    "external extensions": statement_filter.NO_EXTENSIONS,
    "the extension httpfs": statement_filter.NO_EXTENSIONS,
    "extension 'httpfs'": statement_filter.NO_EXTENSIONS,
    "the httpfs extension": statement_filter.NO_EXTENSIONS,
    "Cannot access directory": statement_filter.NO_EXTENSIONS,
    "disabled by configuration": statement_filter.NO_FILES,
    "disabled through configuration": statement_filter.NO_FILES,
    "belongs to an attached database": statement_filter.NO_FILES,
}
"""Words of DuckDB's refusals of what `lpp.sql.confinement` forbids, and what to do."""


def _refusal(error: duckdb.Error) -> InputError | None:
    """What the SQL may not do, and the flag that allows it; None for other faults."""
    text, kind = str(error), ErrorKind.NOT_ALLOWED
    advice = next((advice for words, advice in _REFUSALS.items() if words in text), None)
    if advice is None and "attached in read-only mode" in text:
        kind = ErrorKind.READ_ONLY
        advice = (
            "The profiles are open read-only: add --write to change them. "
            "The next `lpp-analyze` command replaces the rows that it computes, keeps the others "
            "of unchanged runs and items, and does not keep tables and views of your own."
        )
    return None if advice is None else InputError(f"{first_lines(error, 1)}\n{advice}", kind=kind)


def query_fault(error: duckdb.Error, root: Place, sql: str) -> LppError | None:
    """Why the query `sql` on the store at `root` failed; None if it is a fault of DuckDB itself."""
    if "corrupt" in str(error).casefold():
        return opening_fault(error, root / DATABASE_KEY, root)
    if isinstance(error, _BROKEN):
        return None
    if NO_PROFILES in str(error):  # a table that no store without profiles can answer
        return no_profiles(root)
    return (
        _too_much(error, root)
        or _refusal(error)
        or _damaged_tokens(error, root)
        or _bad_query(error, sql)
    )


def _too_much(error: duckdb.Error, root: Place) -> MachineError | None:
    """The resource that the query ran out of; None for other faults."""
    if is_full(error):
        return _no_space(root, error)
    if "max_temp_directory_size" in str(error):
        return MachineError(
            f"the query needs more room on disk than it may take: {first_lines(error, 1)}\n"
            "Ask for fewer columns or rows, or give it more: --spill-limit 50GiB",
            kind=ErrorKind.NO_SPACE,
        )
    if isinstance(error, duckdb.OutOfMemoryException):
        return MachineError(
            f"the query needs more memory than DuckDB may take: {first_lines(error, 2)}\n"
            "Ask for fewer columns or rows, or raise it in the SQL: SET memory_limit = '8GB'; ...",
            kind=ErrorKind.NO_MEMORY,
        )
    return None


def _damaged_tokens(error: duckdb.Error, root: Place) -> FormatError | None:
    if "tokens.arrow" not in str(error):
        return None
    return FormatError(
        f"{first_lines(error, 2)}\nFind every damaged file: lpp-analyze verify {root}",
        kind=ErrorKind.CORRUPT,
    )


def _bad_query(error: duckdb.Error, sql: str) -> LppError:
    return InputError(
        f"{_with_line_of(sql, first_lines(error))}\nTables, columns and units: lpp-sql --schema",
        kind=ErrorKind.BAD_SQL,
    )


def _with_line_of(sql: str, message: str) -> str:
    """DuckDB's message, with the number of its line in `sql`. To show a table, DuckDB puts the
    query into one of its own and counts the lines of that.

    >>> print(_with_line_of("SELECT x", "LINE 3: SELECT x\\n               ^"))
    LINE 1: SELECT x
                   ^
    """

    def placed(match: re.Match[str]) -> str:
        number, shown, gap = int(match[2]), match[3].strip("."), match[4]
        there = [n for n, line in enumerate(sql.splitlines(), 1) if shown in line]
        before = [n for n in there if n <= number]
        prefix = f"LINE {max(before)}: " if before else ""
        return f"{prefix}{match[3]}\n{gap[: len(gap) + len(prefix) - len(match[1])]}"

    return re.sub(r"^(LINE (\d+): )(.*)\n( *)", placed, message, flags=re.MULTILINE)
