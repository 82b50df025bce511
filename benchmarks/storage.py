"""Bytes on disk, what writing them costs, and the speed of reading them back."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.pairs import Ratio, ratio_of_times, ratio_once, timed_pairs
from benchmarks.setting import store_of
from benchmarks.synthetic import synthetic_run
from lpp.analyze.drift.pair import Pair
from lpp.store import Run
from lpp.store.arrays.blosc import compress, decompress
from lpp.store.arrays.decode_pool import usable_cores
from lpp.store.arrays.encoder import encode_array
from lpp.store.arrays.layout import ArraySpec, site_array, written_layout
from lpp.store.arrays.planes import compress_planes
from lpp.store.arrays.reader import ReadAs, to_float32
from lpp.store.format.commit_record import ObjectRecord
from lpp.store.objects.locate import objects_at
from lpp.store.objects.place import Place
from lpp.store.shared.heads import head_directories

REPEATS = 9
PROMPTS: Final = 1000
"""Of the run of which a few are read."""
FEW: Final = 10
LENGTH: Final = 200
WIDTH: Final = 576
ENCODED_SITES: Final = 4

Times = tuple[list[float], list[float]]


def measure(run: Run, folder: Path, *, prompts: int = PROMPTS) -> Iterator[Ratio]:
    """run: a capture of all sites. folder: scratch. prompts: of a synthetic run beside it."""
    yield from stored_bytes(run)
    yield from _reading(run, folder)
    yield _few_prompts(folder, prompts)
    yield _encoding(run)
    yield from _packing(run)


def _reading(run: Run, folder: Path) -> Iterator[Ratio]:
    """The middle site of a run that is open already, as one opens a run once for all its sites."""
    site = run.sites[len(run.sites) // 2]
    raw = folder / "raw.npy"
    np.save(raw, bfloat16_rows(run, site))
    cores = usable_cores()
    times = _alone(run.path, site, raw)
    yield ratio_of_times(
        "reading one site as float32 / `numpy.load` of the raw rows and the same widening, in the "
        f"page cache, {cores} core{'s' if cores > 1 else ''}",
        times["float32"],
        bar=0.95,
        bound="Huffman's decoder: the raw rows cost one copy of memory",
    )
    yield ratio_of_times(
        "the same as stored / `numpy.load` of the raw rows",
        times["stored"],
        bar=1.1,
        bound="Huffman's decoder: on two cores it alone takes as long as the copy",
    )
    yield ratio_of_times(
        "`run.array(site)[:]` / the same rows by blocks, float32",
        times["array"],
        bar=1.1,
        bound="new pages: an array holds all rows, and blocks use memory again",
    )
    yield ratio_of_times(
        "as float32 / `numpy.load` and widening, on one core",
        _alone(run.path, site, raw, _pin)["float32"],
        bar=2.2,
        bound="zstd's decoder, which has one core as well",
    )
    places = [Path(str(shard.objects_dir)) for shard in run.shards]
    files = [path for place in places for path in place.glob(f"*/{site}/**/*")]

    def cold(call: Callable[[], object]) -> Callable[[], object]:
        def after_dropping() -> object:
            for path in (raw, *files):
                drop_from_page_cache(path)
            return call()

        return after_dropping

    yield ratio_of_times(
        "reading one site as stored / `numpy.load` of the raw rows, not in the page cache",
        timed_pairs(cold(lambda: _read(run, site, "stored")), cold(lambda: np.load(raw)), REPEATS),
        bar=1.3,
        bound="decompression, slower than this machine's disk",
    )


def _alone(
    path: Place, site: str, raw: Path, start: Callable[[], object] | None = None
) -> dict[str, Times]:
    """In a process of its own: what a heap keeps of earlier work helps one side and not the other.

    start: what that process does first.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=start) as alone:
        return alone.submit(_in_page_cache, path, site, raw, REPEATS).result()


