"""What the arrays of a store cost: packing against Blosc alone, reading against `numpy.load`."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numcodecs.blosc
import numpy as np
import numpy.typing as npt

from benchmarks.pairs import Ratio, ratio_of_times, timed_pairs
from benchmarks.storage import drop_from_page_cache
from lpp.store.arrays.blosc import BLOCK_BYTES
from lpp.store.arrays.decode_pool import decode_pool, usable_cores
from lpp.store.arrays.encoder import encode_array
from lpp.store.arrays.layout import ArraySpec, parse_layout, written_layout
from lpp.store.arrays.reader import FileSource, ReadAs, read_rows, to_float32

REPEATS = 15


def measure(rows: npt.NDArray[np.uint16], folder: Path) -> Iterator[Ratio]:
    """rows: (T, d) bits of bfloat16, of one site. folder: scratch for both forms of them."""
    spec = ArraySpec(
        name="site",
        rows=len(rows),
        width=rows.shape[1],
        data_type="uint16",
        lpp={"dtype": "bfloat16"},
    )
    encoded = encode_array(spec, rows)
    layout = parse_layout(encoded.metadata, spec, "site")
    stored, raw = folder / "chunks", folder / "raw.npy"
    stored.write_bytes(b"".join(encoded.parts))
    np.save(raw, rows)

    def read(dtype: ReadAs, *, alone: bool = False) -> object:
        with stored.open("rb") as file:
            return read_rows(
                [FileSource(file.fileno())],
                layout,
                0,
                spec.rows,
                where="site",
                dtype=dtype,
                chunks=encoded.chunks,
                pool=None if alone else decode_pool(),
            )

    def widened() -> object:
        return to_float32(np.load(raw))

    yield ratio_of_times(
        f"one site as float32 / `numpy.load` and widening, page cache, {usable_cores()} cores",
        timed_pairs(lambda: read("float32"), widened, REPEATS),
        bar=1.3,
    )
    with one_core():
        yield ratio_of_times(
            "the same on one core",
            timed_pairs(lambda: read("float32", alone=True), widened, REPEATS),
            bar=2.2,
        )

    def cold(call: Callable[[], object]) -> Callable[[], object]:
        def after_dropping() -> object:
            drop_from_page_cache(stored)
            drop_from_page_cache(raw)
            return call()

        return after_dropping

    yield ratio_of_times(
        "one site as stored / `numpy.load`, not in the page cache",
        timed_pairs(cold(lambda: read("stored")), cold(lambda: np.load(raw)), REPEATS),
        bar=1.3,
    )
    yield ratio_of_times(
        "encoding one site / Blosc alone, CPU seconds",
        cpu_pairs(lambda: encode_array(spec, rows), lambda: blosc_alone(rows, spec), REPEATS),
        bar=1.15,
    )


def blosc_alone(rows: npt.NDArray[np.uint16], spec: ArraySpec) -> None:
    """Pack the same chunks and keep nothing."""
    step = written_layout(spec).chunk_rows
    for start in range(0, len(rows), step):
        numcodecs.blosc.compress(
            rows[start : start + step], b"zstd", 1, numcodecs.blosc.SHUFFLE, BLOCK_BYTES
        )


def cpu_pairs(
    ours: Callable[[], object], other: Callable[[], object], repeats: int
) -> tuple[list[float], list[float]]:
    """CPU seconds of this process for each, in turn, after one run of each that does not count."""
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for call, found in zip((ours, other), times, strict=True):
            start = time.process_time()
            call()
            if repeat:
                found.append(time.process_time() - start)
    return times


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this thread, and those it starts, on one core, where the system has such a call."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
