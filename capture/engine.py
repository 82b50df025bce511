"""Run a plan: forward passes in this thread, compression and disk in another.

Two shard buffers go round: one fills while the other is compressed, checksummed and committed.
Nothing else is held, so memory is `2 x shard` plus the backend's own, whatever the corpus.
When the disk is slower than the model, the forward pass waits for a buffer.

A shard is committed before its buffer is used again: a killed job resumes where it stood.
"""

import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.capture.backend import Backend
from lpp.capture.batches import shard_batches
from lpp.capture.parts import WHOLE, Part
from lpp.capture.shard_buffer import ShardBuffer
from lpp.store import RunWriter, ShardRecord
from lpp.store.console import SILENT, Progress
from lpp.store.plan import Plan

BUFFERS: Final = 2
"""One that fills, one that is written."""


def capture_run(
    plan: Plan,
    prompts: pa.Table,
    writer: RunWriter,
    backend: Backend,
    progress: Progress = SILENT,
    *,
    part: Part = WHOLE,
) -> int:
    """Capture every shard of `part` that is not committed yet; returns how many it captured.

    prompts: all of the plan, `lpp.store.tables.PROMPTS_SCHEMA`. progress: told of every token of
    the part, of those that are committed at once. Raises what the backend or the writer raised;
    shards handed over before that are committed, unless writing was what failed.
    """
    lengths = prompts["n_tokens"].to_numpy()
    mine = part.shards(plan.n_shards)
    todo = [shard for shard in mine if not writer.committed(shard)]
    progress.advance(tokens_of(plan, lengths, mine) - tokens_of(plan, lengths, todo))
    if not todo:
        return 0
    batches = (batch for shard in todo for batch in shard_batches(plan, prompts, shard))
    buffers = [ShardBuffer(plan, lengths) for _ in todo[:BUFFERS]]
    filling, handed_over = buffers[0], 0
    filling.begin(todo[0])
    # Leaving the block waits for the shard being written, an interrupt included.
    with ThreadPoolExecutor(1, thread_name_prefix="lpp-writer") as pool:
        writing: Future[None] | None = None
        try:
            for captured in backend.capture(batches):
                if writing is not None and writing.done():
                    writing.result()  # a full disk stops the run now, not a shard later
                filling.place(captured)
                progress.advance(len(captured.batch.token_ids))
                if not filling.full:
                    continue
                if writing is not None:
                    writing.result()
                writing = pool.submit(_write, writer, filling, progress)
                handed_over += 1
                if handed_over == len(todo):
                    break
                filling = buffers[handed_over % BUFFERS]
                filling.begin(todo[handed_over])
        except Exception as error:
            if writing is not None and (failed := writing.exception()) is not None:
                raise failed from error  # the disk's word outlives the model's
            raise
        if writing is not None:
            writing.result()
    if handed_over != len(todo):
        raise RuntimeError(f"the backend ended after {handed_over} of {len(todo)} shards")
    return handed_over


def _write(writer: RunWriter, buffer: ShardBuffer, progress: Progress) -> None:
    start = time.monotonic()
    shard = writer.write_shard(buffer.shard, buffer.hidden(), buffer.tokens())
    lost = shard.index in writer.outrun
    progress.note(_summary(shard, writer.run.plan, None if lost else time.monotonic() - start))


def _summary(shard: ShardRecord, plan: Plan, seconds: float | None) -> str:
    """One line; seconds: None where another writer's shard was kept."""
    if seconds is None:
        return f"shard {shard.index + 1} of {plan.n_shards}: another process committed it first"
    stored = sum(item.bytes for item in shard.commit.objects.values())
    return (
        f"shard {shard.index + 1} of {plan.n_shards} committed: {shard.rows:,} tokens, "
        f"{stored / 1e6:,.0f} MB, written in {seconds:.1f} s"
    )


def tokens_of(plan: Plan, lengths: npt.NDArray[np.int32], shards: Iterable[int]) -> int:
    """Tokens of some shards. lengths: tokens of each prompt of the plan."""
    ends = np.append(0, np.cumsum(lengths))
    return int(sum(ends[plan.shards[k + 1]] - ends[plan.shards[k]] for k in shards))
