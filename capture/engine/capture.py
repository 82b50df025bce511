"""Run a plan: forward passes in this thread, rows into place in a second, disk in a third.

Two shard buffers go round: one fills while the other is compressed, checksummed and committed.
Nothing else is held, so memory is `2 x shard` plus the backend's own, whatever the corpus. The
backend is asked for the next batch while the one before goes into its buffer, so a device is
idle only when the disk is slower than the model: then the forward pass waits for a buffer.

A shard is committed before its buffer is used again: a killed job resumes where it stood.

Moments have room for one shard, since they take d x d numbers a band: the rows of the next shard
wait until the one before is committed. They are kept for shards that are much larger than that.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.capture.backends.finite import set_aside
from lpp.capture.engine.shard_buffer import ShardBuffer
from lpp.capture.engine.stopping import Stop
from lpp.capture.plan.backend import Backend, Batch, Captured
from lpp.capture.plan.batches import shard_batches, tokens_of
from lpp.capture.plan.parts import WHOLE, Part
from lpp.store import RunWriter, Shard
from lpp.store.arrays.moments import SiteMoments
from lpp.store.commands.progress import SILENT, Progress
from lpp.store.format.plan import Plan

if TYPE_CHECKING:
    from lpp.capture.backends.moments import ShardMoments

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
    only: Sequence[int] | None = None,
    stop: Stop | None = None,
) -> int:
    """Capture every shard of `part` that is not committed yet; returns how many it captured.

    prompts: all of the plan, `PROMPTS_SCHEMA`. progress: told of every token of
    the part, of those that are committed at once. only: these shards instead of a part. stop:
    asked before each shard; those that had begun are finished. Raises what the backend or the
    writer raised; shards handed over before that are committed, unless writing was what failed.
    """
    lengths = prompts["n_tokens"].to_numpy()
    mine = part.shards(plan.n_shards) if only is None else only
    todo = writer.uncommitted(mine)
    progress.advance(tokens_of(plan, lengths, mine) - tokens_of(plan, lengths, todo))
    if not todo:
        return 0
    stop = stop or Stop()
    begun: list[int] = []
    batches = _batches(plan, prompts, todo, begun, stop)
    # Leaving the block waits for the rows and the shard under way, an interrupt included.
    with (
        ThreadPoolExecutor(1, thread_name_prefix="lpp-writer") as pool,
        ThreadPoolExecutor(1, thread_name_prefix="lpp-placer") as placer,
    ):
        shards = _Shards(plan, lengths, todo, writer=writer, pool=pool, progress=progress)
        placing: Future[None] | None = None
        try:
            for captured in backend.capture(batches):
                if placing is not None:
                    placing.result()
                placing = placer.submit(shards.take, captured)
            if placing is not None:
                placing.result()
        except Exception as error:
            # the disk's word outlives the model's
            failed = placing.exception() if placing is not None else None
            failed = failed or shards.failure()
            if failed is not None and failed is not error:
                raise failed from error
            raise
        shards.finish()
    awaited = len(begun) if stop.asked else len(todo)
    if shards.handed_over != awaited:
        raise RuntimeError(f"the backend ended after {shards.handed_over} of {awaited} shards")
    return shards.handed_over


def _batches(
    plan: Plan, prompts: pa.Table, todo: Sequence[int], begun: list[int], stop: Stop
) -> Iterator[Batch]:
    """The batches of one shard after the other, until `stop`; `begun` is told of each shard."""
    for shard in todo:
        if not stop.begin(shard):
            return
        begun.append(shard)
        yield from shard_batches(plan, prompts, shard)


class _Shards:
    """Fills one buffer after the other and hands full ones to the writer's thread."""

    def __init__(
        self,
        plan: Plan,
        lengths: npt.NDArray[np.int32],
        todo: Sequence[int],
        *,
        writer: RunWriter,
        pool: ThreadPoolExecutor,
        progress: Progress,
    ) -> None:
        self._todo, self._writer, self._pool, self._progress = todo, writer, pool, progress
        self._sites = plan.site_names
        self._buffers = [ShardBuffer(plan, lengths) for _ in todo[:BUFFERS]]
        self._buffers[0].begin(todo[0])
        self._moments = _room_for_moments(plan)
        self._writing: Future[None] | None = None
        self.handed_over = 0

    def take(self, captured: Captured) -> None:
        """Put one batch into its place. Raises what writing an earlier shard raised."""
        if self._writing is not None and self._writing.done():
            self._writing.result()  # a full disk stops the run now, not a shard later
        filling = self._buffers[self.handed_over % BUFFERS]
        begins = filling.empty
        filling.place(captured)
        aside = set_aside(captured, self._sites)
        filling.set_aside(aside)
        if self._moments is not None:
            if begins:
                self.finish()
                self._moments.begin()
            self._moments.add(captured, aside)
        self._progress.advance(len(captured.batch.token_ids))
        if not filling.full:
            return
        self.finish()
        self._writing = self._pool.submit(
            _write, self._writer, filling, self._moments, self._progress
        )
        self.handed_over += 1
        if self.handed_over < len(self._todo):
            self._buffers[self.handed_over % BUFFERS].begin(self._todo[self.handed_over])

    def finish(self) -> None:
        """Wait for the shard that is being written; raise what it raised."""
        if self._writing is not None:
            self._writing.result()

    def failure(self) -> BaseException | None:
        """What writing raised, once it has ended."""
        return None if self._writing is None else self._writing.exception()


def _room_for_moments(plan: Plan) -> "ShardMoments | None":
    if not plan.keeps_moments:
        return None
    from lpp.capture.backends.moments import ShardMoments

    return ShardMoments(plan)


def _write(
    writer: RunWriter,
    buffer: ShardBuffer,
    moments: Mapping[str, SiteMoments] | None,
    progress: Progress,
) -> None:
    start = time.monotonic()
    tables = buffer.tokens(), buffer.quarantine()
    shard = writer.write_shard(buffer.shard, buffer.hidden(), *tables, moments=moments)
    lost = shard.index in writer.outrun
    progress.note(_summary(shard, writer.run.plan, None if lost else time.monotonic() - start))


def _summary(shard: Shard, plan: Plan, seconds: float | None) -> str:
    """One line; seconds: None where another writer's shard was kept."""
    if seconds is None:
        return f"shard {shard.index + 1} of {plan.n_shards}: another process committed it first"
    stored = sum(item.bytes for item in shard.record.objects.values())
    aside = f", {shard.record.quarantine} prompts set aside" if shard.record.quarantine else ""
    return (
        f"shard {shard.index + 1} of {plan.n_shards} committed: {shard.rows:,} tokens, "
        f"{stored / 1e6:,.0f} MB, written in {seconds:.1f} s{aside}"
    )
