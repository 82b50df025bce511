"""COMMIT.json, SPEC.md section 6: the record that makes a committed directory exist.

It is written last and lists every other object of its directory with size and checksum, and
carries a checksum of itself, so that no altered byte goes unnoticed.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, TypeVar

import xxhash

from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.documents import (
    OMITTED,
    canonical_json,
    is_canonical,
    load_json,
    parse_document,
    to_document,
)
from lpp.store.format.keys import ADVICE, FORMAT_VERSION, PLAIN_VERSION, key_problem
from lpp.store.format.plan import ComputeInfo, ContinuationInfo, StoredDtype

ATTEMPT: Final = re.compile(r"[0-9a-f]{16}")
"""Name of an attempt, the folder in which one writer puts its objects: 64 random bits."""

SEAL: Final = "self_xxh3_128"
"""Field of a document that holds its seal."""


@dataclass(frozen=True, kw_only=True)
class ChunkRecord:
    """One chunk of an array as it is stored."""

    bytes: int
    xxh3_128: str


@dataclass(frozen=True, kw_only=True)
class ObjectRecord:
    """Size and checksum of one stored object."""

    bytes: int
    xxh3_128: str
    chunks: tuple[ChunkRecord, ...] = field(default=(), metadata=OMITTED)
    """For an object that holds an array: its chunks, end to end from byte 0, so that some rows can
    be read and checked without the others."""

    @classmethod
    def of(cls, parts: Sequence[Any], chunks: Sequence[ChunkRecord] = ()) -> "ObjectRecord":
        """Size and checksum of the object made of `parts`, buffers end to end."""
        described = Described(parts)
        for _ in described:
            pass
        return described.record(chunks)

    @property
    def whole(self) -> tuple[int, str]:
        """Size and checksum, which are equal for objects with the same bytes."""
        return self.bytes, self.xxh3_128


class Described:
    """Parts of an object on their way to the disk, counted and hashed as they pass."""

    def __init__(self, parts: Iterable[Any]) -> None:
        self._parts = parts
        self._digest, self._size = xxhash.xxh3_128(), 0

    def __iter__(self) -> Iterator[Any]:
        for part in self._parts:
            self._digest.update(part)
            self._size += memoryview(part).nbytes
            yield part

    def record(self, chunks: Sequence[ChunkRecord] = ()) -> ObjectRecord:
        """Size and checksum of everything that has passed."""
        return ObjectRecord(
            bytes=self._size, xxh3_128=self._digest.hexdigest(), chunks=tuple(chunks)
        )


class SealedRecord(Protocol):
    """The fields that every kind of record has."""

    @property
    def format(self) -> int:
        """Version of everything in the directory: the oldest that can express it, SPEC.md section
        9.
        """

    @property
    def objects(self) -> Mapping[str, ObjectRecord]:
        """Every other object, by its key relative to `base`."""

    @property
    def base(self) -> str:
        """The attempt that holds the objects."""

    @property
    def self_xxh3_128(self) -> str:
        """The seal: checksum of the canonical document without this field."""


Record = TypeVar("Record", bound=SealedRecord)


@dataclass(frozen=True, kw_only=True)
class CommitRecord:
    """The record of a run or of a shard."""

    format: int = PLAIN_VERSION
    plan: str
    """Hash of the plan it belongs to."""
    shard: int | None
    """Index of the shard; None for the run's own record."""
    rows: int
    """Tokens of the shard; 0 in the run's record."""
    objects: Mapping[str, ObjectRecord]
    base: str = field(default="", metadata=OMITTED)
    quarantine: int = field(default=0, metadata=OMITTED)
    """Prompts of the shard that its object `quarantine.arrow` sets aside."""
    name: str = field(default="", metadata=OMITTED)
    """What the user called the run; empty: nothing, and in the record of a shard."""
    self_xxh3_128: str = ""


