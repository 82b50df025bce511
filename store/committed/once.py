"""Commit a directory that several writers may make with equal content: the first intact one
stays.
"""

from collections.abc import Callable

from lpp.store.committed.commit import Attempt, attempt
from lpp.store.format.commit_record import Record, undamaged_record
from lpp.store.format.keys import COMMIT_KEY
from lpp.store.objects.protocol import Objects


def commit_once(directory: Objects, record: Record, write: Callable[[Attempt], None]) -> bool:
    """Commit `record` and the objects that `write` puts; False if an intact record exists.

    record: not sealed; this fills in format, objects and base. A damaged record is replaced. Raises
    FormatError(UNSUPPORTED_VERSION) if a newer release wrote one.
    """

    def stays(existing: bytes) -> bool:
        where = str(directory.place / COMMIT_KEY)
        return undamaged_record(type(record), existing, where) is not None

    try:
        with attempt(directory) as stage:
            write(stage)
            stage.commit(record, stays)
    except FileExistsError:
        return False
    return True
