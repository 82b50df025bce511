"""The simulator beside this machine: constants measured on small pieces, then larger sizes.

What is predicted was not run before: the constants come from a block of rows, one product, one
solve, a few batches and two shards; the sizes are ten times apart.
"""

import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.pairs import Ratio, ratio_once, seconds
from benchmarks.pipeline_cost import Bits, Pipeline, Setup, spent, write_files
from benchmarks.scaling import Constants, Model, analysis_seconds, capture_stages, seconds_per_token
from benchmarks.setting import capture, prepared, scratch, store_of
from benchmarks.storage import rows_on_disk
from benchmarks.synthetic import LENGTH, synthetic_run
from lpp.analyze import scan_spectra
from lpp.analyze.engine.accumulate import BandSums, bands_of, merged_bands, rows_of
from lpp.analyze.engine.workers import Workers
from lpp.analyze.numerics.moments import product_rows
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.rows.site_reader import SiteReader
from lpp.store import Run, open_store
from lpp.store.arrays.decode_pool import usable_cores
from lpp.store.runs.read import Block

WIDTH: Final = 128
SIZES: Final = (10_000, 100_000, 1_000_000)
"""Rows of one site."""
PROMPTS: Final = (1, 10, 100)
"""Of 100 tokens, for the packaged model."""
PROBE_ROWS: Final = 20_000
REPEATS = 20
"""The most of anything; with one there is no call that does not count either."""
BAR: Final = 1.5
"""Of a simulator that shall say which stage saturates first, not by what per cent."""


PROBE: Final = Setup(width=576, sites=8, lengths=(200,) * 36, shard_bytes=32 << 20)
"""Two shards through the pipeline."""
PIPELINES: Final = (
    Setup(width=576, sites=32, lengths=(200,) * 180),
    Setup(width=3584, sites=30, lengths=(200,) * 36),
)
"""Five shards of 256 MiB, and six."""


def measure(
    folder: Path,
    sizes: Sequence[int] = SIZES,
    prompts: Sequence[int] = PROMPTS,
    pipelines: Sequence[Setup] = PIPELINES,
    probe: Setup = PROBE,
) -> Iterator[Ratio]:
    """Predicted beside measured, of analysis and of capture; the larger over the smaller."""
    constants, fixed = of_analysis(folder)
    for rows in sizes:
        run = synthetic_run(folder / f"scale-{rows}", rows, WIDTH, per_shard=200)
        parts = analysis_seconds(constants, rows=rows, width=WIDTH)
        yield beside(
            f"analysis of {rows:,} rows of width {WIDTH}",
            fixed + sum(parts.values()),
            _best(lambda run=run: _analyse(run), repeats=3),  # type: ignore[misc]
        )
        shutil.rmtree(store_of(run))
    yield from _captures(folder, prompts)
    yield from _pipelines(folder, probe, pipelines)


def of_analysis(folder: Path, width: int = WIDTH) -> tuple[Constants, float]:
    """Constants of this machine for rows of `width`, and the seconds of an analysis of none."""
    run = synthetic_run(folder / "probe", PROBE_ROWS, width, per_shard=200)
    some = next(run.blocks("final"))
    numbers = PROBE_ROWS * width
    reading = _best(lambda: sum(len(block.values) for block in Run(run.path).blocks("final")))
    wide = np.random.default_rng(0).standard_normal((product_rows(width), width))
    product = _best(lambda: wide.T @ wide, repeats=20)
    scatter = wide.T @ wide
    solve = _best(lambda: np.linalg.eigvalsh(scatter), repeats=10)
    rate = 2 * wide.size * width / product
    banded = partial(_banded, some, run, width)
    adding = _best(banded, repeats=5) / some.values.size
    empty = synthetic_run(folder / "empty", LENGTH, width)
    measured = replace(
        Constants(),
        unpack=numbers * Constants().row_bytes / reading,
        product=rate,
        handle=1 / max(adding - 2 * width / rate, 1e-12),
        solve=width**3 / solve,
        spare=_spare(banded),
    )
    return measured, _best(lambda: _analyse(empty), repeats=5)


def _spare(call: Callable[[], object]) -> float:
    """Share of one more core that `call` leaves free. A thread of BLAS that spins does not."""
    start, used = time.perf_counter(), time.process_time()
    for _ in range(min(20, REPEATS)):
        call()
    busy = (time.process_time() - used) / (time.perf_counter() - start)
    return min(1.0, max(0.0, (os.cpu_count() or 1) - busy))


def _banded(block: Block, run: Run, width: int) -> None:
    """What a block costs beside its reading."""
    lengths = run.prompts()["n_tokens"].to_numpy()
    edges = list(run.plan.prefixes)
    with Workers(1) as workers:
        reader = SiteReader(run, "final", lengths)
        needed = bands_of([Cell(len(lengths), edges[-1])], edges)
        bands = BandSums(reader, needed, rows_of(needed, lengths), workers)
        bands.add(block)
        for _ in merged_bands(bands.sums(last=True), edges, 0, edges[-1:]):
            pass


