"""Benchmark scores in a store, SPEC.md section 7: one directory for each source, whole or absent.

A source is one leaderboard, one results folder, one run of the probes: numbers that were made
alike. It is added, replaced and removed whole, beside the files it was read from, so that no
reader ever sees half of two versions.
"""

import contextlib
import dataclasses
import hashlib
import math
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from lpp.store.errors import ConflictError, ErrorKind, FormatError, InputError
from lpp.store.format.documents import document_hash, parse_document, pretty_json, to_document
from lpp.store.format.keys import BENCHMARKS_KEY, COMMIT_KEY, ORIGINAL_KEY, SCORES_KEY
from lpp.store.format.record import check_objects_named, read_sealed, self_checksum
from lpp.store.format.tables import SCORES_SCHEMA, encode_table, read_table
from lpp.store.objects.checked import checked_file
from lpp.store.objects.disk import ObjectRecord, checksum, set_aside
from lpp.store.objects.paths import key_problem, plain_file
from lpp.store.objects.place import Place, children
from lpp.store.objects.writing import remove, staged_directory, sweep_stages, write_object
from lpp.store.verify import Problem, check_objects

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
"""Of all names of one source together."""

READINGS: Final = 5
"""Of all scores, before it is others' writing that keeps them from being read."""

PAUSE_SECONDS: Final = 0.1
"""Before the second reading; each later pause is longer by as much."""

KEY: Final = ("model", "benchmark", "metric")
"""What is there once in a source."""


@dataclass(frozen=True, kw_only=True)
class ScoresRecord:
    """COMMIT.json of a source's directory."""

    format: int = 1
    source: str
    """Name of the source; one directory in force bears it."""
    content: str
    """SHA-256 over the rows and the original files: equal content is not written twice."""
    rows: int
    replaces: tuple[str, ...]
    """Directories that no longer count, whether or not they are still there."""
    objects: Mapping[str, ObjectRecord]
    """Every other object, by its key relative to the directory."""
    self_xxh3_128: str = ""


@dataclass(frozen=True, kw_only=True)
class ScoreSet:
    """One source as it lies in a store."""

    path: Place
    record: ScoresRecord

    def table(self) -> pa.Table:
        """Its rows, `SCORES_SCHEMA`. FormatError(CORRUPT) when they are not what was written;
        FileNotFoundError when its record is gone too: another writer has put its own in its place.
        """
        try:
            return self._table()
        except (OSError, FormatError):  # at any step: what was checked may be gone when it is read
            if not (self.path / COMMIT_KEY).exists():
                raise FileNotFoundError(f"{self.path} was replaced") from None
            raise

    def _table(self) -> pa.Table:
        try:
            recorded = self.record.objects[SCORES_KEY]
            file = checked_file(plain_file(self.path, SCORES_KEY), recorded)
        except (OSError, KeyError):
            raise _damaged(self.path, f"{SCORES_KEY} is missing") from None
        except ValueError:
            raise _damaged(self.path, f"{SCORES_KEY} is altered") from None
        return read_table(file, SCORES_SCHEMA, rows=self.record.rows, extra=MAX_NAMES_BYTES)

    def problems(self) -> list[Problem]:
        """Every difference from what was committed; empty when each byte is the same."""
        return list(check_objects(self.path, "", self.record.objects))


