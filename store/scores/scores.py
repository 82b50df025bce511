"""Benchmark scores in a store, SPEC.md section 7: one directory for each source, whole or absent.

A source is one leaderboard, one results folder, one run of the probes: numbers that were made in
the same way. It is added, replaced and removed whole, with the files it was read from, so that no
reader ever sees half of two versions.
"""

import contextlib
import dataclasses
import hashlib
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

import pyarrow as pa

from lpp.store.committed.checked import Checked, open_checked
from lpp.store.committed.commit import QUIETLY, Attempt
from lpp.store.committed.compare import Problem, check_objects, directories_in, verify_each
from lpp.store.committed.once import commit_once
from lpp.store.errors import ConflictError, ErrorKind, FormatError, InputError, NotFoundError
from lpp.store.format.commit_record import ScoresRecord
from lpp.store.format.documents import document_hash
from lpp.store.format.keys import BENCHMARKS_KEY, COMMIT_KEY, ORIGINAL_KEY, SCORES_KEY, key_problem
from lpp.store.format.tables import SCORES_SCHEMA, encode_table
from lpp.store.objects.locate import objects_at
from lpp.store.objects.place import Place, Url
from lpp.store.objects.protocol import Objects

__all__ = [
    "SCORES_SCHEMA",
    "ScoreSet",
    "add_scores",
    "read_scores",
    "remove_scores",
    "score_sets",
    "verify_scores",
]

MAX_NAMES_BYTES: Final = 1 << 30
"""Bytes of all names of one source together."""

READINGS: Final = 5
"""Readings of all scores, before other writers count as the reason that they cannot be read."""

PAUSE_SECONDS: Final = 0.1
"""Seconds before the second reading; each later pause is longer by the same amount."""

SCORE_KEY: Final = ("model", "benchmark", "metric")
"""Columns whose combination occurs once in a source."""


class ScoreSet(Checked[ScoresRecord]):
    """One source of a store."""

    def scores(self) -> pa.Table:
        """Its rows, `SCORES_SCHEMA`. FormatError(CORRUPT) when they are not what was written;
        FileNotFoundError when its record is gone too: another writer has put its own in its place.
        """
        with self._unless_replaced():
            rows = self.record.rows
            return self.table(SCORES_KEY, SCORES_SCHEMA, rows=rows, extra=MAX_NAMES_BYTES)

    def original(self, pattern: str = "*") -> dict[str, bytes]:
        """The files that the scores were read from, by name. pattern: of the last part of their
        names. Raises what `scores` does.
        """
        with self._unless_replaced():
            start = f"{ORIGINAL_KEY}/"
            keys = [key for key in self.record.objects if key.startswith(start)]
            keys = [key for key in keys if fnmatchcase(key.rpartition("/")[2], pattern)]
            return {key.removeprefix(start): self.file(key).read_bytes() for key in keys}

    @contextlib.contextmanager
    def _unless_replaced(self) -> Iterator[None]:
        try:
            yield
        except (OSError, FormatError) as error:  # at any step: what was checked may be gone
            if not self.directory.exists(COMMIT_KEY):
                raise FileNotFoundError(f"{self.path} was replaced") from None
            if isinstance(error, FormatError):
                raise _damaged(self.path, str(error)) from None
            raise

    def problems(self) -> list[Problem]:
        """Every difference from what was committed; empty when each byte is the same."""
        return list(check_objects(self))


