"""A directory that many runs of a store share, `<folder>/<name>/`: SPEC.md section 10.

Its content changes no number of a run, and every run is readable without it. So the first writer's
directory stays, a damaged one may be removed, and the repeated capture command writes it again.
"""

from collections.abc import Callable

from lpp.store.committed.checked import Checked, open_checked
from lpp.store.committed.commit import Attempt
from lpp.store.committed.once import commit_once
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.commit_record import Record, undamaged_record
from lpp.store.format.keys import COMMIT_KEY, MAX_DOCUMENT_BYTES
from lpp.store.objects.place import Place, is_read_only
from lpp.store.objects.protocol import Objects


class SharedDirectory(Checked[Record]):
    """A committed directory that runs share, and its objects."""

    @property
    def remedy(self) -> str:
        """Advice for messages about an altered object."""
        return shared_remedy(self.directory.root)


def open_shared(
    root: Objects, folder: str, name: str, kind: type[Record]
) -> SharedDirectory[Record] | None:
    """The directory `<folder>/<name>/` of a store; None if it is not committed.

    Raises FormatError, with the next command: CORRUPT for an altered record, UNSUPPORTED_VERSION if
    a newer release wrote it. Objects are compared when they are read.
    """
    directory = root.below(f"{folder}/{name}")
    try:
        return SharedDirectory(directory, open_checked(directory, kind).record)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except FormatError as error:
        if error.kind is ErrorKind.UNSUPPORTED_VERSION:
            raise
        raise FormatError(f"{error} {shared_remedy(root.root)}", kind=error.kind) from None


def holds_shared(root: Objects, folder: str, name: str, kind: type[Record]) -> bool:
    """Whether `<folder>/<name>/` is committed with an intact record; compares no object.

    Raises FormatError(UNSUPPORTED_VERSION) if a newer release wrote it.
    """
    where = root.below(f"{folder}/{name}")
    try:
        data = where.get(COMMIT_KEY, MAX_DOCUMENT_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except FormatError:  # a link, or longer than any record
        return False
    return undamaged_record(kind, data, str(where.place / COMMIT_KEY)) is not None


def commit_shared(
    root: Objects, folder: str, name: str, record: Record, write: Callable[[Attempt], None]
) -> bool:
    """Commit `<folder>/<name>/`; False if an intact one exists, which costs one small read.

    record: not sealed; this fills in format, objects and base. write: puts the objects into an
    attempt; called only if needed. A damaged record is replaced. Any number of processes may call
    this at once: one wins. Raises MachineError for a full or read-only disk,
    FormatError(UNSUPPORTED_VERSION) if a newer release wrote the directory.
    """
    if holds_shared(root, folder, name, type(record)):
        return False
    return commit_once(root.below(f"{folder}/{name}"), record, write)


def shared_remedy(root: Place) -> str:
    """Advice for a damaged directory that runs share."""
    if is_read_only(root):
        return "Every run is read without it; only the owner of the store can repair it."
    return (
        f"Every run is read without it: `lpp-capture repair {root}` removes the directory, and "
        "repeating the `lpp-capture run` command writes it again."
    )
