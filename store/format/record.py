"""COMMIT.json, SPEC.md section 6: the record that makes a run or a shard exist.

Written last. It lists every other object with size and checksum, and carries a checksum of
itself, so that no altered byte goes unnoticed. In a bucket it is also what decides whose attempt
counts: it is put on the condition that there is none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.documents import (
    OMITTED,
    canonical_json,
    load_json,
    parse_document,
    pretty_json,
    to_document,
)
from lpp.store.format.keys import COMMIT_KEY, FORMAT_VERSION
from lpp.store.objects.disk import ObjectRecord, checksum, write_object
from lpp.store.objects.object_path import ObjectPath
from lpp.store.objects.paths import ADVICE, MAX_DOCUMENT_BYTES, key_problem, read_bounded
from lpp.store.objects.place import Place
from lpp.store.objects.writing import ATTEMPT


@dataclass(frozen=True, kw_only=True)
class CommitRecord:
    """What a committed directory holds."""

    format: int = 1
    """Version of everything in the directory: the oldest that can say it, SPEC.md section 9."""
    plan: str
    """Hash of the plan it belongs to."""
    shard: int | None
    """Index of the shard; None for the run's own record."""
    rows: int
    """Tokens of the shard; 0 in the run's record."""
    objects: Mapping[str, ObjectRecord]
    """Every other object, by its key relative to the directory, or to `base` in it."""
    base: str = field(default="", metadata=OMITTED)
    """The attempt whose objects these are, in a bucket; empty on a disk. Format 2."""
    quarantine: int = field(default=0, metadata=OMITTED)
    """Prompts of the shard that its object `quarantine.arrow` sets aside. Format 2."""
    self_xxh3_128: str = ""
    """Checksum of the canonical JSON of this document without this field."""

    def home(self, directory: Place) -> Place:
        """Where the objects of `directory`, which this is the record of, lie."""
        return directory / self.base if self.base else directory

    def sealed(self) -> "CommitRecord":
        """The same record with its own checksum filled in."""
        return replace(self, self_xxh3_128=self_checksum(to_document(self)))


def self_checksum(document: Mapping[str, object]) -> str:
    """The seal of a record: checksum of its document without the seal."""
    return checksum(canonical_json({k: v for k, v in document.items() if k != "self_xxh3_128"}))


def write_commit(directory: Place, record: CommitRecord, *, replacing: bool = False) -> None:
    """Write the record of a stage, or of an attempt, as the last object.

    replacing: whether it takes the place, in a bucket, also of a record that is whole.
    Raises FileExistsError where another writer's attempt was first, in a bucket.
    """
    if isinstance(directory, Path):
        write_object(directory / COMMIT_KEY, pretty_json(to_document(record.sealed())))
        return
    record = replace(record, format=max(2, record.format), base=directory.name)
    _claim(directory.parent, record, replacing)


def _claim(target: ObjectPath, record: CommitRecord, replacing: bool) -> None:
    """Put `record` where there is none, or where a damaged one is, in one conditional step."""
    path, data = target / COMMIT_KEY, pretty_json(to_document(record.sealed()))
    while not path.bucket.put_new(path.key, data):
        try:
            found, version = path.bucket.get_tagged(path.key)
        except FileNotFoundError:
            continue  # removed this moment
        if not replacing and _counts(found, target, record):
            raise FileExistsError(str(target))
        if path.bucket.put_over(path.key, data, version):
            return


def _counts(data: bytes, target: ObjectPath, ours: CommitRecord) -> bool:
    """Whether `data` is a record that stays: whole, and of the same shard; of a run, any.

    FormatError for a newer release's.
    """
    try:
        found = _parse(data, target)
    except FormatError as error:
        if error.kind is ErrorKind.UNSUPPORTED_VERSION:
            raise
        return False
    return ours.shard is None or (found.plan, found.shard) == (ours.plan, ours.shard)


def read_commit(directory: Place) -> CommitRecord:
    """The record of `directory`. FileNotFoundError where there is none.

    FormatError: CORRUPT for altered bytes, UNSUPPORTED_VERSION for a newer release's.
    """
    return _parse(read_bounded(directory, COMMIT_KEY, MAX_DOCUMENT_BYTES), directory)


def _parse(data: bytes | memoryview, directory: Place) -> CommitRecord:
    where = str(directory / COMMIT_KEY)
    record = parse_document(CommitRecord, _unsealed(bytes(data), directory), where)
    if record.base and not ATTEMPT.fullmatch(record.base):
        raise FormatError(f"{where}: base is no name of an attempt.", kind=ErrorKind.CORRUPT)
    check_objects_named(directory, record.objects)
    if record.rows < 0:
        raise FormatError(f"{where}: {record.rows} rows.", kind=ErrorKind.CORRUPT)
    return record


def check_objects_named(directory: Place, objects: Mapping[str, ObjectRecord]) -> None:
    """FormatError(CORRUPT) for objects that lie, or might lie, outside `directory`."""
    problems = [
        f"the object {key[:60]!r} {problem}" for key in objects if (problem := key_problem(key))
    ]
    problems += [f"{key}: {o.bytes} bytes" for key, o in objects.items() if o.bytes < 0]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise FormatError(
            f"{directory / COMMIT_KEY}: {'; '.join(problems[:5])}{more}. It was not written by "
            f"lpp-engine: take nothing from this store. {ADVICE}",
            kind=ErrorKind.CORRUPT,
        )


def read_sealed(directory: Place) -> object:
    """The document of the record of `directory`, whatever it says of its objects.

    Raises what `read_commit` does.
    """
    return _unsealed(read_bounded(directory, COMMIT_KEY, MAX_DOCUMENT_BYTES), directory)


def _unsealed(data: bytes, directory: Place) -> object:
    path = directory / COMMIT_KEY
    document = load_json(data, str(path))
    # The seal comes first: an altered byte must not pass for another version or another plan.
    if not isinstance(document, dict) or not _sealed(document, data):
        raise FormatError(
            f"{path}: altered since it was written (its checksum does not match).",
            kind=ErrorKind.CORRUPT,
        )
    version = document.get("format")
    if type(version) is int and version > FORMAT_VERSION:
        raise FormatError(
            f"{directory}: written in store format {version}, this release reads up to "
            f"{FORMAT_VERSION}. Install a newer one: `pip install --upgrade lpp-engine`.",
            kind=ErrorKind.UNSUPPORTED_VERSION,
        )
    return document


def _sealed(document: Mapping[str, object], data: bytes) -> bool:
    """Comparing bytes as well finds what parsing forgives, such as a changed space."""
    sealed = document.get("self_xxh3_128") == self_checksum(document)
    return sealed and data == pretty_json(document)
