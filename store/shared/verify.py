"""Verify directories that runs share, and remove damaged ones: SPEC.md sections 8 and 10."""

from typing import Any, Final

from lpp.store.committed.checked import is_unsupported
from lpp.store.committed.compare import Problem
from lpp.store.format.keys import COMMIT_KEY
from lpp.store.objects.locate import objects_at
from lpp.store.objects.place import Url
from lpp.store.shared.continuations import CONTINUATIONS
from lpp.store.shared.directory import SharedKind
from lpp.store.shared.heads import HEADS
from lpp.store.shared.matrices import MATRICES
from lpp.store.shared.vocabularies import VOCABULARIES

SHARED: Final[tuple[SharedKind[Any], ...]] = (MATRICES, HEADS, VOCABULARIES, CONTINUATIONS)
"""Every kind; a kind that refers to directories of another kind comes after it."""


def verify_shared(root: Url) -> list[Problem]:
    """Problems of the directories that the runs of the store at `root` share.

    Raises nothing for the content of the store; places are relative to `root`.
    """
    each = [problems for kind in SHARED for _, problems in kind.damaged(objects_at(root))]
    return [problem for problems in each for problem in problems]


def remove_damaged(root: Url, *, dry_run: bool = False) -> list[Problem]:
    """Remove each shared directory that is not as committed; returns the problems.

    A directory that refers to a removed one is removed too. What this release does not read
    stays, and is not among the problems. dry_run: remove nothing.
    """
    removed = []
    for kind in SHARED:
        for directory, problems in kind.damaged(objects_at(root)):
            if is_unsupported(directory, kind.record):
                continue
            if not dry_run:
                directory.delete([COMMIT_KEY])  # first: without it nothing is committed
                directory.delete_below("")
            removed += problems
    return removed
