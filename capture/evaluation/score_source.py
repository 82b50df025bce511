"""Sources of scores that several models, and several processes, add to.

A source is replaced whole: a model that adds its scores writes those of the others again.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any, Final

import pyarrow as pa

from lpp.store.errors import ConflictError, ErrorKind
from lpp.store.objects.place import Place
from lpp.store.scores.scores import SCORE_KEY, SCORES_SCHEMA, ScoreSet, add_scores, score_sets

ATTEMPTS: Final = 8
"""Times that another process may interfere before this one gives up."""

ScoreRow = Mapping[str, Any]


def held_sets(root: Place, source: str) -> list[ScoreSet]:
    """The current sets of the source: one, or several where processes wrote at once."""
    return [held for held in score_sets(root) if held.record.source == source]


def rows_of(held: Sequence[ScoreSet]) -> list[dict[str, Any]]:
    """Each score once: sets that were written at once both hold the earlier scores."""
    rows = [row for score_set in held for row in score_set.scores().to_pylist()]
    return list({tuple(row[name] for name in SCORE_KEY): row for row in rows}.values())


def originals_of(held: Sequence[ScoreSet]) -> dict[str, bytes]:
    """Files of a source, by name."""
    return {name: data for score_set in held for name, data in score_set.original().items()}


def keep_scores(
    root: Place,
    source: str,
    new: Sequence[ScoreRow],
    files: Mapping[str, bytes],
    replaced: Callable[[ScoreRow], bool],
) -> None:
    """Add the rows `new` and `files` to `source`.

    They take the place of the rows that are `replaced`, and of the files in the folders of `files`.
    Several processes may add models at once, as the jobs of an array do: a process that finds
    scores of another beside its own merges both. ConflictError(IN_USE) where that fails again and
    again.
    """
    for attempt in range(ATTEMPTS):
        time.sleep(random.uniform(0, 0.1) * attempt)
        with suppress(FileNotFoundError):  # another replaced the directory while it was read
            _add(root, source, new, files, replaced)
            held = held_sets(root, source)
            if len(held) == 1 and all(row in rows_of(held) for row in new):
                return
    raise ConflictError(
        f"{root}: others are writing to the source {source!r} all the time. Repeat the "
        "command when they are done, or keep these scores under another name: --source NAME.",
        kind=ErrorKind.IN_USE,
    )


def _add(
    root: Place,
    source: str,
    new: Sequence[ScoreRow],
    files: Mapping[str, bytes],
    replaced: Callable[[ScoreRow], bool],
) -> None:
    """Write the source again, with `new` and `files` instead of the old rows and files."""
    held = held_sets(root, source)
    folders = {PurePosixPath(name).parent for name in files}
    rows = [row for row in rows_of(held) if not replaced(row)]
    kept_files = {
        name: data
        for name, data in originals_of(held).items()
        if PurePosixPath(name).parent not in folders
    }
    table = pa.Table.from_pylist([*rows, *new], schema=SCORES_SCHEMA)
    # replaces only what was read: what another adds meanwhile stays, and `keep_scores` sees both
    add_scores(root, source, table, {**kept_files, **files}, replace=held)
