"""The feed: rows a second beside the same rows in order, how well a batch is mixed, its start."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.bucket_server import bucket
from benchmarks.pairs import Ratio, ratio_of_times, ratio_once, timed_pairs
from benchmarks.peers import feeds
from benchmarks.setting import store_of
from benchmarks.synthetic import synthetic_run
from lpp.store import Run, open_store
from lpp.store.arrays.layout import chunk_rows
from lpp.store.feed import rows
from lpp.store.feed.epoch import Epoch, Order
from lpp.store.feed.spans import Spans
from lpp.store.units import short_bytes

REPEATS: Final = 5
ROWS: Final = 1_000_000
WIDTH: Final = 576
LENGTH: Final = 200
BATCH: Final = 4096
BUFFER: Final = "256 MiB"
"""A fifth of the rows: the buffer is filled and used several times, as in a training run."""

TIMES: Final = 10
"""Rows of the run whose feed's memory is measured, in units of `ROWS`."""

PROMPTS: Final = 20_000
"""Of the run whose batches are mixed: without rows, since mixing needs none."""

SHARDS: Final = 20_000
WRITTEN: Final = 50
"""Shards with rows of their own."""

FRESH: Final = 3
LATENCY: Final = 0.03
"""Seconds until a bucket begins to answer, about as in a cloud."""

Clock = Callable[[], float]


def measure(folder: Path, *, n_rows: int = ROWS, shards: int = SHARDS) -> Iterator[Ratio]:
    """folder: scratch. n_rows: of the run that is fed. shards: of the run that begins."""
    run = synthetic_run(folder / "feed", n_rows, WIDTH, length=LENGTH)
    for what, clock, bar in (
        ("a CPU second", time.process_time, 0.7),
        ("a second of the wall clock", time.perf_counter, 0.8),
    ):
        yield _beside_blocks(run, what, clock, bar)
    for width, least in ((576, 0.9), (4096, 0.6)):
        yield _distinct_prompts(width, least)
    yield from _from_bucket(run)
    shutil.rmtree(folder / "feed")
    yield _peak_memory(folder / "longer", TIMES * n_rows)
    yield from _first_batches(folder / "many", shards)
    if feeds.INSTALLED:
        yield from feeds.measure(folder / "peers")
    else:
        sys.stderr.write("sae-lens is not installed: without the rows beside other trainers\n")


def _beside_blocks(run: Run, what: str, clock: Clock, bar: float) -> Ratio:
    def fed() -> None:
        for _ in rows(run, "final", batch=BATCH, buffer=BUFFER, like="numpy"):
            pass

    def in_order() -> None:
        for _ in run.blocks("final", dtype="stored"):
            pass

    return ratio_of_times(
        f"rows {what}: the feed, batches of {BATCH} / `Run.blocks(dtype='stored')` in order, "
        f"d = {WIDTH}",
        timed_pairs(fed, in_order, REPEATS, clock),
        bar=bar,
        direction="at least",
        inverted=True,
        bound="rows are unpacked into memory beyond the cache, and copied out of it",
    )


def units_by_batch(order: Order, spans: Spans) -> Iterator[npt.NDArray[np.int64]]:
    """The units of each batch of an epoch, as a feed gives them, without a store."""
    share = order.share(int(spans.counts.sum()))
    units = Epoch(order, spans, 0, share).planned()
    yield from np.split(units, range(order.batch, len(units), order.batch))


def _distinct_prompts(width: int, bar: float) -> Ratio:
    """Prompts in a batch, beside those in a batch of a uniform permutation: mean of an epoch."""
    total, capacity = PROMPTS * LENGTH, (2 << 30) // (2 * width)
    chunk = chunk_rows(width, 2)
    spans = Spans(edges=np.append(np.arange(0, total, chunk), total), kept=None)
    order = Order(batch=BATCH, seed=0, capacity=capacity, rank=0, world=1, drop_last=False)
    counts = [len(np.unique(units // LENGTH)) for units in units_by_batch(order, spans)]
    uniform = PROMPTS * (1 - (1 - 1 / PROMPTS) ** BATCH)
    mean = float(np.mean(counts[:-1]))
    return ratio_once(
        f"distinct prompts in a batch of {BATCH} / of a uniform permutation, {PROMPTS:,} prompts "
        f"of {LENGTH} tokens, 2 GiB, d = {width:,}; mean of an epoch (its first batch: "
        f"{counts[0] / uniform:.2f})",
        f"{mean:.0f}",
        f"{uniform:.0f}",
        mean / uniform,
        bar=bar,
        direction="at least",
    )


_PEAK: Final = """
import re, sys
from lpp.store import open_store
from lpp.store.feed import rows
(run,) = open_store(sys.argv[1]).runs.values()
if sys.argv[2] == "feed":
    for _ in rows(run, "final", batch=4096, buffer="256 MiB", like="numpy"):
        pass
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10)
"""


def _peak_memory(folder: Path, n_rows: int) -> Ratio:
    """Peak of a process that feeds, less that of one that opens the run. By VmHWM: ru_maxrss of a
    child begins at its parent's.
    """
    synthetic_run(folder, n_rows, WIDTH, length=LENGTH, written=2)

    def peak(what: str) -> int:
        command = [sys.executable, "-c", _PEAK, str(folder), what]
        return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    used, bound = peak("feed") - peak("nothing"), (256 << 20) + 200_000_000
    shutil.rmtree(folder)
    return ratio_once(
        f"peak memory of the feed beyond an opened run / buffer of {BUFFER} + 200 MB, "
        f"{n_rows:,} rows",
        short_bytes(used),
        short_bytes(bound),
        used / bound,
        bar=1,
    )


_FIRST: Final = """
import sys, time
from lpp.store import open_store
from lpp.store.feed import prompts, rows
start = time.perf_counter()
(run,) = open_store(sys.argv[1]).runs.values()
feed = {"rows": rows, "prompts": prompts}[sys.argv[2]]
next(feed(run, "final", buffer="8 MiB", like="numpy"))
print(time.perf_counter() - start)
"""


def _first_batches(folder: Path, shards: int) -> Iterator[Ratio]:
    """Seconds from opening the store to the first batch, in processes that have imported the
    package. A shard has 20 rows, so that the first fourth of the buffer takes 819 of them: more
    than a run of real shards opens.
    """
    synthetic_run(folder, shards * 20, 64, per_shard=1, length=20, written=WRITTEN)
    for what in ("rows", "prompts"):
        command = [sys.executable, "-c", _FIRST, str(folder), what]
        seconds = [
            float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
            for _ in range(FRESH)
        ]
        yield ratio_once(
            f"first batch of `{what}` of a run of {shards:,} shards in the page cache / 2 s",
            f"{min(seconds):.2f} s",
            "2 s",
            min(seconds) / 2,
            bar=1,
        )


def _from_bucket(run: Run) -> Iterator[Ratio]:
    """Both sides on this machine, and the server of the bucket too."""
    root = store_of(run)

    def fed(url: Path | str) -> Callable[[], None]:
        def feed() -> None:
            (opened,) = open_store(url).runs.values()
            for _ in rows(opened, "final", batch=BATCH, buffer=BUFFER, like="numpy"):
                pass

        return feed

    for latency in (0, LATENCY):
        with bucket(root, latency=latency) as url:
            yield ratio_of_times(
                f"rows a second of the wall clock: from S3, emulated on the same cores, answers "
                f"{1000 * latency:.0f} ms late / from disk, d = {WIDTH}",
                timed_pairs(fed(url), fed(root), FRESH),
                bar=0.7,
                direction="at least",
                inverted=True,
            )