@dataclass(frozen=True, kw_only=True)
class ScoresRecord:
    """The record of a source of benchmark scores, SPEC.md section 7."""

    format: int = PLAIN_VERSION
    source: str
    """Name of the source; one directory in force bears it."""
    content: str
    """SHA-256 of the rows and the original files: equal content is not written twice."""
    rows: int
    replaces: tuple[str, ...]
    """Directories that no longer count, whether or not they are still there."""
    objects: Mapping[str, ObjectRecord]
    base: str = field(default="", metadata=OMITTED)
    self_xxh3_128: str = ""


@dataclass(frozen=True, kw_only=True)
class HeadModel:
    """The fields of a plan that decide how a model turns `final` into logits."""

    weights: str
    """`model.weights`."""
    untrained_seed: int | None
    """`model.untrained_seed`."""
    dtype: str
    """`compute.dtype`."""
    quantization: str | None
    """`compute.quantization`."""


@dataclass(frozen=True, kw_only=True)
class HeadRecord:
    """The record of a head, SPEC.md section 10: what a model does to `final` for its logits."""

    format: int = PLAIN_VERSION
    model: HeadModel
    """Identifies the runs of this head; its hash is the name of the directory."""
    matrix: str
    """Name of the directory of the matrix that it multiplies by."""
    dtype: StoredDtype
    """Dtype of the matrix, and of the logits after each step."""
    rows: int
    """V, columns of the logits."""
    width: int
    """d, columns of `final`."""
    softcap: str | None
    divisor: str | None
    scale: str | None
    """Steps that follow the product: the shortest decimal that reads back as the same float64."""
    objects: Mapping[str, ObjectRecord]
    base: str = field(default="", metadata=OMITTED)
    self_xxh3_128: str = ""


@dataclass(frozen=True, kw_only=True)
class MatrixRecord:
    """The record of a matrix of an unembedding, SPEC.md section 10."""

    format: int = PLAIN_VERSION
    dtype: StoredDtype
    rows: int
    """V"""
    width: int
    """d"""
    content: str
    """SHA-256 over these three and the values: equal matrices have one directory."""
    objects: Mapping[str, ObjectRecord]
    base: str = field(default="", metadata=OMITTED)
    self_xxh3_128: str = ""


@dataclass(frozen=True, kw_only=True)
class VocabularyRecord:
    """The record of a vocabulary, SPEC.md section 10: the tokens of a tokenizer in words."""

    format: int = PLAIN_VERSION
    tokenizer: str
    """`tokenizer.fingerprint` of the plans; the hash of it names the directory."""
    rows: int
    content: str
    """SHA-256 over the rows."""
    objects: Mapping[str, ObjectRecord]
    base: str = field(default="", metadata=OMITTED)
    self_xxh3_128: str = ""


@dataclass(frozen=True, kw_only=True)
class ContinuationSource:
    """Everything that decides what a model writes after some texts."""

    weights: str
    """`model.weights` of the plan."""
    untrained_seed: int | None
    """`model.untrained_seed`."""
    tokenizer: str
    """`tokenizer.fingerprint`."""
    given: str
    """SHA-256 over the SHA-256s of the prompts as they were given, like `prompts.sha256`."""
    compute: ComputeInfo
    """As in the plan; `batch_tokens` is what was asked for, or 0."""
    continuation: ContinuationInfo
    """As in the plan."""


@dataclass(frozen=True, kw_only=True)
class ContinuationRecord:
    """The record of a block of continuations, SPEC.md section 10; without rows: of a seed."""

    format: int = PLAIN_VERSION
    source: ContinuationSource
    """Its hash begins the name of the directory."""
    first: int
    """The first prompt of the block."""
    rows: int
    """Prompts of the block; 0 if the directory records a drawn seed."""
    objects: Mapping[str, ObjectRecord]
    base: str = field(default="", metadata=OMITTED)
    self_xxh3_128: str = ""


def checksum(data: Any) -> str:
    """xxh3-128 of `data`, a buffer, in hex."""
    return xxhash.xxh3_128_hexdigest(data)


def sealed(record: Record) -> Record:
    """The same record with its own checksum filled in."""
    return replace(record, **{SEAL: seal_of(to_document(record))})  # type: ignore[type-var]


def seal_of(document: Mapping[str, object]) -> str:
    """The seal of a record: checksum of its canonical document without the seal."""
    return checksum(canonical_json({k: v for k, v in document.items() if k != SEAL}))


