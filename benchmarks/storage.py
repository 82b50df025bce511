"""Bytes on disk, and the speed of reading them back."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.pairs import Ratio, ratio_of_times, ratio_once, timed_pairs
from lpp.store import Run
from lpp.store.arrays.hidden import to_float32

REPEATS = 9


def measure(run: Run, folder: Path) -> Iterator[Ratio]:
    """run: a capture of all sites. folder: scratch for the raw rows."""
    yield stored_bytes(run)
    site = run.sites[len(run.sites) // 2]
    raw = folder / "raw.npy"
    np.save(raw, bfloat16_rows(run, site))
    files = [path for shard in run.shards for path in shard.path.rglob(f"{site}/**/*")]
    files += run.tokens_files()

    def ours() -> None:
        for _ in Run(run.path).hidden(site):
            pass

    def theirs() -> None:
        to_float32(np.load(raw))

    def cold(call: "object") -> None:
        for path in [raw, *files]:
            drop_from_page_cache(path)
        call()  # type: ignore[operator]

    yield ratio_of_times(
        "reading one site as float32, not in the page cache / `numpy.load` of the raw rows",
        timed_pairs(lambda: cold(ours), lambda: cold(theirs), REPEATS),
        bar=1.3,
        bound="decompression, slower than this machine's disk",
    )
    yield ratio_of_times(
        "the same, both already in the page cache",
        timed_pairs(ours, theirs, REPEATS),
        bar=1.3,
        bound="zstd's decoder: the raw rows cost one copy of memory",
    )


def stored_bytes(run: Run) -> Ratio:
    """Raw bfloat16 rows of every site against the objects that hold them."""
    raw = sum(shard.rows for shard in run.shards) * sum(2 * s.width for s in run.plan.sites)
    disk = rows_on_disk(run)
    return ratio_once(
        "stored bytes: raw bfloat16 / on disk, all sites",
        f"{disk / 1e6:.0f} MB",
        f"{raw / 1e6:.0f} MB",
        raw / disk,
        bar=1.45,
        direction="at least",
    )


def bfloat16_rows(run: Run, site: str, prompts: int | None = None) -> npt.NDArray[np.uint16]:
    """(N, d) the bits of a site's rows as they were captured; prompts: of the first so many."""
    values = np.concatenate([block.values for block in run.blocks(site, prompts=prompts)])
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def rows_on_disk(run: Run) -> int:
    """Bytes of the objects that hold rows."""
    return sum(
        item.bytes
        for shard in run.shards
        for key, item in shard.commit.objects.items()
        if key.startswith("hidden.zarr/")
    )


def drop_from_page_cache(path: Path) -> None:
    """Ask the kernel to forget a file's pages, so that the next read comes from the disk."""
    if path.is_file():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
