"""Let a model write after each prompt, before the plan is frozen.

What is written is committed in the store a block of prompts at a time. So a killed command resumes
where it stopped, and every process of a run uses the same tokens, whichever process wrote them.
Each process writes its own blocks first, then those still missing. If two write the same block, the
first commit wins and the other's time is lost.
"""

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from lpp.capture.models.device import kind_of
from lpp.capture.plan.backend import Backend, Beginning, Writing, Written
from lpp.capture.plan.parts import Part
from lpp.capture.plan.request import CaptureRequest, ContinuationSpec
from lpp.store.format.commit_record import ContinuationSource
from lpp.store.format.plan import ContinuationInfo
from lpp.store.format.rows import prompts_sha256, token_ids_sha256
from lpp.store.format.tables import PROMPTS_SCHEMA, WRITTEN_SCHEMA
from lpp.store.objects.protocol import Objects
from lpp.store.process.signals import check_requests
from lpp.store.progress import Progress
from lpp.store.shared.continuations import (
    commit_block,
    kept_seed,
    read_block,
    removed_meanwhile,
    settled_seed,
)

LARGEST_DRAWN_SEED: Final = (1 << 31) - 1


@dataclass(frozen=True, kw_only=True)
class Continued:
    """Prompts with their continuations."""

    prompts: pa.Table
    """`PROMPTS_SCHEMA`, `n_given` and `written_logprob`, then their other columns."""
    info: ContinuationInfo
    assumed: bool = False
    """Whether nothing was written, and every prompt is as long as it can become."""


def continue_prompts(
    store: Objects,
    request: CaptureRequest,
    backend: Backend,
    prompts: pa.Table,
    *,
    part: Part,
    progress: Progress,
) -> Continued:
    """Continue every prompt, or take the store's continuations; commits new ones block by block.

    prompts: `PROMPTS_SCHEMA`, without continuations. part: its blocks are written first. progress:
    advances with each block.
    """
    source = _settled_source(store, request, backend, prompts)
    info = source.continuation
    how = Writing(
        tokens=info.tokens,
        temperature=float(info.temperature or 0),
        seed=info.seed or 0,
        end_ids=info.end_ids,
    )
    blocks = _blocks(backend, prompts)
    block_at: dict[int, pa.Table] = {}
    for index in _order(len(blocks), part):
        check_requests()
        first, rows = blocks[index]
        block = read_block(store, source, first, rows)
        if block is None:
            start = time.monotonic()
            block = _table(backend.write(_beginnings(prompts, first, rows), how))
            if commit_block(store, source, first, block):
                count = len(block["token_ids"].combine_chunks().flatten())
                progress.note(
                    f"continued prompts {first + 1} to {first + rows} of {prompts.num_rows}: "
                    f"{count:,} tokens in {time.monotonic() - start:.1f} s"
                )
            else:
                block = read_block(store, source, first, rows)
                if block is None:
                    raise removed_meanwhile(store)
        block_at[first] = block
    written = pa.concat_tables([block_at[first] for first, _ in blocks])
    return Continued(prompts=with_continuations(prompts, written), info=info)


def kept_continuations(
    store: Objects, request: CaptureRequest, backend: Backend, prompts: pa.Table
) -> Continued | None:
    """The store's continuations of every prompt; None if any is missing. Writes nothing."""
    spec = request.continuation
    assert spec is not None
    source = _source_of(request, backend, prompts, spec.seed or 0)
    if spec.seed is None and spec.temperature:
        seed = kept_seed(store, source)
        if seed is None:
            return None
        source = _source_of(request, backend, prompts, seed)
    blocks = []
    for first, rows in _blocks(backend, prompts):
        block = read_block(store, source, first, rows)
        if block is None:
            return None
        blocks.append(block)
    written = pa.concat_tables(blocks)
    return Continued(prompts=with_continuations(prompts, written), info=source.continuation)


def assume_longest(request: CaptureRequest, backend: Backend, prompts: pa.Table) -> Continued:
    """Prompts at their maximum length, for sizes and times; the model writes nothing."""
    spec = request.continuation
    assert spec is not None
    tokens = [[ids[-1].as_py()] * spec.tokens for ids in prompts["token_ids"]]
    logprobs = [[0.0] * spec.tokens] * prompts.num_rows
    columns = [range(prompts.num_rows), tokens, logprobs]
    written = pa.table(dict(zip(WRITTEN_SCHEMA.names, columns, strict=True)), WRITTEN_SCHEMA)
    info = _info(request, spec, backend, spec.seed or 0)
    return Continued(prompts=with_continuations(prompts, written), info=info, assumed=True)


