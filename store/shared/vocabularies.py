"""The tokens of a tokenizer as text, `vocabularies/<v>/`: SPEC.md section 10.

There is one for each tokenizer, whatever the number of runs. It is found by the fingerprint in
every plan, so it also serves runs that were captured before it was written.
"""

import hashlib
from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa

from lpp.store.committed.commit import Attempt
from lpp.store.errors import ErrorKind, FormatError, InputError
from lpp.store.format.commit_record import VocabularyRecord
from lpp.store.format.documents import document_hash
from lpp.store.format.keys import VOCABULARIES_KEY, VOCABULARY_KEY
from lpp.store.format.tables import VOCABULARY_SCHEMA, encode_table, table_of
from lpp.store.objects.locate import objects_at
from lpp.store.objects.place import Url
from lpp.store.shared.directory import SharedDirectory, SharedKind

__all__ = [
    "VOCABULARIES",
    "VOCABULARY_SCHEMA",
    "add_vocabulary",
    "holds_vocabulary",
    "read_vocabulary",
    "vocabulary_name",
    "vocabulary_problems",
]

_NAME_DIGITS: Final = 16


def vocabulary_name(tokenizer: str) -> str:
    """Directory of the vocabulary of a tokenizer, by its fingerprint.

    >>> vocabulary_name("f")
    '252f10c83610ebca'
    """
    return hashlib.sha256(tokenizer.encode()).hexdigest()[:_NAME_DIGITS]


def add_vocabulary(root: Url, tokenizer: str, table: pa.Table) -> bool:
    """Commit the vocabulary of a tokenizer; False if the store has one.

    tokenizer: its fingerprint. table: (n, 3) `VOCABULARY_SCHEMA`, by ascending id.
    Raises InputError(INVALID_VALUE) for a table that readers would refuse, MachineError for a full
    or read-only disk, FormatError(UNSUPPORTED_VERSION) if a newer release wrote one.
    """
    data = encode_table(table)
    try:
        problem = _ids_problem(table_of(pa.py_buffer(data), VOCABULARY_SCHEMA, rows=len(table)))
    except (pa.ArrowException, ValueError) as error:
        problem = str(error)
    if problem:
        raise InputError(f"no vocabulary of a store: {problem}")
    record = VocabularyRecord(
        tokenizer=tokenizer, rows=len(table), content=_content(table), objects={}
    )

    def write(stage: Attempt) -> None:
        stage.write(VOCABULARY_KEY, [data])

    return VOCABULARIES.commit(objects_at(root), vocabulary_name(tokenizer), record, write)


def holds_vocabulary(root: Url, tokenizer: str) -> bool:
    """Whether the store at `root` has a vocabulary for `tokenizer`, a fingerprint: a small read.

    Raises FormatError(UNSUPPORTED_VERSION) if a newer release wrote it.
    """
    return VOCABULARIES.holds(objects_at(root), vocabulary_name(tokenizer))


def read_vocabulary(root: Url, tokenizer: str) -> pa.Table | None:
    """The vocabulary of a tokenizer, (n, 3) `VOCABULARY_SCHEMA` by ascending id; None if the store
    at `root` has none.

    tokenizer: its fingerprint. Raises FormatError, with the next command: CORRUPT for altered
    bytes, UNSUPPORTED_VERSION if a newer release wrote it.
    """
    shared = VOCABULARIES.open(objects_at(root), vocabulary_name(tokenizer))
    if shared is None:
        return None
    table = _table(shared)
    problem = _ids_problem(table)
    if shared.record.tokenizer != tokenizer:
        problem = f"of the tokenizer {shared.record.tokenizer}, not {tokenizer}"
    if problem:
        raise FormatError(f"{shared.path}: {problem}. {shared.remedy}", kind=ErrorKind.CORRUPT)
    return table


def vocabulary_problems(found: SharedDirectory[VocabularyRecord]) -> Iterator[str]:
    """Problems of a vocabulary whose bytes are as committed."""
    try:
        table = _table(found)
    except FormatError as error:
        yield str(error)
        return
    if problem := _ids_problem(table):
        yield problem
    if found.record.content != _content(table):
        yield "its tokens are not those of its record"
    if found.path.name != vocabulary_name(found.record.tokenizer):
        yield "its name is not that of its tokenizer"


VOCABULARIES: Final = SharedKind(
    folder=VOCABULARIES_KEY, record=VocabularyRecord, problems=vocabulary_problems
)


def _table(shared: SharedDirectory[VocabularyRecord]) -> pa.Table:
    return shared.table(VOCABULARY_KEY, VOCABULARY_SCHEMA, rows=shared.record.rows)


def _ids_problem(table: pa.Table) -> str:
    """Why the ids are wrong; empty if each occurs once, in order."""
    ids = table["id"].to_numpy()
    return "" if np.all(np.diff(ids) > 0) else "ids are not in order, each once"


def _content(table: pa.Table) -> str:
    ids, spelled, texts = (column.to_pylist() for column in table.columns)
    rows = zip(ids, spelled, texts, strict=True)
    return document_hash([[i, None if b is None else b.hex(), text] for i, b, text in rows])