def record_bytes(record: SealedRecord) -> bytes:
    """The bytes of COMMIT.json, sealed."""
    return canonical_json(to_document(sealed(record)))


def parse_record(kind: type[Record], data: bytes, where: str) -> Record:
    """The record that `data`, the bytes of COMMIT.json, holds. where: its place, for messages.

    FormatError: CORRUPT for altered bytes, and for objects that lie, or might lie, outside the
    directory; UNSUPPORTED_VERSION for the record of a newer release, or of 0.1.0.
    """
    document = load_json(data, where)
    # Formats 1 and 2 indented their documents: an altered digit does not look like one of these.
    if data.startswith(b"{\n") and isinstance(document, dict) and document.get("format") in (1, 2):
        raise FormatError(
            f"{where}: written in store format {document['format']}, by lpp-engine 0.1.0. "
            "lpp-engine 0.2.0 is the last release that reads it: use that, or remove this "
            "directory and repeat the command that wrote it.",
            kind=ErrorKind.UNSUPPORTED_VERSION,
        )
    # Check the seal first: an altered byte must not look like another version or another plan.
    if not isinstance(document, dict) or not _intact(document, data):
        raise FormatError(
            f"{where}: altered since it was written (its checksum does not match).",
            kind=ErrorKind.CORRUPT,
        )
    version = document.get("format")
    if type(version) is int and version > FORMAT_VERSION:
        raise FormatError(
            f"{where}: written in store format {version}, this release reads up to "
            f"{FORMAT_VERSION}. Install a newer lpp-engine.",
            kind=ErrorKind.UNSUPPORTED_VERSION,
        )
    record = parse_document(kind, document, where)
    if problems := _problems(record):
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise FormatError(
            f"{where}: {'; '.join(problems[:5])}{more}. It was not written by lpp-engine: take "
            f"nothing from this store. {ADVICE}",
            kind=ErrorKind.CORRUPT,
        )
    return record


def ends_sealed(data: bytes, before: bytes, after: bytes) -> bool:
    """Whether `data`, the bytes of COMMIT.json, is intact and has `before` and `after` around its
    last member, the seal, and the rest of the document: in a fiftieth of the time of parsing it.
    """
    document, _, rest = data.rpartition(b'"%s":"' % SEAL.encode())
    seal, ends = rest[:32], rest[32:] == b'",' + after
    return ends and document.endswith(before) and checksum(document + after).encode() == seal


def undamaged_record(kind: type[Record], data: bytes, where: str) -> Record | None:
    """The record, or None if it is damaged. FormatError only for a format that is not read."""
    try:
        return parse_record(kind, data, where)
    except FormatError as error:
        if error.kind is ErrorKind.UNSUPPORTED_VERSION:
            raise
        return None


def _intact(document: Mapping[str, object], data: bytes) -> bool:
    """Comparing bytes as well finds changes that parsing ignores, such as a changed space."""
    if not is_canonical(document, data):
        return False
    # of canonical bytes the rest without the seal is canonical too: it is not written again
    before, _, after = data.rpartition(f'"{SEAL}":"{document.get(SEAL)}",'.encode())
    return checksum(before + after) == document.get(SEAL) or document.get(SEAL) == seal_of(document)


def _problems(record: SealedRecord) -> list[str]:
    problems = []
    if record.format < PLAIN_VERSION:
        problems.append(f"format {record.format}")
    if not ATTEMPT.fullmatch(record.base):
        problems.append("base is no name of an attempt")
    if (rows := getattr(record, "rows", 0)) < 0:
        problems.append(f"{rows} rows")
    for key, recorded in record.objects.items():
        if problem := key_problem(key):
            problems.append(f"the object {key[:60]!r} {problem}")
        if recorded.bytes < 0:
            problems.append(f"{key}: {recorded.bytes} bytes")
        if min((chunk.bytes for chunk in recorded.chunks), default=1) < 1 or (
            sum(chunk.bytes for chunk in recorded.chunks) > recorded.bytes
        ):
            problems.append(f"{key}: chunks that do not fit into it")
    return problems