def _settled_source(
    store: Objects, request: CaptureRequest, backend: Backend, prompts: pa.Table
) -> ContinuationSource:
    """Everything that decides the tokens, with the seed chosen."""
    spec = request.continuation
    assert spec is not None
    if spec.seed is not None or not spec.temperature:
        return _source_of(request, backend, prompts, spec.seed or 0)
    drawn = secrets.randbelow(LARGEST_DRAWN_SEED)
    seed = settled_seed(store, _source_of(request, backend, prompts, drawn), drawn)
    return _source_of(request, backend, prompts, seed)


def _source_of(
    request: CaptureRequest, backend: Backend, prompts: pa.Table, seed: int
) -> ContinuationSource:
    spec, model = request.continuation, backend.model
    assert spec is not None
    return ContinuationSource(
        weights=model.info.weights,
        untrained_seed=model.info.untrained_seed,
        tokenizer=model.tokenizer_info.fingerprint,
        given=prompts_sha256(prompts),
        compute=backend.compute,
        continuation=_info(request, spec, backend, seed),
    )


def _blocks(backend: Backend, prompts: pa.Table) -> list[tuple[int, int]]:
    """(first prompt, number of prompts) of each block."""
    size, count = kind_of(backend.compute.device).block_prompts, prompts.num_rows
    return [(first, min(size, count - first)) for first in range(0, count, size)]


def _info(
    request: CaptureRequest, spec: ContinuationSpec, backend: Backend, seed: int
) -> ContinuationInfo:
    draws = spec.temperature > 0
    return ContinuationInfo(
        given_context=request.context,
        tokens=spec.tokens,
        temperature=repr(float(spec.temperature)).removesuffix(".0") if draws else None,
        seed=seed if draws else None,
        end_ids=backend.model.end_ids,
    )


def _order(blocks: int, part: Part) -> list[int]:
    """A part's own blocks, then those of other parts, last block first: the others reach it late.

    >>> _order(5, Part(0, 2))
    [0, 2, 4, 3, 1]
    """
    own_blocks = part.shards(blocks)
    return [*own_blocks, *(index for index in reversed(range(blocks)) if index not in own_blocks)]


def _beginnings(prompts: pa.Table, first: int, rows: int) -> list[Beginning]:
    lists = prompts["token_ids"].slice(first, rows).combine_chunks()
    return [
        Beginning(prompt_id=first + index, token_ids=np.asarray(ids.values, dtype=np.int32))
        for index, ids in enumerate(lists)
    ]


def _table(written: Iterator[Written]) -> pa.Table:
    """`WRITTEN_SCHEMA`, by prompt."""
    rows = sorted(written, key=lambda row: row.prompt_id)
    columns: list[Sequence[Any]] = [
        [row.prompt_id for row in rows],
        [row.token_ids for row in rows],
        [row.logprobs for row in rows],
    ]
    arrays = [pa.array(c, field.type) for c, field in zip(columns, WRITTEN_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=WRITTEN_SCHEMA)


def with_continuations(prompts: pa.Table, written: pa.Table) -> pa.Table:
    """`prompts` with the tokens of `written` (`WRITTEN_SCHEMA`) after their own."""
    ids = [
        np.concatenate([np.asarray(given.values), np.asarray(more.values)])
        for given, more in zip(prompts["token_ids"], written["token_ids"], strict=True)
    ]
    changed = {
        "token_ids": ids,
        "n_tokens": [len(tokens) for tokens in ids],
        "sha256": [token_ids_sha256(tokens) for tokens in ids],
    }
    columns = {name: prompts[name] for name in prompts.schema.names}
    for name, values in changed.items():
        columns[name] = pa.array(values, PROMPTS_SCHEMA.field(name).type)
    base = {name: columns.pop(name) for name in PROMPTS_SCHEMA.names}
    more = {"n_given": prompts["n_tokens"], "written_logprob": written["logprobs"]}
    fields = [
        *PROMPTS_SCHEMA,
        *(pa.field(name, column.type) for name, column in more.items()),
        *(prompts.schema.field(name) for name in columns),
    ]
    return pa.Table.from_arrays([*(base | more | columns).values()], schema=pa.schema(fields))