def _in_page_cache(path: Place, site: str, raw: Path, repeats: int) -> dict[str, Times]:
    run = Run(path)
    every = run.array(site)
    sides: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "float32": (lambda: _read(run, site, "float32"), lambda: to_float32(np.load(raw))),
        "stored": (lambda: _read(run, site, "stored"), lambda: np.load(raw)),
        "array": (lambda: every[:], lambda: _read(run, site, "float32")),
    }
    return {what: timed_pairs(*pair, repeats) for what, pair in sides.items()}


def _read(run: Run, site: str, dtype: ReadAs, first: int = 0, prompts: int | None = None) -> int:
    """Rows of `site` that were read."""
    blocks = run.blocks(site, dtype=dtype, first=first, prompts=prompts)
    return sum(len(block.values) for block in blocks)


def _pin() -> None:
    """Keep this process on one of its cores."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _few_prompts(folder: Path, prompts: int) -> Ratio:
    """Some prompts from the middle of a run, which must not cost what all of them cost."""
    run = synthetic_run(
        folder / "many", prompts * LENGTH, WIDTH, per_shard=-(-prompts // 8), length=LENGTH
    )
    (site,) = run.sites
    first = prompts // 2
    times = timed_pairs(
        lambda: _read(run, site, "float32", first, first + FEW),
        lambda: _read(run, site, "float32"),
        REPEATS,
    )
    return ratio_of_times(
        f"reading {FEW} prompts of {prompts:,} / all of them, in the page cache",
        times,
        bar=0.05,
        bound="the chunks that hold them hold others",
    )


def _arrays(run: Run, sites: Sequence[str]) -> list[tuple[ArraySpec, npt.NDArray[np.uint16]]]:
    """Rows of the first shard."""
    shard = run.shards[0]
    return [
        (
            site_array(run.site(site), run.plan.stored_dtype, shard.rows),
            bfloat16_rows(run, site, prompts=shard.end_prompt),
        )
        for site in sites
    ]


def _encoding(run: Run) -> Ratio:
    """Some sites of the first shard: packed and described, beside packed and forgotten."""
    few = run.sites[:: max(1, len(run.sites) // ENCODED_SITES)]
    arrays = _arrays(run, few)

    def ours() -> None:
        for spec, rows in arrays:
            encoded = encode_array(spec, rows)
            ObjectRecord.of(encoded.parts, encoded.chunks)

    return ratio_of_times(
        f"encoding {len(few)} sites of a shard / packing them alone, CPU seconds",
        timed_pairs(ours, lambda: _packed(arrays, compress_planes), REPEATS, time.process_time),
        bar=1.15,
        bound="xxh3 of what is packed, of chunks and of the whole",
    )


def _packing(run: Run) -> Iterator[Ratio]:
    """Packed by planes beside Blosc's own zstd, which earlier releases wrote: no file, no thread.

    First rows that do not repeat, then those of `embed`, if the run has them.
    """
    blocks = run.sites[1 :: max(1, len(run.sites) // ENCODED_SITES)]
    for sites, what, bars in (
        (blocks, f"{len(blocks)} sites of a shard", (2.5, 1.65)),
        (run.sites[:1], f"`{run.sites[0]}`, whose rows repeat", (1.0, 1.0)),
    ):
        arrays = _arrays(run, sites)
        chunks, old = (_packed(arrays, pack) for pack in (compress_planes, compress))
        out = np.empty(max(spec.row_bytes * len(rows) for spec, rows in arrays), np.uint8)
        pairs = (
            timed_pairs(
                lambda: _packed(arrays, compress_planes),  # noqa: B023 - called at once
                lambda: _packed(arrays, compress),  # noqa: B023
                REPEATS,
                time.process_time,
            ),
            timed_pairs(
                lambda: _unpacked(chunks, out),  # noqa: B023
                lambda: _unpacked(old, out),  # noqa: B023
                REPEATS,
                time.process_time,
            ),
        )
        for verb, times, bar in zip(("packing", "unpacking"), pairs, bars, strict=True):
            yield ratio_of_times(
                f"{verb} {what} by planes, bytes a CPU second / as Blosc's zstd of level 1",
                times,
                bar=bar,
                direction="at least",
                inverted=True,
            )


def _packed(
    arrays: Sequence[tuple[ArraySpec, npt.NDArray[np.uint16]]],
    pack: Callable[[npt.NDArray[np.uint16]], bytes],
) -> list[tuple[bytes, int]]:
    """The chunks and their unpacked bytes; a last one is not filled up."""
    packed = []
    for spec, rows in arrays:
        step = written_layout(spec).chunk_rows
        for start in range(0, len(rows), step):
            chunk = rows[start : start + step]
            packed.append((pack(chunk), chunk.nbytes))
    return packed


def _unpacked(chunks: Sequence[tuple[bytes, int]], out: npt.NDArray[np.uint8]) -> None:
    for chunk, size in chunks:
        decompress(memoryview(chunk), out[:size])


def stored_bytes(run: Run) -> Iterator[Ratio]:
    """Raw bfloat16 rows against the objects that hold them: of every site, and without `embed`,
    whose rows repeat.
    """
    rows = sum(shard.rows for shard in run.shards)
    for what, sites, bar in (
        ("all sites", run.sites, 1.5),
        ("a selection without `embed`", run.sites[1:], 1.45),
    ):
        raw = rows * sum(2 * run.site(site).width for site in sites)
        disk = sum(_bytes_on_disk(run, site) for site in sites)
        yield ratio_once(
            f"stored bytes: raw bfloat16 / on disk, {what}",
            f"{disk / 1e6:.0f} MB",
            f"{raw / 1e6:.0f} MB",
            raw / disk,
            bar=bar,
            direction="at least",
            bound="low bytes are noise, high ones take 3.0 bits of an entropy of 2.9",
        )


def kept_for_logits(pair: Pair) -> Iterator[Ratio]:
    """What makes every logit of both runs again against the logits: rows of `final` and heads.

    pair: runs of one store that holds the heads of both. A matrix that both models share, as of a
    model whose blocks alone were changed, lies in the store once; the second ratio counts it twice.
    """
    runs = [view.run for view in (pair.a, pair.b)]
    root = objects_at(runs[0].directory.root)
    rows = sum(_bytes_on_disk(run, "final") for run in runs)
    heads = [head_directories(root, run.plan) for run in runs]
    size = {
        name: _folder_bytes(run, name)
        for run, some in zip(runs, heads, strict=True)
        for name in some
    }
    once, each = sum(size.values()), sum(size[name] for some in heads for name in some)
    width = runs[0].plan.model.logits_width
    logits = sum(2 * width * sum(shard.rows for shard in run.shards) for run in runs)
    for what, kept in (("heads as they lie on disk", rows + once), ("a head of each", rows + each)):
        yield ratio_once(
            f"bytes kept of two runs, rows of `final` and {what}, {pair.n_tokens():,} tokens "
            f"/ 16-bit logits of both at V = {width:,}",
            f"{kept / 1e6:.0f} MB",
            f"{logits / 1e6:,.0f} MB",
            kept / logits,
            bar=1 / 40,
            bound="the matrix of the second model",
        )


def _folder_bytes(run: Run, name: str) -> int:
    """Of a directory of the store that `run` lies in."""
    folder = store_of(run) / name
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def bfloat16_rows(run: Run, site: str, prompts: int | None = None) -> npt.NDArray[np.uint16]:
    """(N, d) the bits of a site's rows as they were captured; prompts: of the first so many."""
    blocks = run.blocks(site, prompts=prompts, dtype="stored")
    return np.concatenate([block.values for block in blocks])


def rows_on_disk(run: Run) -> int:
    """Bytes of the objects that hold rows."""
    return _bytes_on_disk(run)


def _bytes_on_disk(run: Run, site: str | None = None) -> int:
    """Bytes of the objects that hold rows of `site`, or of all sites."""
    start = "hidden.zarr/" if site is None else f"hidden.zarr/{site}/"
    return sum(
        item.bytes
        for shard in run.shards
        for key, item in shard.record.objects.items()
        if key.startswith(start)
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
