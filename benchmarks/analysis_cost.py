"""What analysing from the store costs beside the bare arithmetic on arrays in memory."""

import itertools
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pairs import Ratio, ratio_of_times, timed_pairs
from benchmarks.setting import store_of
from lpp.analyze import ProfileSettings, analyze, scan_spectra
from lpp.analyze.engine.executor import LocalExecutor
from lpp.store import Run, open_store
from lpp.store.format.keys import ANALYSIS_KEY

REPEATS = 5


def measure(run: Run) -> Iterator[Ratio]:
    """Ten prefixes of one site in the middle of the model."""
    root = store_of(run)
    site = run.sites[len(run.sites) // 2]
    bands = site_bands(run, site)

    def ours() -> None:
        forget(root)
        frame = scan_spectra(root).filter(run=run.id, site=site).collect()
        assert frame.height == len(run.plan.prefixes)

    yield ratio_of_times(
        "spectra of one site, ten prefixes / the bare products and eigensolves in memory, in turn",
        timed_pairs(ours, lambda: solve_in_turn(bands), REPEATS),
        bar=1.5,
        bound="the same arithmetic, on as many cores; opening the store and reading it",
    )


def of_every_site(root: Path) -> Iterator[Ratio]:
    """The command, all sites of all runs, nothing cached."""
    yield _beside_bare(root)

    def beside_others() -> None:
        with busy(2):
            profile(root)

    yield ratio_of_times(
        "the same command beside two busy processes / alone",
        timed_pairs(beside_others, lambda: profile(root), min(3, REPEATS)),
        bar=3,
        bound="four processes share the cores",
    )
    run = next(iter(open_store(root).runs.values()))
    yield ratio_of_times(
        f"one job / two jobs, {len(run.sites)} sites",
        timed_pairs(lambda: jobs(run, 2), lambda: jobs(run, 1), min(3, REPEATS)),
        bar=1.8,
        direction="at least",
        inverted=True,
        bound="what one thread does alone, and the memory that two share",
    )


def _beside_bare(root: Path) -> Ratio:
    """The command beside the same arithmetic on rows in memory."""
    sites = [site_bands(run, site) for run in open_store(root).runs.values() for site in run.sites]

    def bare() -> None:
        for bands in sites:
            solve_in_turn(bands)

    return ratio_of_times(
        f"`lpp-analyze profile --errors none`, {len(sites)} sites / their bare products and "
        "eigensolves in turn, rows in memory, all BLAS threads",
        timed_pairs(lambda: profile(root), bare, REPEATS),
        bar=1.0,
        bound="reading, and starting the command",
    )


def site_bands(run: Run, site: str) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """The rows of a site by position band, in memory."""
    blocks = list(run.blocks(site))
    rows = np.concatenate([block.values for block in blocks])
    position = np.concatenate([block.position for block in blocks])
    edges = np.append(0, run.plan.prefixes)
    return [rows[(position >= a) & (position < b)] for a, b in itertools.pairwise(edges)]


def solve_in_turn(bands: Sequence[np.ndarray[Any, Any]]) -> None:
    """Products and eigensolves of ten prefixes, as a script would do them."""
    dim = bands[0].shape[1]
    scatter = np.zeros((dim, dim))
    for band in bands:
        wide = band.astype(np.float64)
        scatter += wide.T @ wide
        np.linalg.eigvalsh(scatter)


def profile(root: Path) -> None:
    """The command in a process of its own."""
    forget(root)
    command = [sys.executable, "-m", "lpp.analyze.cli.command", "profile", str(root)]
    subprocess.run([*command, "--errors", "none"], check=True, capture_output=True)


def jobs(run: Run, count: int) -> None:
    """Every site of a run with so many threads."""
    root = store_of(run)
    forget(root)
    analyze(root, ProfileSettings(runs=[run.id], errors="none"), executor=LocalExecutor(count))


def forget(root: Path) -> None:
    """Make the next analysis a first one."""
    shutil.rmtree(root / ANALYSIS_KEY, ignore_errors=True)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that multiply matrices on one thread each."""
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_multiply, daemon=True) for _ in range(count)]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.join()


def _multiply() -> None:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        square = np.random.default_rng(os.getpid()).normal(size=(500, 500))
        while True:
            square = np.tanh(square @ square)
