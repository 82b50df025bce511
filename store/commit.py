"""COMMIT.json, SPEC.md section 6: the record that makes a run or a shard exist.

Written last. It lists every other object with size and checksum, and carries a checksum of
itself, so that no altered byte goes unnoticed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lpp.store.documents import (
    OMITTED,
    canonical_json,
    load_json,
    parse_document,
    pretty_json,
    to_document,
)
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.files import ObjectRecord, checksum, write_object
from lpp.store.keys import COMMIT_KEY, FORMAT_VERSION


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
    """Every other object, by its key relative to the directory."""
    quarantine: int = field(default=0, metadata=OMITTED)
    """Prompts of the shard that its object `quarantine.arrow` sets aside."""
    self_xxh3_128: str = ""
    """Checksum of the canonical JSON of this document without this field."""

    def sealed(self) -> "CommitRecord":
        """The same record with its own checksum filled in."""
        return replace(self, self_xxh3_128=self_checksum(to_document(self)))


def self_checksum(document: Mapping[str, object]) -> str:
    """The seal of a record: checksum of its document without the seal."""
    return checksum(canonical_json({k: v for k, v in document.items() if k != "self_xxh3_128"}))


def write_commit(directory: Path, record: CommitRecord) -> None:
    """Write the record of `directory`, as its last object."""
    write_object(directory / COMMIT_KEY, pretty_json(to_document(record.sealed())))


def read_commit(directory: Path) -> CommitRecord:
    """The record of `directory`. FileNotFoundError where there is none.

    FormatError: CORRUPT for altered bytes, UNSUPPORTED_VERSION for a newer release's.
    """
    document = read_sealed(directory)
    return parse_document(CommitRecord, document, str(directory / COMMIT_KEY))


def read_sealed(directory: Path) -> object:
    """The document of the record of `directory`, whatever it says of its objects.

    Raises what `read_commit` does.
    """
    path = directory / COMMIT_KEY
    data = path.read_bytes()
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
