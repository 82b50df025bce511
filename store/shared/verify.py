"""Verify directories that runs share, and remove damaged ones: SPEC.md sections 8 and 10."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from lpp.store.committed.checked import is_unsupported, open_checked
from lpp.store.committed.compare import Problem, verify_each
from lpp.store.format.commit_record import (
    ContinuationRecord,
    HeadRecord,
    MatrixRecord,
    VocabularyRecord,
)
from lpp.store.format.keys import (
    COMMIT_KEY,
    CONTINUATIONS_KEY,
    HEADS_KEY,
    MATRICES_KEY,
    VOCABULARIES_KEY,
)
from lpp.store.objects.locate import objects_at
from lpp.store.objects.place import Url
from lpp.store.objects.protocol import Objects
from lpp.store.shared.continuations import continuation_problems
from lpp.store.shared.directory import SharedDirectory
from lpp.store.shared.heads import head_problems
from lpp.store.shared.matrices import matrix_problems
from lpp.store.shared.vocabularies import vocabulary_problems


@dataclass(frozen=True, kw_only=True)
class SharedKind:
    """One kind of directory that runs share."""

    folder: str
    record: type[Any]
    problems: Callable[[SharedDirectory[Any]], Iterator[str]]
    """Yields the problems of a directory whose bytes are as committed."""


SHARED: Final = (
    SharedKind(folder=MATRICES_KEY, record=MatrixRecord, problems=matrix_problems),
    SharedKind(folder=HEADS_KEY, record=HeadRecord, problems=head_problems),
    SharedKind(folder=VOCABULARIES_KEY, record=VocabularyRecord, problems=vocabulary_problems),
    SharedKind(folder=CONTINUATIONS_KEY, record=ContinuationRecord, problems=continuation_problems),
)
"""Every kind; a kind that refers to directories of another kind comes after it."""


def verify_shared(root: Url) -> list[Problem]:
    """Problems of the directories that the runs of the store at `root` share.

    Raises nothing for the content of the store; places are relative to `root`.
    """
    return [
        problem
        for kind in SHARED
        for _, problems in _damaged(objects_at(root), kind)
        for problem in problems
    ]


def remove_damaged(root: Url, *, dry_run: bool = False) -> list[Problem]:
    """Remove each shared directory that is not as committed; returns the problems.

    A directory that refers to a removed one is removed too. What this release does not read
    stays, and is not among the problems. dry_run: remove nothing.
    """
    removed = []
    for kind in SHARED:
        for directory, problems in _damaged(objects_at(root), kind):
            if is_unsupported(directory, kind.record):
                continue
            if not dry_run:
                directory.delete([COMMIT_KEY])  # first: without it nothing is committed
                directory.delete_below("")
            removed += problems
    return removed


def _damaged(root: Objects, kind: SharedKind) -> Iterator[tuple[Objects, list[Problem]]]:
    for directory, record_problems in verify_each(root, kind.folder, kind.record):
        problems = record_problems
        if not problems:  # the content is only checked if the bytes are as committed
            shared = SharedDirectory(directory, open_checked(directory, kind.record).record)
            where = f"{kind.folder}/{directory.place.name}"
            problems = [Problem(where=where, what=what) for what in kind.problems(shared)]
        if problems:
            yield directory, problems
