"""What models wrote after texts, committed before the run itself: SPEC.md section 10.

A plan contains the tokens that a model wrote, so they must exist before the plan is frozen. They
are committed in blocks of consecutive prompts, so a process that is killed, or that shares the run
with others, writes no block twice. The first commit of a block stays, so all processes get the same
plan.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
import pyarrow as pa

from lpp.store.errors import ConflictError, ErrorKind
from lpp.store.format.commit_record import ContinuationRecord, ContinuationSource
from lpp.store.format.documents import document_hash, to_document
from lpp.store.format.keys import CONTINUATIONS_KEY, WRITTEN_KEY
from lpp.store.format.tables import WRITTEN_SCHEMA, encode_table
from lpp.store.objects.protocol import Objects
from lpp.store.shared.directory import SharedDirectory, SharedKind


def block_name(source: ContinuationSource, first: int) -> str:
    """Name of the block that begins with prompt `first`."""
    return f"{_hash(source)}-{first:05d}"


def seed_name(source: ContinuationSource) -> str:
    """Name of the directory with the seed that was drawn for `source`, whatever its seed."""
    unseeded = replace(source, continuation=replace(source.continuation, seed=None))
    return f"{_hash(unseeded)}-seed"


def _hash(source: ContinuationSource) -> str:
    return document_hash(to_document(source))[:16]


def settled_seed(root: Objects, source: ContinuationSource, drawn: int) -> int:
    """The seed of `source` if nobody chose one: the one drawn first in this store, else `drawn`.

    So the parts of one run share a seed, and a command that is repeated without a seed resumes.
    """
    drawn_here = replace(source, continuation=replace(source.continuation, seed=drawn))
    record = ContinuationRecord(source=drawn_here, first=0, rows=0, objects={})
    CONTINUATIONS.commit(root, seed_name(source), record)
    seed = kept_seed(root, source)
    if seed is None:
        raise removed_meanwhile(root)
    return seed


def kept_seed(root: Objects, source: ContinuationSource) -> int | None:
    """The seed that was drawn for `source` earlier; None if none was."""
    shared = _open(root, seed_name(source))
    return None if shared is None else shared.record.source.continuation.seed


def removed_meanwhile(root: Objects) -> ConflictError:
    """The error if something that was just committed is gone."""
    return ConflictError(
        f"{root.place / CONTINUATIONS_KEY}: something was removed there while it was written. See "
        "that nothing else works there, then repeat the same command.",
        kind=ErrorKind.INCOMPLETE,
    )


def commit_block(root: Objects, source: ContinuationSource, first: int, written: pa.Table) -> bool:
    """Commit what was written after the prompts from `first` on; False if another was first.

    written: (n, 3), `WRITTEN_SCHEMA`, a row for each prompt in order.
    """
    record = ContinuationRecord(source=source, first=first, rows=written.num_rows, objects={})
    if problems := _table_problems(written, record):
        raise ValueError(f"continuations from prompt {first} on: {'; '.join(problems)}")
    return CONTINUATIONS.commit(
        root,
        block_name(source, first),
        record,
        lambda stage: stage.write(WRITTEN_KEY, [encode_table(written)]),
    )


def read_block(root: Objects, source: ContinuationSource, first: int, rows: int) -> pa.Table | None:
    """The committed continuations of the `rows` prompts from `first` on, `WRITTEN_SCHEMA`; or None.

    Raises FormatError, with the next command, for altered bytes.
    """
    shared = _open(root, block_name(source, first))
    if shared is None or shared.record.rows != rows:
        return None
    return _table(shared)


def _open(root: Objects, name: str) -> SharedDirectory[ContinuationRecord] | None:
    shared = CONTINUATIONS.open(root, name)
    if shared is not None and name not in (
        block_name(shared.record.source, shared.record.first),
        seed_name(shared.record.source),
    ):
        raise ConflictError(
            f"{shared.path} holds what was written for something else. Remove it, then repeat the "
            "same command.",
            kind=ErrorKind.PLAN_DIFFERS,
        )
    return shared


def _table(shared: SharedDirectory[ContinuationRecord]) -> pa.Table:
    record = shared.record
    most = 8 * record.rows * record.source.continuation.tokens
    return shared.table(WRITTEN_KEY, WRITTEN_SCHEMA, rows=record.rows, extra=most)


def continuation_problems(found: SharedDirectory[ContinuationRecord]) -> Iterator[str]:
    """Problems of a continuation whose bytes are as committed."""
    record, name = found.record, found.path.name
    if not record.rows:
        if name != seed_name(record.source) or record.source.continuation.seed is None:
            yield "is not the seed of what its record says"
        return
    if name != block_name(record.source, record.first):
        yield "is not what its record says"
    else:
        yield from _table_problems(_table(found), record)


CONTINUATIONS: Final = SharedKind(
    folder=CONTINUATIONS_KEY, record=ContinuationRecord, problems=continuation_problems
)


def _table_problems(written: pa.Table, record: ContinuationRecord) -> list[str]:
    """Every reason `written` does not fit the prompts of `record`."""
    problems = []
    ids = written["prompt_id"].to_numpy()
    if not np.array_equal(ids, np.arange(record.first, record.first + record.rows)):
        problems.append(f"prompt_id should count from {record.first}")
    lengths, of_logprobs = (
        written[name].combine_chunks().value_lengths().to_numpy(zero_copy_only=False)
        for name in ("token_ids", "logprobs")
    )
    most = record.source.continuation.tokens
    if not ((lengths >= 1) & (lengths <= most)).all():
        problems.append(f"1 to {most} tokens should follow each prompt")
    if not np.array_equal(lengths, of_logprobs):
        problems.append("there should be a logprob for each token")
    return problems