def _analyse(run: Run) -> None:
    root = store_of(run)
    shutil.rmtree(root / "analysis", ignore_errors=True)
    frame = scan_spectra(root).select("effective_rank").collect()
    assert frame.height == len(run.plan.prefixes)


def _captures(folder: Path, prompts: Sequence[int]) -> Iterator[Ratio]:
    """The packaged model at `embed` and `final`: a rate from one probe, then the sizes."""
    ready = prepared(5, context=100, sites=("embed", "final"))
    capture(ready, folder / "capture-warm")
    pace = _best(_numbered(lambda root: capture(ready, root), folder / "capture-probe"))
    pace /= ready.plan.prompts.tokens
    for count in prompts:
        some = prepared(count, context=100, sites=("embed", "final"))
        tokens = some.plan.prompts.tokens
        taken = _best(_numbered(lambda root: capture(some, root), folder / f"capture-{count}"))  # noqa: B023
        yield beside(f"capture of {tokens:,} tokens, `embed` and `final`", pace * tokens, taken)


def _pipelines(folder: Path, probe: Setup, setups: Sequence[Setup]) -> Iterator[Ratio]:
    """A model that costs nothing: encoding on every core, or the disk, sets the pace."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((2000, max(one.width for one in (probe, *setups))), np.float32)
    template = (values.view(np.uint32) >> 16).astype(np.uint16)
    constants = of_pipeline(folder, probe, template)
    for setup in setups:
        model = Model(name="none", parameters=0, width=setup.width, sites=setup.sites)
        stages = capture_stages(constants, model, 1, "disk")
        tokens = sum(setup.lengths)
        pipeline = Pipeline(setup, template)
        yield beside(
            f"pipeline of {setup.raw_bytes / 1e6:,.0f} MB, {setup}, {usable_cores()} cores",
            seconds_per_token(stages) * tokens,
            _best(_in_scratch(pipeline.run, folder)),
        )


def of_pipeline(folder: Path, setup: Setup, template: Bits) -> Constants:
    """Constants of this machine for encoding and for the disk.

    Encoding is timed by the processor, so it counts what every thread does, the copy that a card
    would do by itself included.
    """
    pipeline = Pipeline(setup, template)
    with scratch(folder) as own:
        pipeline.run(own / "warm")
        cpu = spent(lambda: pipeline.run(own / "probe")).cpu
        (run,) = open_store(own / "probe").runs.values()
        stored = rows_on_disk(run)
        part = bytes(1 << 20)
        parts = [part] * (stored >> 20 or 1)
        disk = seconds(lambda: write_files(parts, own / "files"))
    return replace(
        Constants(),
        squeeze=setup.raw_bytes / stored,
        encode=setup.raw_bytes / cpu,
        cores=usable_cores(),
        disk=len(parts) * len(part) / disk,
    )


def _in_scratch(call: Callable[[Path], object], folder: Path) -> Callable[[], None]:
    def run() -> None:
        with scratch(folder) as own:
            call(own / "store")

    return run


def _numbered(call: Callable[[Path], object], folder: Path) -> Callable[[], None]:
    numbers = iter(range(1_000_000))
    return lambda: (call(folder / str(next(numbers))), None)[1]


def _best(call: Callable[[], object], repeats: int = 3) -> float:
    """Median seconds, after one call that does not count."""
    if REPEATS > 1:
        call()
    return statistics.median(seconds(call) for _ in range(min(repeats, REPEATS)))


def beside(what: str, predicted: float, measured: float) -> Ratio:
    """How far a prediction is off: the larger of the two seconds over the smaller."""
    off = max(predicted / measured, measured / predicted)
    return ratio_once(
        f"simulator / this machine, {what}",
        f"{predicted:.3g} s",
        f"{measured:.3g} s",
        off,
        bar=BAR,
        bound="other work on the machine, or a cost that the simulator does not know",
    )


def main() -> None:
    """Print the constants of this machine, those of analysis by width."""
    template = np.random.default_rng(0).standard_normal((2000, PROBE.width), np.float32)
    with scratch() as folder:
        found = of_pipeline(folder, PROBE, (template.view(np.uint32) >> 16).astype(np.uint16))
        print(f"encode {found.encode / 1e9:.2f} GB/s a core, disk {found.disk / 1e9:.2f} GB/s")
    for width in (64, 128, 576, 1024, 4096):
        with scratch() as folder:
            start = time.perf_counter()
            found, fixed = of_analysis(folder, width)
            print(
                f"d = {width}: unpack {found.unpack / 1e9:.2f} GB/s, product "
                f"{found.product / 1e9:.0f} GFLOP/s, handle {found.handle / 1e6:.0f} M/s, solve "
                f"{found.solve / 1e9:.2f}e9 d^3/s, spare {found.spare:.2f}, fixed {fixed:.3f} s "
                f"({time.perf_counter() - start:.0f} s)",
                flush=True,
            )


if __name__ == "__main__":
    main()