def add_scores(
    root: Place,
    source: str,
    table: pa.Table,
    original: Mapping[str, bytes],
    *,
    replace: bool | Sequence[ScoreSet] = False,
) -> bool:
    """Write the scores of `source`; False where the same content is there already.

    table: (n, 9) `SCORES_SCHEMA`, n at least 1, in any order. original: the files they were read
    from, by relative path. replace: put them in the place of what `source` held, in one step; of
    the sets given alone, where another writer may have added one since they were read.

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
    record = _sealed(record, replaces=[s.path.name for s in held])
    folder = root / BENCHMARKS_KEY
    sweep_stages(folder)
    target = folder / f"{_slug(source)}-{record.self_xxh3_128[:8]}"
    _write(target, objects, pretty_json(to_document(record)))
    _remove(held)
    return True


def _write(target: Place, objects: Mapping[str, bytes], record: bytes) -> None:
    """Make the directory `target`; where another writer of the same content was first, none.

    In a bucket the record comes last. Whoever writes to `target` writes the same bytes, since its
    name is made from the record's seal: neither attempts nor conditions are needed.
    """
    if not isinstance(target, Path):
        for key, data in (*objects.items(), (COMMIT_KEY, record)):
            write_object(target / key, data)
        return
    with contextlib.suppress(FileExistsError), staged_directory(target) as stage:
        for key, data in (*objects.items(), (COMMIT_KEY, record)):
            write_object(stage / key, data)


def score_sets(root: Place, *, superseded: bool = False) -> list[ScoreSet]:
    """Every committed source of the store at `root`, by directory name.

    superseded: also those that another one replaced and that a killed writer left behind.
    Raises FormatError for a record that was altered or is of a newer release, ConflictError(IN_USE)
    where others replace them all the time.
    """
    for _ in range(READINGS):
        with contextlib.suppress(FileNotFoundError):  # replaced: its successor may not be listed
            found = [
                ScoreSet(path=path, record=_read_record(path))
                for path in _listed(root)
                if (path / COMMIT_KEY).exists()
            ]
            return found if superseded else _in_force(found)
    raise _busy(root)


def _listed(root: Place) -> list[Place]:
    """What lies among the sources, stages apart."""
    return [path for path in children(root / BENCHMARKS_KEY) if not path.name.startswith(".")]


def _busy(root: Place) -> ConflictError:
    return ConflictError(
        f"{root / BENCHMARKS_KEY}: others are writing there all the time. Repeat the command when "
        "they are done.",
        kind=ErrorKind.IN_USE,
    )


def verify_scores(root: Place) -> list[Problem]:
    """Every way in which the sources in the store at `root` differ from what was committed.

    Never raises for what lies in the store; places are relative to `root`.
    """
    found = []
    for path in _listed(root):
        try:
            problems = ScoreSet(path=path, record=_read_record(path)).problems()
        except (FormatError, OSError) as error:
            problems = [Problem(where=COMMIT_KEY, what=f"not readable ({error})")]
        if problems and not _there(path):
            continue
        where = f"{BENCHMARKS_KEY}/{path.name}"
        found += [Problem(where=f"{where}/{p.where}", what=p.what) for p in problems]
    return found


def _there(path: Place) -> bool:
    """Whether a source is there still; another writer may have replaced it.

    In a bucket it is where its record is: without one it is being written, or removed.
    """
    return os.path.lexists(path) if isinstance(path, Path) else (path / COMMIT_KEY).exists()


def read_scores(root: Place) -> pa.Table:
    """The scores of every source in the store at `root`, (n, 9) `SCORES_SCHEMA`.

    Raises FormatError for altered bytes, ConflictError(IN_USE) when two writers added different
    scores of one source at once and neither has put them together after a second.
    """
    met = None
    for attempt in range(READINGS):
        time.sleep(PAUSE_SECONDS * attempt)
        try:
            return _together(score_sets(root))
        except FileNotFoundError:  # replaced between the list and the look
            continue
        except ConflictError as error:
            met = error
    raise met or _busy(root)


def _together(sets: Sequence[ScoreSet]) -> pa.Table:
    by_source: dict[str, Place] = {}
    for found in sets:
        other = by_source.setdefault(found.record.source, found.path)
        if other != found.path:
            raise ConflictError(
                f"{other} and {found.path} both hold the source {found.record.source!r}. "
                "Remove one of the two directories.",
                kind=ErrorKind.IN_USE,
            )
    return pa.concat_tables([SCORES_SCHEMA.empty_table(), *(s.table() for s in sets)])


def remove_scores(root: Place, source: str) -> None:
    """Remove every score of `source`. InputError(NOT_FOUND) where there is none."""
    held = score_sets(root, superseded=True)
    named = [s for s in held if s.record.source == source]
    if not named:
        there = sorted({s.record.source for s in held})
        raise InputError(
            f"{root} holds no scores of a source {source!r}. "
            f"There {'are ' + ', '.join(there) if there else 'is none'}.",
            kind=ErrorKind.NOT_FOUND,
        )
    in_force = _in_force(named)
    # What was replaced goes first: without its successor it would count again.
    _remove([s for s in named if s not in in_force])
    _remove(in_force)


def _content(
    source: str, table: pa.Table, original: Mapping[str, bytes]
) -> tuple[ScoresRecord, dict[str, bytes]]:
    """The record, not yet sealed, and the objects of one source."""
    if not table.schema.equals(SCORES_SCHEMA) or not table.num_rows:
        raise ValueError(f"{table.num_rows} scores with columns {table.schema.names}")
    table = table.sort_by([(name, "ascending") for name in KEY])
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
        objects={key: _described(data) for key, data in objects.items()},
    )
    return record, objects


def _check(source: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """InputError with every reason these are not the scores of one source."""
    problems = [] if source.strip() and source.isprintable() else [f"{source!r} is no name"]
    seen: set[tuple[str, ...]] = set()
    for row in rows:
        key = tuple(row[name] for name in KEY)
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
            f"scores of the source {source!r}: " + "; ".join([*problems[:10], *more]) + ".",
            kind=ErrorKind.INVALID_VALUE,
        )


def _check_name(name: str) -> None:
    if problem := key_problem(name):
        raise InputError(
            f"{name!r} {problem}: a store cannot keep a file of that name. Rename it.",
            kind=ErrorKind.INVALID_VALUE,
        )


def _described(data: bytes) -> ObjectRecord:
    return ObjectRecord(bytes=len(data), xxh3_128=checksum(data))


def _sealed(record: ScoresRecord, *, replaces: Iterable[str]) -> ScoresRecord:
    record = dataclasses.replace(record, replaces=tuple(sorted(replaces)))
    return dataclasses.replace(record, self_xxh3_128=self_checksum(to_document(record)))


def _read_record(path: Place) -> ScoresRecord:
    try:
        document = read_sealed(path)
    except FormatError as error:
        if error.kind is ErrorKind.UNSUPPORTED_VERSION:
            raise
        raise _damaged(path, f"{COMMIT_KEY} is altered") from None
    record = parse_document(ScoresRecord, document, str(path / COMMIT_KEY))
    check_objects_named(path, record.objects)
    return record


def _damaged(path: Place, what: str) -> FormatError:
    return FormatError(
        f"{path}: {what} since it was written. Remove that directory, then add the scores "
        f"again: its {ORIGINAL_KEY}/ holds the files they came from.",
        kind=ErrorKind.CORRUPT,
    )


def _in_force(sets: list[ScoreSet]) -> list[ScoreSet]:
    replaced = {name for s in sets for name in s.record.replaces}
    return [s for s in sets if s.path.name not in replaced]


def _remove(sets: Iterable[ScoreSet]) -> None:
    for found in sets:
        with contextlib.suppress(FileNotFoundError):  # another writer removed it
            remove(set_aside(found.path) if isinstance(found.path, Path) else found.path)


def _slug(source: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", source.lower()).strip("-")[:48].rstrip("-") or "source"
