"""Run a plan: forward passes in this thread, encoding on every core, commits in parallel.

A shard goes through three stages, and up to `SLOTS` shards are in progress, each with its own
memory. While the backend writes the rows of one shard in place, `encoders` threads compress another
one site by site and write it, and a third is flushed to the disk and committed. A slot is free
again once its shard is committed. So the host holds `SLOTS` shards, whatever the size of the
corpus, and the forward pass waits only if compression or the disk is slower than the model.

The content of a shard depends on the plan alone, not on the number of encoders, on other processes
that capture the run, or on where it was resumed. A shard is committed before its memory is used
again: a killed job resumes at the shards that were in progress.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa

from lpp.capture.engine.shard_buffer import ShardBuffer
from lpp.capture.engine.stopping import Stop
from lpp.capture.plan.backend import Backend, Batch, Outputs
from lpp.capture.plan.sizes import SLOTS
from lpp.store import RunWriter, Shard
from lpp.store.arrays.decode_pool import usable_cores
from lpp.store.format.plan import Plan
from lpp.store.process.allocator import keep_blocks
from lpp.store.progress import SILENT, Progress


def capture_run(
    plan: Plan,
    prompts: pa.Table,
    writer: RunWriter,
    backend: Backend,
    progress: Progress = SILENT,
    *,
    shards: Sequence[int] | None = None,
    stop: Stop | None = None,
    encoders: int | None = None,
) -> int:
    """Capture some shards; returns how many.

    prompts: all of the plan, `PROMPTS_SCHEMA`. progress: advances by every token that is captured.
    shards: by default those that are not committed yet; if another process commits one meanwhile,
    it is computed too, and the committed one stays. stop: checked before each shard; shards that
    have begun are finished. encoders: threads that compress, one for each core by default. Raises
    what the backend or the writer raised; shards that were full before that are committed, unless
    writing itself failed.
    """
    todo = writer.uncommitted(range(plan.n_shards)) if shards is None else shards
    if not todo:
        return 0
    stop = stop or Stop()
    pipeline = _Pipeline(
        plan,
        prompts,
        writer=writer,
        backend=backend,
        progress=progress,
        encoders=encoders or usable_cores(),
    )
    # Leaving the block waits for the shards in progress, also after an interrupt.
    with pipeline:
        for captured in backend.capture(pipeline.batches(todo, stop), Outputs.of(plan)):
            filling = pipeline.filling[0]
            filling.take(captured)
            progress.advance(len(captured.batch.token_ids))
            if captured.batch.ends_shard:
                pipeline.write()
            pipeline.check()
        pipeline.finish()
    begun = pipeline.begun if stop.requested else len(todo)
    if pipeline.handed_over != begun:
        raise RuntimeError(f"the backend ended after {pipeline.handed_over} of {begun} shards")
    return pipeline.handed_over


class _Pipeline:
    """The slots, the threads, and the stage of each shard."""

    def __init__(
        self,
        plan: Plan,
        prompts: pa.Table,
        *,
        writer: RunWriter,
        backend: Backend,
        progress: Progress,
        encoders: int,
    ) -> None:
        self._plan, self._prompts = plan, prompts
        self._writer, self._backend, self._progress = writer, backend, progress
        keep_blocks()
        self._free: list[ShardBuffer] = []
        self._made = 0
        self.filling: deque[ShardBuffer] = deque()
        """Shards whose batches were handed out and have not all come back, oldest first."""
        self._writing: deque[tuple[ShardBuffer, Future[Shard]]] = deque()
        self._encoders = ThreadPoolExecutor(encoders, thread_name_prefix="lpp-encode")
        self._committers = ThreadPoolExecutor(SLOTS - 1, thread_name_prefix="lpp-commit")
        self.begun = self.handed_over = 0

    def __enter__(self) -> "_Pipeline":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # committers wait for encoders, so they end first
        self._committers.shutdown(wait=True)
        self._encoders.shutdown(wait=True)
        if isinstance(error, Exception):
            self._raise_cause(error)

    def _raise_cause(self, error: Exception) -> None:
        """Report the writer's error: it is the cause of any later error of the backend."""
        for _, future in self._writing:
            failed = future.exception()
            if failed is not None and failed is not error:
                raise failed from error

    def batches(self, todo: Sequence[int], stop: Stop) -> Iterator[Batch]:
        """The batches of each shard in turn, until `stop`."""
        for shard in todo:
            if not stop.begin(shard):
                return
            self.begun += 1
            buffer = self._slot()
            self.filling.append(buffer)
            yield from buffer.batches(shard)

    def _slot(self) -> ShardBuffer:
        """Memory for a shard: unused, new, or that of the next shard to be committed."""
        while not self._free:
            if self._made < SLOTS:
                self._made += 1
                return ShardBuffer(self._plan, self._prompts, self._backend.allocate)
            self._await_oldest()
        return self._free.pop()

    def write(self) -> None:
        """Pass on the oldest shard that is being filled; all its rows have arrived."""
        buffer = self.filling.popleft()
        future = self._committers.submit(self._commit, buffer)
        self._writing.append((buffer, future))
        self.handed_over += 1

    def check(self) -> None:
        """Free the slots of committed shards; raise any error, such as a full disk, at once."""
        while self._writing and self._writing[0][1].done():
            self._await_oldest()

    def finish(self) -> None:
        """Wait for every shard that was passed on."""
        while self._writing:
            self._await_oldest()

    def _await_oldest(self) -> None:
        buffer, future = self._writing[0]
        future.result()
        self._writing.popleft()
        self._free.append(buffer)

    def _commit(self, buffer: ShardBuffer) -> Shard:
        start = time.monotonic()
        shard = self._writer.write(buffer.shard, buffer, self._encoders)
        lost = shard.index in self._writer.lost_race
        seconds = None if lost else time.monotonic() - start
        self._progress.note(_summary(shard, self._plan, seconds))
        return shard


def _summary(shard: Shard, plan: Plan, seconds: float | None) -> str:
    """One line; seconds: None if another writer's shard was kept."""
    if seconds is None:
        return f"shard {shard.index + 1} of {plan.n_shards}: another process committed it first"
    stored = sum(item.bytes for item in shard.record.objects.values())
    aside = f", {shard.record.quarantine} prompts set aside" if shard.record.quarantine else ""
    return (
        f"shard {shard.index + 1} of {plan.n_shards} committed, {stored / 1e6:,.0f} MB in "
        f"{seconds:.1f} s{aside}"
    )
