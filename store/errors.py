"""Every error a user can meet, grouped by what the user would do about it.

    LppError
    ├── InputError          ValueError  change the command or the input file
    │   └── NotFoundError   KeyError    choose an existing name
    ├── FormatError         ValueError  the data is no store this release reads, or was altered
    ├── ConflictError       OSError     another run, plan or writer is already there
    └── MachineError        OSError     the machine lacks something: disk space, memory, a package,
                                        a device, an object store that answers

Each is also the built-in error named next to it, for callers who catch built-in errors.

Each message says what is wrong, where, and the next command. A command prints it without a
traceback and exits with code 2.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any


class ErrorKind(StrEnum):
    """Stable codes, for scripts that branch on them. Append only: a code never changes meaning."""

    NOT_FOUND = "not_found"
    INVALID_VALUE = "invalid_value"
    NOT_A_STORE = "not_a_store"
    UNSUPPORTED_VERSION = "unsupported_version"
    CORRUPT = "corrupt"
    INCOMPLETE = "incomplete"
    PLAN_DIFFERS = "plan_differs"
    READ_ONLY = "read_only"
    NO_SPACE = "no_space"
    NO_PACKAGE = "no_package"
    NO_DEVICE = "no_device"
    NO_MEMORY = "no_memory"
    UNSUPPORTED_MODEL = "unsupported_model"
    BAD_SQL = "bad_sql"
    IN_USE = "in_use"
    ENGINE_DIED = "engine_died"
    DISK_FAILED = "disk_failed"
    UNREACHABLE = "unreachable"
    DENIED = "denied"
    NOT_ALLOWED = "not_allowed"
    TIMED_OUT = "timed_out"


def first_line(error: object) -> str:
    """The first line of an error's text, for use in a message; its type if the text is empty.

    >>> first_line(ValueError("no such file\\nat line 3")), first_line(TimeoutError())
    ('no such file', 'TimeoutError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class LppError(Exception):
    """Base of every error raised on purpose: `str(error)` is a message for the user."""

    def __init__(self, message: str, *, kind: ErrorKind) -> None:
        super().__init__(message)
        self.kind = kind

    def __str__(self) -> str:
        return str(self.args[0])  # as written: KeyError would quote it

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with `kind`, a keyword argument that the default would drop."""
        return _revived, (type(self), str(self), self.kind)


class InputError(LppError, ValueError):
    """The command or an input file must change."""

    def __init__(self, message: str, *, kind: ErrorKind = ErrorKind.INVALID_VALUE) -> None:
        super().__init__(message, kind=kind)


class NotFoundError(InputError, KeyError):
    """Nothing has the given name; the message lists the names there are."""

    def __init__(self, message: str, *, kind: ErrorKind = ErrorKind.NOT_FOUND) -> None:
        super().__init__(message, kind=kind)


class FormatError(LppError, ValueError):
    """The data on disk is not a store this release reads, or is not what was written."""


class ConflictError(LppError, OSError):
    """Something else is already there: another plan, another writer."""


class MachineError(LppError, OSError):
    """The machine lacks something: disk space, memory, a package, a device."""


class Mistakes:
    """The mistakes of one request, gathered so that its user meets all of them at once.

    Each of several independent checks runs in a `gather` block; `raise_any` ends them.
    """

    def __init__(self) -> None:
        self._errors: list[InputError] = []

    @contextmanager
    def gather(self) -> Iterator[None]:
        """Keep an InputError of the block for `raise_any`."""
        try:
            yield
        except InputError as error:
            self._errors.append(error)

    def raise_any(self) -> None:
        """Raise what was kept, if anything was."""
        if self._errors:
            raise together(self._errors)


def together(errors: Sequence[InputError]) -> InputError:
    """The only one of `errors` as it is; of several, one that says all, of the kind of the
    first.
    """
    if len(errors) == 1:
        return errors[0]
    return InputError("\n".join(map(str, errors)), kind=errors[0].kind)


def task_error(ray: Any, error: Exception) -> Exception:
    """The error to raise for a failed task of the module `ray`: ours as it was raised there, Ray's
    own as MachineError.
    """
    if isinstance(error, ray.exceptions.RayTaskError):
        cause: Exception = error.cause
        return cause
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return MachineError(
            "Ray ended a task because a machine of the cluster ran out of memory, several times. "
            "Give Ray fewer processors there (`ray start --num-cpus`), so that fewer tasks run "
            "at once.",
            kind=ErrorKind.NO_MEMORY,
        )
    if isinstance(error, ray.exceptions.RayError):
        line = first_line(error).rstrip(".")
        return MachineError(
            f"Ray gave up on a task: {line}. What is done stays: repeat the command once "
            "`ray status` shows the machines.",
            kind=ErrorKind.ENGINE_DIED,
        )
    return error


def _revived(of: type[LppError], message: str, kind: ErrorKind) -> LppError:
    return of(message, kind=kind)