def add_scores(
    root: Url,
    source: str,
    table: pa.Table,
    original: Mapping[str, bytes],
    *,
    replace: bool | Sequence[ScoreSet] = False,
) -> bool:
    """Write the scores of `source`; False where the same content is there already.

    table: (n, 9) `SCORES_SCHEMA`, n at least 1, in any order. original: the files they were read
    from, by relative path. replace: replace what `source` held, in one step. If given directories,
    only those are replaced: another writer may have added one since they were read.

    Raises InputError for scores that are not finite or there twice, ConflictError(PLAN_DIFFERS)
    when `source` holds other content, MachineError for a full or read-only disk.
    """
    record, objects = _content(source, table, original)
    held = [s for s in score_sets(root, superseded=True) if s.record.source == source]
    in_force = _in_force(held)
    if [s.record.content for s in in_force] == [record.content]:
        return False
    if in_force and replace is False:
        raise ConflictError(
            f"{in_force[0].path} holds other scores of the source {source!r}. Sources are never "
            "mixed: replace them (--replace), or add these under another name (--source).",
            kind=ErrorKind.PLAN_DIFFERS,
        )
    if not isinstance(replace, bool):
        named = {s.path for s in replace}
        held = [s for s in held if s.path in named or s not in in_force]
    record = dataclasses.replace(record, replaces=tuple(sorted(s.path.name for s in held)))
    directory = objects_at(root).below(f"{BENCHMARKS_KEY}/{_name(record)}")
    commit_once(directory, record, lambda stage: _write(stage, objects))
    _remove(held)
    return True


def _write(stage: Attempt, objects: Mapping[str, bytes]) -> None:
    for key, data in objects.items():
        stage.write(key, [data])


def score_sets(root: Url, *, superseded: bool = False) -> list[ScoreSet]:
    """Every committed source of the store at `root`, by directory name.

    superseded: include sources that were replaced and that a killed writer left behind.
    Raises FormatError for a record that was altered or is of a newer release, ConflictError(IN_USE)
    if other writers keep replacing them.
    """
    for _ in range(READINGS):
        with contextlib.suppress(FileNotFoundError):  # replaced: the list may lack its successor
            listed = directories_in(objects_at(root), BENCHMARKS_KEY)
            sets = [_open(d) for d in listed if d.exists(COMMIT_KEY)]
            return sets if superseded else _in_force(sets)
    raise _busy(root)


def _open(directory: Objects) -> ScoreSet:
    try:
        return ScoreSet(directory, open_checked(directory, ScoresRecord).record)
    except FormatError as error:
        if error.kind is ErrorKind.UNSUPPORTED_VERSION:
            raise
        raise _damaged(directory.place, str(error)) from None


def _busy(root: Url) -> ConflictError:
    return ConflictError(
        f"{objects_at(root).place / BENCHMARKS_KEY}: others are writing there all the time. "
        "Repeat the command when they are done.",
        kind=ErrorKind.IN_USE,
    )


def verify_scores(root: Url) -> list[Problem]:
    """Every way in which the sources in the store at `root` differ from what was committed.

    Never raises for what lies in the store; places are relative to `root`.
    """
    verified = verify_each(objects_at(root), BENCHMARKS_KEY, ScoresRecord)
    return [problem for _, problems in verified for problem in problems]


def read_scores(root: Url) -> pa.Table:
    """The scores of every source in the store at `root`, (n, 9) `SCORES_SCHEMA`.

    Raises FormatError for altered bytes, ConflictError(IN_USE) if two writers added different
    scores of one source at once, and neither has merged them after a second.
    """
    met = None
    for reading in range(READINGS):
        time.sleep(PAUSE_SECONDS * reading)
        try:
            return _together(score_sets(root))
        except FileNotFoundError:  # replaced between the list and the look
            continue
        except ConflictError as error:
            met = error
    raise met or _busy(root)


def _together(sets: Sequence[ScoreSet]) -> pa.Table:
    by_source: dict[str, Place] = {}
    for score_set in sets:
        other = by_source.setdefault(score_set.record.source, score_set.path)
        if other != score_set.path:
            raise ConflictError(
                f"{other} and {score_set.path} both hold the source {score_set.record.source!r}. "
                "Remove one of the two directories.",
                kind=ErrorKind.IN_USE,
            )
    return pa.concat_tables([SCORES_SCHEMA.empty_table(), *(s.scores() for s in sets)])


