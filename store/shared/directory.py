"""A directory that many runs of a store share, `<folder>/<name>/`: SPEC.md section 10.

Its content changes no number of a run, and every run is readable without it. So the first writer's
directory stays, a damaged one may be removed, and the repeated capture command writes it again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic

from lpp.store.committed.checked import Checked, open_checked
from lpp.store.committed.commit import Attempt
from lpp.store.committed.compare import Problem, verify_each
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


@dataclass(frozen=True, kw_only=True)
class SharedKind(Generic[Record]):
    """One kind of directory that runs share, `<folder>/<name>/`, declared once."""

    folder: str
    record: type[Record]
    problems: Callable[[SharedDirectory[Record]], Iterator[str]]
    """Yields the problems of a directory whose bytes are as committed."""

    def open(self, root: Objects, name: str) -> SharedDirectory[Record] | None:
        """The directory `name` of a store; None if it is not committed.

        Raises FormatError, with the next command: CORRUPT for an altered record,
        UNSUPPORTED_VERSION if a newer release wrote it. Objects are compared when they are read.
        """
        directory = root.below(f"{self.folder}/{name}")
        try:
            return SharedDirectory(directory, open_checked(directory, self.record).record)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except FormatError as error:
            if error.kind is ErrorKind.UNSUPPORTED_VERSION:
                raise
            raise FormatError(f"{error} {shared_remedy(root.root)}", kind=error.kind) from None

    def holds(self, root: Objects, name: str) -> bool:
        """Whether the directory is committed with an intact record; compares no object.

        Raises FormatError(UNSUPPORTED_VERSION) if a newer release wrote it.
        """
        where = root.below(f"{self.folder}/{name}")
        try:
            data = where.get(COMMIT_KEY, MAX_DOCUMENT_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except FormatError:  # a link, or longer than any record
            return False
        return undamaged_record(self.record, data, str(where.place / COMMIT_KEY)) is not None

    def commit(
        self,
        root: Objects,
        name: str,
        record: Record,
        write: Callable[[Attempt], None] = lambda stage: None,
    ) -> bool:
        """Commit the directory; False if an intact one exists, which costs one small read.

        record: not sealed; this fills in format, objects and base. write: puts the objects into an
        attempt; called only if needed. A damaged record is replaced. Any number of processes may
        call this at once: one wins. Raises MachineError for a full or read-only disk,
        FormatError(UNSUPPORTED_VERSION) if a newer release wrote the directory.
        """
        if self.holds(root, name):
            return False
        return commit_once(root.below(f"{self.folder}/{name}"), record, write)

    def damaged(self, root: Objects) -> Iterator[tuple[Objects, list[Problem]]]:
        """Each directory of a store that is not as committed, and its problems. Raises nothing for
        the content of the store; places are relative to `root`.
        """
        for directory, record_problems in verify_each(root, self.folder, self.record):
            problems = record_problems
            if not problems:  # the content is only checked if the bytes are as committed
                shared = SharedDirectory(directory, open_checked(directory, self.record).record)
                where = f"{self.folder}/{directory.place.name}"
                problems = [Problem(where=where, what=what) for what in self.problems(shared)]
            if problems:
                yield directory, problems


def shared_remedy(root: Place) -> str:
    """Advice for a damaged directory that runs share."""
    if is_read_only(root):
        return "Every run is read without it; only the owner of the store can repair it."
    return (
        f"Every run is read without it: `lpp-capture repair {root}` removes the directory, and "
        "repeating the `lpp-capture run` command writes it again."
    )