def remove_scores(root: Url, source: str) -> None:
    """Remove every score of `source`. NotFoundError if there is none."""
    held = score_sets(root, superseded=True)
    named = [s for s in held if s.record.source == source]
    if not named:
        there = sorted({s.record.source for s in held})
        raise NotFoundError(
            f"{root} holds no scores of a source {source!r}. "
            f"There {'are ' + ', '.join(there) if there else 'is none'}."
        )
    in_force = _in_force(named)
    # Remove replaced directories first: without their successor they would count again.
    _remove([s for s in named if s not in in_force])
    _remove(in_force)


def _content(
    source: str, table: pa.Table, original: Mapping[str, bytes]
) -> tuple[ScoresRecord, dict[str, bytes]]:
    """The record, not yet sealed, and the objects of one source."""
    if not table.schema.equals(SCORES_SCHEMA) or not table.num_rows:
        raise ValueError(f"{table.num_rows} scores with columns {table.schema.names}")
    table = table.sort_by([(name, "ascending") for name in SCORE_KEY])
    rows = table.to_pylist()
    _check(source, rows)
    for name in original:
        _check_name(name)
    objects = {SCORES_KEY: encode_table(table)}
    objects |= {f"{ORIGINAL_KEY}/{name}": bytes(data) for name, data in original.items()}
    files = {name: hashlib.sha256(data).hexdigest() for name, data in original.items()}
    record = ScoresRecord(
        source=source,
        content=document_hash({"files": files, "rows": rows}),
        rows=len(rows),
        replaces=(),
        objects={},
    )
    return record, objects


def _check(source: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """InputError that lists every reason why these are not the scores of one source."""
    problems = [] if source.strip() and source.isprintable() else [f"{source!r} is no name"]
    seen: set[tuple[str, ...]] = set()
    for row in rows:
        key = tuple(row[name] for name in SCORE_KEY)
        what = ", ".join(key)
        if not all(key):
            problems.append(f"{what}: a name is empty")
        if key in seen:
            problems.append(f"{what}: there twice")
        seen.add(key)
        if not math.isfinite(row["value"]):
            problems.append(f"{what}: the score is {row['value']}")
        if row["stderr"] is not None and not 0 <= row["stderr"] < math.inf:
            problems.append(f"{what}: the standard error is {row['stderr']}")
        if row["source"] != source:
            problems.append(f"{what}: of the source {row['source']!r}")
    if problems:
        more = [f"and {len(problems) - 10} more"] if len(problems) > 10 else []
        raise InputError(
            f"scores of the source {source!r}: " + "; ".join([*problems[:10], *more]) + "."
        )


def _check_name(name: str) -> None:
    if problem := key_problem(name):
        raise InputError(f"{name!r} {problem}: a store cannot keep a file of that name. Rename it.")


def _name(record: ScoresRecord) -> str:
    """Directory name of a source: equal content that replaces the same directories has one name."""
    digest = document_hash({"content": record.content, "replaces": record.replaces})
    slug = re.sub(r"[^a-z0-9]+", "-", record.source.lower()).strip("-")[:48].rstrip("-")
    return f"{slug or 'source'}-{digest[:8]}"


def _damaged(path: Place, what: str) -> FormatError:
    return FormatError(
        f"{path}: not what was written ({what}) Remove that directory, then add the scores "
        f"again: its {ORIGINAL_KEY}/ holds the files they came from.",
        kind=ErrorKind.CORRUPT,
    )


def _in_force(sets: list[ScoreSet]) -> list[ScoreSet]:
    replaced = {name for s in sets for name in s.record.replaces}
    return [s for s in sets if s.path.name not in replaced]


def _remove(sets: Iterable[ScoreSet]) -> None:
    """Remove sources, the record of each first: without it nothing counts."""
    for score_set in sets:
        score_set.directory.delete([COMMIT_KEY])
        with contextlib.suppress(*QUIETLY):
            score_set.directory.delete_below("")
